"""Optical flow, computed and stored."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.field_faults import fault
from helpers.media_files import numbered, write_video

from mmzoo.data.fields.flow import Flow
from mmzoo.data.sources.source import File
from mmzoo.errors import MmzooError


# ---------------------------------------------------------------------- flow
def test_flow_is_the_motion_at_the_frames_that_are_shown(tmp_path: Path) -> None:
    pytest.importorskip("cv2", reason="needs opencv-python-headless")
    y, x = np.mgrid[:64, :64]
    texture = lambda dx: 128 + 60 * np.sin((x - dx) / 4) * np.cos(y / 5)  # noqa: E731
    frames = np.stack([texture(2 * t if t < 6 else 10) for t in range(12)]).astype(np.uint8)
    path = write_video(tmp_path / "a.avi", frames)
    flow = Flow(4, 64, bound=8).read(File(path))[""]
    assert flow.shape == (4, 64, 64, 2) and flow.dtype == np.uint8
    pixels = (flow.astype(float) / 255 * 16 - 8)[:, 20:44, 20:44].mean((1, 2))
    np.testing.assert_allclose(pixels, [[2, 0], [2, 0], [0, 0], [0, 0]], atol=0.35)
    assert fault(Flow(20, 64), File(path)).kind == "short"
    assert fault(Flow(2, 64), File(path, 3, 4)).kind == "short"


def test_stored_flow_is_clipped_and_counted_like_computed_flow(tmp_path: Path) -> None:
    flow = np.zeros((40, 40, 2, 8), np.float32)
    flow[:, :, 0], flow[:, :, 1] = 3 * np.arange(8), -5
    np.save(tmp_path / "0.npy", flow)
    found = Flow(4, 20, bound=10).read(File(tmp_path / "0.npy"))[""]
    np.testing.assert_allclose(found[:, 3, 3, 0] / 255 * 20 - 10, [3, 9, 10, 10], atol=0.05)
    np.testing.assert_allclose(found[..., 1] / 255 * 20 - 10, -5, atol=0.05)
    assert fault(Flow(9, 20), File(tmp_path / "0.npy")).kind == "short"
    for name, array, kind in (
        ("nan", flow * np.nan, "value"),
        ("flat", flow[0], "value"),
        ("text", np.array(["a"]), "value"),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        assert fault(Flow(4, 20), File(tmp_path / f"{name}.npy")).kind == kind
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert fault(Flow(4, 20), File(tmp_path / "pickle.npy")).kind == "broken"


def test_flow_without_opencv_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MmzooError, match="pip install"):
        Flow(2, 32).read(File(write_video(tmp_path / "a.avi", numbered(5))))

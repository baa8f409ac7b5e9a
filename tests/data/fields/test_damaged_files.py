"""Real files decode, and damaged ones are read or refused."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.field_faults import check_form
from helpers.media_files import real, tone, write_video, write_wav

from mmzoo.data.datasets.nvgesture import NVGesture
from mmzoo.data.fields.audio import Spectrogram
from mmzoo.data.fields.flow import Flow
from mmzoo.data.fields.image import Image
from mmzoo.data.fields.video import Frames
from mmzoo.data.sources.field import Field, MediaFault
from mmzoo.data.sources.source import FAULTS, File


# ---------------------------------------------------------------------- real gestures
def test_real_gestures_decode_slice_and_move() -> None:
    root = real("nvgesture_mini")
    listing = NVGesture().list(root, colour="sk_wrapped")
    items = {i.id: i for i in listing.items}
    paths = sorted((root / "Video_data").glob("*/*/sk_wrapped.avi"))
    assert len(paths) == 4
    for path in paths[:2]:
        item = items[f"{path.parent.parent.name}/{path.parent.name}"]
        rgb, depth = item.media["rgb"], item.media["depth"]
        assert isinstance(rgb, File) and isinstance(depth, File) and rgb.path == path
        if not depth.path.is_file():
            continue
        colour = Frames(80, 64).read(rgb)[""]
        assert colour.shape == (80, 64, 64, 3) and (colour[..., 0] != colour[..., 2]).mean() > 0.05
        grey = Frames(80, 64, channels=1).read(depth)[""]
        assert grey.shape == (80, 64, 64, 1)
        assert (grey.std(axis=0) > 0).mean() > 0.2
    pytest.importorskip("cv2", reason="needs opencv-python-headless")
    flow = Flow(8, 160).read(File(paths[0], 146, 226))[""]
    assert flow.shape == (8, 160, 160, 2) and (np.abs(flow.astype(int) - 127) > 6).mean() > 0.005


# ---------------------------------------------------------------------- files of strangers
def mutants(data: bytes, n: int, seed: int) -> list[bytes]:
    """Bytes changed, cut, repeated or inserted; mostly near the beginning, where headers are."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        x = bytearray(data)
        for _ in range(int(rng.integers(1, 8))):
            at = int(min(rng.exponential(len(x) / 6), len(x) - 1)) if len(x) > 1 else 0
            match rng.integers(4):
                case 0:
                    x[at : at + 1] = bytes([int(rng.integers(256))])
                case 1:
                    del x[at : at + int(rng.integers(1, 200))]
                case 2:
                    x[at:at] = rng.bytes(int(rng.integers(1, 20)))
                case _:
                    x[at : at + 4] = int(rng.choice([0, 1, 2**31 - 1, 2**32 - 1])).to_bytes(4, "little")
            if not x:
                x = bytearray(b"\0")
        made.append(bytes(x))
    return made


def seeds(tmp_path: Path) -> dict[str, tuple[bytes, Field]]:
    from PIL import Image as pil

    frames, sound = np.random.default_rng(0).integers(0, 255, (6, 32, 32), dtype=np.uint8), tone(0.3)
    small = Spectrogram(samples=3200, n_fft=64, hop=64)
    found: dict[str, tuple[bytes, Field]] = {
        "a.wav": (write_wav(tmp_path / "a.wav", sound).read_bytes(), small),
        "a.mp4": (write_video(tmp_path / "a.mp4", frames, sound=sound).read_bytes(), Frames(3, 16)),
        "a.avi": (write_video(tmp_path / "a.avi", frames).read_bytes(), Frames(3, 16)),
        "a.flv": (write_video(tmp_path / "a.flv", frames, codec="flv").read_bytes(), Frames(3, 16)),
    }
    found["b.mp4"] = (found["a.mp4"][0], small)
    for suffix in ("jpg", "png", "gif"):
        buffer = io.BytesIO()
        pil.fromarray(frames[0]).save(buffer, format="JPEG" if suffix == "jpg" else suffix)
        found[f"a.{suffix}"] = (buffer.getvalue(), Image(16))
    np.save(tmp_path / "a.npy", np.zeros((8, 8, 2, 6), np.float32))
    found["a.npy"] = ((tmp_path / "a.npy").read_bytes(), Flow(3, 8))
    return found


def test_damaged_files_are_read_or_told_and_nothing_else(tmp_path: Path) -> None:
    told = 0
    for k, (name, (data, field)) in enumerate(seeds(tmp_path).items()):
        path = tmp_path / f"mutant-{name}"
        for mutant in mutants(data, int(os.environ.get("MMZOO_MUTANTS", "25")), k):
            path.write_bytes(mutant)
            try:
                check_form(field, field.read(File(path)))
            except MediaFault as error:
                assert error.kind in FAULTS
                told += 1
    assert told > 20

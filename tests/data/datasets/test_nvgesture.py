"""NVGesture: spans and labels of the list."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.annotation_files import faults

from mmzoo.data.datasets.nvgesture import NVGesture
from mmzoo.data.sources.source import File
from mmzoo.errors import BadValue


def test_rows_of_nvgesture_give_spans_and_labels_of_the_list(tmp_path: Path) -> None:
    row = "path:./Video_data/class_01/subject3_r0 depth:sk_depth:146:226 color:sk_color:140:220 duo_left:duo_left:170:263 label:{} "
    bad = [
        row.format(0),
        row.format(26),
        row.format("x"),
        row.replace("class_01", "../.."),
        row.format(1).replace("146:226", "226:146"),
        row.format(1).replace("color:sk_color", "color:/etc/passwd"),
        "label:1",
        row.format(1).replace("226", "226" * 9),
    ]
    (tmp_path / "nvgesture_train_correct_v2.lst").write_text("\n".join([row.format(7), *bad]))
    (tmp_path / "nvgesture_test_correct_cvpr2016_v2.lst").write_text(row.format(25).replace("subject3", "subject20"))
    listing = NVGesture().list(tmp_path)
    train, test = listing.items
    folder = tmp_path / "Video_data/class_01/subject3_r0"
    assert (train.id, train.label, train.group, test.label, test.group) == (
        "class_01/subject3_r0",
        6,
        "subject3",
        24,
        "subject20",
    )
    assert train.media == {
        "rgb": File(folder / "sk_color.avi", 140, 220),
        "depth": File(folder / "sk_depth.avi", 146, 226),
        "flow": File(folder / "sk_color.avi", 140, 220),
    }
    assert faults(listing) == [("annotation", None, f"nvgesture_train_correct_v2.lst:{n}") for n in range(2, 10)]
    wrapped = NVGesture().list(tmp_path, colour="sk_wrapped", flow="stored").items[1]
    assert wrapped.media["rgb"] == File(tmp_path / "Video_data/class_01/subject20_r0/sk_wrapped.avi", 146, 226)
    assert wrapped.media["flow"] == File(tmp_path / "Video_data/flow_data/test/0.npy")
    assert set(NVGesture().list(tmp_path, flow="none").items[0].media) == {"rgb", "depth"}
    with pytest.raises(BadValue, match=r"no nvgesture_train_correct_cvpr2016\.lst"):
        NVGesture().list(tmp_path, lists="v1")
    with pytest.raises(BadValue, match="flow must be"):
        NVGesture().list(tmp_path, flow="tvl1")

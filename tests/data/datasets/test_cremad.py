"""CREMA-D: recordings, pictures, split lists, and faulty lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.annotation_files import by_id, cremad_lists, faults, path_of
from helpers.media_files import write_picture

from mmzoo.data.datasets.cremad import CremaD
from mmzoo.data.sources.source import Files
from mmzoo.errors import BadValue


def test_cremad_takes_sound_from_the_recordings_and_pictures_from_what_is_there(tmp_path: Path) -> None:
    cremad_lists(tmp_path)
    for name in ("VideoFlash/1001_IEO_NEU_XX.flv", "VideoMP4/1074_TIE_HAP_LO.mp4"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "Image-01-FPS" / "1091_WSI_ANG_XX").mkdir(parents=True)
    write_picture(tmp_path / "Image-01-FPS" / "1091_WSI_ANG_XX" / "00000.jpg")
    for split in ("ogm", "speaker", "hash"):
        items = by_id(CremaD().list(tmp_path, split=split))
        assert [path_of(i, "audio").name for i in items.values()] == [f"{i}.wav" for i in items]
        assert path_of(items["1001_IEO_NEU_XX"], "video").parent.name == "VideoFlash"
        assert path_of(items["1074_TIE_HAP_LO"], "video").suffix == ".mp4"
        assert items["1091_WSI_ANG_XX"].media["video"] == Files((tmp_path / "Image-01-FPS/1091_WSI_ANG_XX/00000.jpg",))
        sides = [i.split for i in items.values()]
        assert (
            sides
            == {"ogm": ["train", "train", "test"], "speaker": ["train", "holdout", "test"], "hash": [None] * 3}[split]
        )


def test_faulty_lines_of_cremad_are_told(tmp_path: Path) -> None:
    train = "1002_IEO_SAD_XX,HAP\n../../etc/passwd,NEU\n1003_IEO_XYZ_XX,XYZ\n1004_IEO_SAD_XX\n"
    listing = CremaD().list(cremad_lists(tmp_path, train), split="ogm")
    assert faults(listing) == [
        ("mislabelled", "1002_IEO_SAD_XX", "train.csv:3"),
        *(("annotation", None, f"train.csv:{n}") for n in (4, 5, 6)),
    ]
    assert by_id(listing)["1002_IEO_SAD_XX"].label == 2
    assert all(
        tmp_path in path_of(i, m).parents and ".." not in str(path_of(i, m)) for i in listing.items for m in i.media
    )


def test_an_empty_folder_is_answered_with_what_each_split_lacks_and_how_one_is_chosen(
    tmp_path: Path, mmzoo: Callable[..., Any]
) -> None:
    (tmp_path / "empty").mkdir()

    def refused(*arguments: object) -> str:
        done = mmzoo(*arguments)
        assert done.code == 2 and done.err.startswith("mmzoo: "), done
        return str(done.err).removeprefix("mmzoo: ").rstrip("\n")

    said = refused("data", "prepare", "cremad", "--root", tmp_path / "empty")
    assert said.startswith(
        f"cremad: no split can be read from {tmp_path / 'empty'}. Expected there: AudioWAV/<clip>.wav"
    )
    assert f"\n  speaker, hash: {tmp_path / 'empty'} holds neither SentenceFilenames.csv nor AudioWAV/*.wav" in said
    assert "\n  ogm: OGM-GE's split list train.csv is neither in" in said and "--set cremad.split=NAME" in said
    assert said.endswith(CremaD.obtain)
    for name in ("sarcasm", "twitter2015", "nvgesture"):  # one split each
        said = refused("data", "prepare", name, "--root", tmp_path / "empty")
        assert "there is no" in said and "Layout: " in said and "Source: " in said
    said = refused("data", "prepare", "cremad", "--root", tmp_path / "empty", "--splits", "speaker")
    assert (
        "--splits is the folder of the split lists" in said
        and "a bench chooses one: --set cremad.split=speaker" in said
    )


def test_split_lists_may_lie_elsewhere_and_are_asked_for_by_name(tmp_path: Path) -> None:
    lists, root = cremad_lists(tmp_path / "lists"), tmp_path / "root"
    (root / "AudioWAV").mkdir(parents=True)
    with pytest.raises(BadValue, match=r"train\.csv is neither in .*GeWu-Lab/OGM-GE_CVPR2022.*hash"):
        CremaD().list(root, split="ogm")
    assert len(CremaD().list(root, split="ogm", splits_dir=lists).items) == 3
    with pytest.raises(BadValue, match=r"neither SentenceFilenames\.csv nor AudioWAV"):
        CremaD().list(root, split="hash")
    (root / "AudioWAV" / "1001_IEO_NEU_XX.wav").touch()
    assert [i.id for i in CremaD().list(root, split="hash").items] == ["1001_IEO_NEU_XX"]
    (lists / "my_train_cre.txt").write_text("1085_IWL_SAD_XX.flv Sad\n1009_TIE_ANG_XX.flv Anger\n")
    (lists / "my_test_cre.txt").write_text("1059_TSI_HAP_XX.flv Happy\n1001_IEO_NEU_XX.flv Bored\n")
    listing = CremaD().list(root, split="mla", splits_dir=lists)
    assert [(i.id, i.label, i.split) for i in listing.items] == [
        ("1085_IWL_SAD_XX", 2, "train"),
        ("1009_TIE_ANG_XX", 5, "train"),
        ("1059_TSI_HAP_XX", 1, "test"),
    ]
    assert faults(listing) == [("annotation", None, "my_test_cre.txt:2")]

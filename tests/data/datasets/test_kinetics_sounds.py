"""Kinetics-Sounds: clips under all their names, and faulty lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.annotation_files import by_id, faults, ks_lists, path_of
from helpers.media_files import write_picture

from mmzoo.data.datasets.kinetics_sounds import CLASSES, KineticsSounds
from mmzoo.data.sources.source import Files
from mmzoo.errors import BadValue


def test_clips_are_found_under_all_their_names(tmp_path: Path) -> None:
    names = [
        "a/tap dancing/-0_ab-cdEFg_000058_000068.mp4",
        "train_wav/abc_efgh_jk.wav",
        "test/-zzzz_zzzzz_000002_000012.mkv",
        "replacement/-0_ab-cdEFg_000058_000068.mp4",
        "train/notes.mp4",
        "test/-zzzz_zzzzz_000099.mp4",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    frames = tmp_path / "train_img" / "Image-01-FPS" / "abc_efgh_jk"
    frames.mkdir(parents=True)
    for i in (10, 9):
        write_picture(frames / f"{i}.jpg")
    items = by_id(KineticsSounds().list(ks_lists(tmp_path), split="ogm"))
    first, second, third = (items[i] for i in ("-0_ab-cdEFg_000058", "abc_efgh_jk_000001", "-zzzz_zzzzz_000002"))
    assert (first.label, second.label, third.label, third.split) == (4, 30, 23, "test")
    assert path_of(first, "video") == path_of(first, "audio") == tmp_path / names[3]
    assert path_of(second, "audio") == tmp_path / names[1]
    assert second.media["video"] == Files((frames / "9.jpg", frames / "10.jpg"))
    assert path_of(third, "video") == tmp_path / names[2]
    for name in names:
        (tmp_path / name).unlink()
    assert path_of(by_id(KineticsSounds().list(tmp_path, split="hash"))[first.id], "audio").name == f"{first.id}.mp4"


def test_faulty_lines_of_kinetics_sounds_are_told(tmp_path: Path) -> None:
    ks_lists(tmp_path)
    bad = [
        "short_1_2,10,3",
        "-0_ab-cdEFg_000058_000068,10,31",
        "../../../../x_1,10,1",
        "-0_ab-cdEFg,10",
        "-0_ab-cdEFg,10,x",
        "-0_ab-cdEFg,10,³",
    ]
    (tmp_path / "my_train.txt").write_text(
        "\ufeff-0_ab-cdEFg_000058_000068,10,4\r\n\r\n" + "\n".join(bad), encoding="utf-8"
    )
    listing = KineticsSounds().list(tmp_path, split="ogm")
    assert faults(listing) == [("annotation", None, f"my_train.txt:{n}") for n in range(3, 9)]
    assert len(listing.items) == 2


def test_other_forms_of_kinetics_sounds(tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    for side, name in (("train", "tickling"), ("test", "tap dancing")):
        (tmp_path / f"my_{side}_ks.txt").write_text(
            f"-0_{side}aaaaaaa"[:11] + f".mp4 {name}\n-0_ab-cdEFg.mp4 strumming guitar\n"
        )
        (tmp_path / "annotations" / f"{side}.csv").write_text(
            f"label,youtube_id\n{name},{f'-1_{side}aaaaaaa'[:11]}\nstrumming guitar,-0_ab-cdEFg\n"
        )
    for split in ("mla", "njust"):
        listing = KineticsSounds().list(tmp_path, split=split)
        assert [(CLASSES[i.label], i.split) for i in listing.items] == [("tickling", "train"), ("tap dancing", "test")]
        assert [f.kind for f in listing.faults] == ["annotation"] * 2
    for split in ("ogm", "k400", "hash"):
        with pytest.raises(BadValue, match=r"neither in .*--splits DIR"):
            KineticsSounds().list(tmp_path, split=split)

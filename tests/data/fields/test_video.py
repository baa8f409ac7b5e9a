"""Frames of videos, and every fault by its kind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.field_faults import fault
from helpers.media_files import numbered, tone, write_picture, write_video, write_wav
from hypothesis import given
from hypothesis import strategies as st

from mmzoo.data.fields.video import Frames, centres
from mmzoo.data.sources.source import File, Files

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132\n"


# ---------------------------------------------------------------------- frames
@given(n=st.integers(1, 200), among=st.integers(1, 2000))
def test_frames_are_the_middles_of_equal_segments(n: int, among: int) -> None:
    found = centres(n, among)
    assert len(found) == n and found == sorted(found) and found[0] >= 0 and found[-1] < among
    assert all(f <= (2 * i + 1) * among / (2 * n) < f + 1 for i, f in enumerate(found))
    if among >= n:
        assert len(set(found)) == n
        assert centres(among, among) == list(range(among))


def levels(clip: np.ndarray) -> list[int]:
    """Which of `numbered`'s frames these are."""
    return [round((float(f.mean()) - 16) / 8) for f in clip]


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_frames_of_a_video_are_those_that_are_asked_for(suffix: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / f"a{suffix}", numbered(25))
    read = lambda field, *span: levels(field.read(File(path, *span))[""])  # noqa: E731
    assert read(Frames(5, 32)) == centres(5, 25)
    assert read(Frames(25, 16)) == list(range(25))
    assert read(Frames(3, 32, pick="first")) == [0, 1, 2]
    assert read(Frames(3, 32, pick="starts")) == [0, 8, 16]
    assert read(Frames(3, 32, pick="first", every="second")) == [0, 10, 20]
    assert read(Frames(5, 32, pick="first", every="second", few="repeat")) == [0, 10, 20, 20, 20]
    assert read(Frames(4, 32), 7, 15) == [8, 10, 12, 14]
    assert read(Frames(8, 32), 7, 15) == list(range(7, 15))
    grey = Frames(5, 32, channels=1).read(File(path))[""]
    assert grey.shape == (5, 32, 32, 1) and levels(grey) == centres(5, 25)
    assert (Frames(5, 32).read(File(path))[""] == Frames(5, 32).read(File(path))[""]).all()


def test_a_clip_with_too_few_frames_is_short_and_can_be_kept(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", numbered(4))
    found = fault(Frames(10, 32), File(path))
    assert found.kind == "short" and "4 frames where 10" in found.message and found.arrays is not None
    assert levels(found.arrays[""]) == centres(10, 4)
    beyond = fault(Frames(2, 32), File(path, 2, 9))
    assert beyond.kind == "short" and "goes to 9" in beyond.message and beyond.arrays is not None
    assert fault(Frames(2, 32), File(path, 7, 9)).arrays is None


def test_a_folder_of_frames_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for i in (10, 2, 1, 9, 3):
        write_picture(tmp_path / f"frame_{i}.jpg", 8 * i + 16)
    for other in ("Thumbs.db", "list.txt", ".hidden.jpg"):
        (tmp_path / other).write_text("no picture")
    assert levels(Frames(5, 16).read(File(tmp_path))[""]) == [1, 2, 3, 9, 10]
    assert levels(Frames(2, 16).read(File(tmp_path, 1, 4))[""]) == [2, 9]
    files = Files(tuple(tmp_path / f"frame_{i}.jpg" for i in (3, 1)))
    assert levels(Frames(2, 16, every="second").read(files)[""]) == [3, 1]
    (tmp_path / "frame_2.jpg").write_text("broken")
    broken = fault(Frames(5, 16), File(tmp_path))
    assert broken.kind == "broken" and "frame_2.jpg" in broken.message
    (tmp_path / "none").mkdir()
    assert fault(Frames(5, 16), File(tmp_path / "none")).kind == "empty"
    assert fault(Frames(5, 16), Files(())).kind == "empty"


def test_what_is_wrong_with_a_video_is_told_by_its_kind(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mp4", numbered(20)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # its index stood at the end
    (tmp_path / "lfs.flv").write_text(LFS)
    (tmp_path / "empty.avi").write_bytes(b"")
    write_wav(tmp_path / "sound.wav", tone(1.0)).rename(tmp_path / "sound.avi")
    (tmp_path / "list.mp4").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{tmp_path / 'a.mp4'}\n#EXT-X-ENDLIST\n"
    )
    kinds = {
        "cut.mp4": "broken",
        "lfs.flv": "lfs_pointer",
        "empty.avi": "empty",
        "sound.avi": "broken",
        "list.mp4": "broken",
        "none.mp4": "missing",
    }
    assert {name: fault(Frames(3, 32), File(tmp_path / name)).kind for name in kinds} == kinds


def test_a_video_that_ends_early_shows_what_is_there(tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mkv", numbered(25, 64)).read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: 2 * len(whole) // 3])
    found = levels(Frames(4, 32).read(File(tmp_path / "cut.mkv"))[""])
    assert found == sorted(found) and 0 < found[-1] < 24

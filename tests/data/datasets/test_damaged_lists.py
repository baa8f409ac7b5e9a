"""Annotation files with every fault: each is named, and none is a traceback."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.annotation_files import cremad_lists, faults, ks_lists, sarcasm_files, twitter_files
from helpers.media_files import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.data.datasets import nvgesture, sarcasm
from mmzoo.data.datasets.cremad import CremaD
from mmzoo.data.datasets.kinetics_sounds import KineticsSounds
from mmzoo.data.datasets.nvgesture import NVGesture
from mmzoo.data.datasets.sarcasm import Sarcasm
from mmzoo.data.datasets.twitter2015 import Twitter2015
from mmzoo.data.sources import textfiles
from mmzoo.data.sources.source import File, Source
from mmzoo.errors import BadValue, MmzooError

SOURCES: tuple[type[Source], ...] = (KineticsSounds, CremaD, Sarcasm, Twitter2015, NVGesture)


# ---------------------------------------------------------------------- for all
@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.name)
def test_a_folder_of_something_else_is_refused_with_the_next_step(source: type[Source], tmp_path: Path) -> None:
    assert source.layout and source.obtain and source.splits
    for split in source.splits:
        for root in (tmp_path, tmp_path / "none"):
            with pytest.raises(BadValue) as caught:
                source().list(root, split=split)
            assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.name)
def test_recipes_list_what_they_read(source: type[Source], tmp_path: Path) -> None:
    files = {
        "cremad": cremad_lists,
        "kinetics_sounds": ks_lists,
        "sarcasm": lambda r: sarcasm_files(r, "['1', 'a', 1]\n"),
        "twitter2015": lambda r: twitter_files(r, ["1\t0\t1.jpg\t$T$ .\tA\n"]),
        "nvgesture": nvgesture_files,
    }
    root = files[source.name](tmp_path)  # type: ignore[operator]
    for recipe in source.recipes().values():
        listing = source().list(root, split=next(iter(source.splits)), **recipe.options)
        assert listing.items and all(set(i.media) == set(recipe.fields) for i in listing.items), recipe.name
        assert all(p.exists() for p in listing.sources)


def nvgesture_files(root: Path) -> Path:
    row = "path:./Video_data/class_01/subject3_r0 depth:sk_depth:0:80 color:sk_color:0:80 label:1\n"
    for side in ("train", "test"):
        for name in (n.format(side) for v in nvgesture.LISTS.values() for n in v):
            (root / name).write_text(row.replace("subject3", "subject3" if side == "train" else "subject5"))
    return root


def test_a_list_that_was_not_pulled_or_is_no_text_says_so(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(BadValue, match="git lfs pull"):
        textfiles.lines_of(tmp_path / "a")
    (tmp_path / "b").write_bytes("\ufeffone\r\ntwo\u2028\x85\n".encode() + b"\xff\n")
    assert textfiles.lines_of(tmp_path / "b") == ["one", "two\u2028\x85", "\ufffd"]


PARSERS: tuple[Callable[[str], Any], ...] = (
    lambda line: sarcasm.parsed(line, labels=1),
    lambda line: sarcasm.parsed(line, labels=2),
    nvgesture.parsed,
)
LINES = (
    "['910308516510011393', 'most # funny', 1]",
    "['8', \"it's\", 0, 1]",
    "path:./Video_data/class_01/subject3_r0 depth:sk_depth:146:226 color:sk_color:146:226 label:1 ",
)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.sampled_from(LINES), st.integers(0, 80), st.integers(0, 10))
def test_any_line_is_a_row_or_told(inserted: str, line: str, at: int, cut: int) -> None:
    mutant = line[:at] + inserted + line[at + cut :]
    for parse in PARSERS:
        assert parse(mutant)


def test_files_full_of_mutations_are_listed_without_a_traceback(tmp_path: Path) -> None:
    rng = random.Random(0)
    makers = {
        CremaD: cremad_lists,
        KineticsSounds: ks_lists,
        Sarcasm: lambda r: sarcasm_files(r, "\n".join(LINES[:1] * 9)),
        Twitter2015: lambda r: twitter_files(r, ["1\t0\t1.jpg\t$T$ .\tA\n"]),
        NVGesture: nvgesture_files,
    }
    for source, make in makers.items():
        for k in range(8):
            root = tmp_path / f"{source.name}{k}"
            root.mkdir()
            make(root)  # type: ignore[operator]
            for path in [p for p in root.rglob("*") if p.is_file()]:
                x = bytearray(path.read_bytes() * 3)
                for _ in range(rng.randint(1, 12)):
                    x[rng.randrange(len(x))] = rng.choice(b"\x00\xff\n\r\t ,:'\"[]$0129/.")
                path.write_bytes(bytes(x))
            for split in source.splits:
                try:
                    listing = source().list(root, split=split)
                except MmzooError:
                    continue
                assert all(0 <= i.label < len(listing.classes) for i in listing.items)
                assert all(
                    root in p.parents
                    for i in listing.items
                    for m in i.media.values()
                    if isinstance(m, File)
                    for p in [m.path]
                )
                faults(listing)


def test_the_real_files_are_looked_for_beside_the_source_tree() -> None:
    assert SHARED.parent.name == "shared"

"""The listing, the drawings, and the data set as an installed stranger."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mmzoo_openmoji", reason="mmzoo-openmoji is not installed")

from mmzoo_openmoji.emoji_pair import EmojiPair
from mmzoo_openmoji.openmoji import CLASSES, OpenMoji, stem
from mmzoo_openmoji.svg import Drawing

from mmzoo.data.sources.field import MediaFault
from mmzoo.data.sources.source import File, Listing
from mmzoo.data.store.splits import completed_split
from mmzoo.testing import check_installed, run_program

SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><g id="color"><rect width="8" height="4" fill="#ff0000"/></g>'
    '<g id="line"><rect y="6" width="8" height="2" fill="#000000"/></g></svg>'
)


@pytest.fixture(scope="module")
def listing() -> Listing:
    source = OpenMoji()
    return source.list(source.root)


def test_every_group_is_there_and_every_file_exists(listing: Listing) -> None:
    assert len(listing.items) > 1500 and {i.label for i in listing.items} == set(range(len(CLASSES)))
    assert len({i.id for i in listing.items}) == len(listing.items)
    assert all(i.media["image"].path.is_file() for i in listing.items)
    assert all("skin tone" not in i.media["text"].text for i in listing.items)


def test_the_pair_takes_what_both_vendors_draw(listing: Listing, tmp_path: Path) -> None:
    for name in ("1f600", "1f468-200d-1f33e", "1f3cb-fe0f-200d-2640-fe0f", "231a", "1f1e9-1f1ea"):
        (tmp_path / f"{name}.svg").write_text(SVG)
    found = {i.id: i for i in EmojiPair().list(tmp_path).items}
    assert sorted(found) == ["1F3CB-200D-2640", "1F468-200D-1F33E", "1F600", "231A"]
    alone = {i.id: i for i in listing.items}
    for code, item in found.items():
        assert (item.label, item.group, item.split) == (alone[code].label, alone[code].group, alone[code].split)
        assert item.media["openmoji"] == alone[code].media["image"] and item.media["text"] == alone[code].media["text"]
        assert item.media["twemoji"].path.is_file()


def test_variants_of_one_drawing_are_on_one_side(listing: Listing) -> None:
    items = listing.items
    splits = completed_split(
        [i.id for i in items],
        [i.label for i in items],
        [i.split or "" for i in items],
        [i.group for i in items],
        salt="openmoji",
    )
    side = {row: name for name, rows in splits.items() for row in rows}
    assert sorted(side) == list(range(len(items)))
    sides: dict[str, set[str]] = {}
    for row, item in enumerate(items):
        sides.setdefault(str(item.group), set()).add(side[row])
    assert all(len(names) == 1 for names in sides.values())
    drawn = {i.id: sides[str(i.group)] for i in items}
    assert drawn["1F3C3"] == drawn["1F3C3-200D-2640"] == drawn["1F3C3-200D-2642"]  # who is running


@pytest.mark.parametrize(
    ("group", "code", "name", "expected"),
    [
        ("People & Body", "1F468-200D-1F33E", "male-farmer", "1F33E"),
        ("People & Body", "1F9D1-200D-1F33E", "farmer", "1F33E"),
        ("People & Body", "1F469", "woman", "people"),
        ("Travel & Places", "1F552", "clock3", "clock"),
        ("Animals & Nature", "1F43A", "wolf", "wolf"),
        ("Symbols", "31", "1234", "1234"),
    ],
)
def test_stems(group: str, code: str, name: str, expected: str) -> None:
    assert stem(group, code, name) == expected


def test_a_drawing_and_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.svg"
    path.write_text(SVG)
    colour = Drawing(8).read(File(path))[""]
    assert colour[1, 4].tolist() == [255, 0, 0] and colour[5, 4].tolist() == [255, 255, 255]
    line = Drawing(8, "line").read(File(path))[""]
    assert line.shape == (8, 8, 1) and line[1, 4] == 255 and line[7, 4] == 0
    assert np.array_equal(colour, Drawing(8).read(File(path))[""])


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("", "empty"),
        ("<html/>", "broken"),
        ("<svg", "broken"),
        ('<!DOCTYPE s [<!ENTITY a "b">]><svg/>', "broken"),
        ('<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"></svg>', "empty"),
        (None, "missing"),
    ],
)
def test_files_that_cannot_be_drawn(tmp_path: Path, content: str | None, kind: str) -> None:
    path = tmp_path / "a.svg"
    if content is not None:
        path.write_text(content)
    with pytest.raises(MediaFault) as fault:
        Drawing(8).read(File(path))
    assert fault.value.kind == kind


def test_installed_as_a_stranger(tmp_path: Path) -> None:
    """It is listed, prepared without being asked for, and benched."""
    mmzoo = partial(run_program, cwd=tmp_path, MMZOO_HOME=str(tmp_path / "home"))
    check_installed("mmzoo-openmoji", tmp_path)
    mmzoo(
        "bench",
        "--method",
        "ogm",
        "--no-references",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--datasets",
        "openmoji",
        "--out",
        "results",
    )
    (row,) = json.loads(mmzoo("report", "results", "--format", "json"))["rows"]
    assert row["status"] == "ok" and row["metrics"]["n_scored"] > 300

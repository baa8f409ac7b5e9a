"""The annotation files of the five data sets: counts of the published ones."""

from __future__ import annotations

import collections
import csv
from pathlib import Path

import pytest
from helpers.annotation_files import by_id, faults, path_of
from helpers.media_files import real

from mmzoo.data.datasets import twitter2015
from mmzoo.data.datasets.cremad import CremaD
from mmzoo.data.datasets.kinetics_sounds import KineticsSounds
from mmzoo.data.datasets.nvgesture import NVGesture
from mmzoo.data.datasets.sarcasm import Sarcasm
from mmzoo.data.datasets.twitter2015 import Twitter2015
from mmzoo.data.sources.source import File, Listing, Text

#: clips of each class, in the order of the classes
KINETICS_TRAIN = """
268 690 607 512 497 445 635 478 457 605 563 486 604 592 366 339 333 489 653 538 654 386 281 493 395
672 197 523 433 354 254
"""
KINETICS_TEST = """
81 92 87 87 87 68 90 90 86 79 91 88 73 85 86 91 82 84 90 90 83 91 80 92 79 66 85 84 91 76 63
"""


def counts(listing: Listing, split: str | None) -> list[int]:
    found = collections.Counter(i.label for i in listing.items if i.split == split)
    return [found[c] for c in range(len(listing.classes))]


# ---------------------------------------------------------------------- published files
def test_published_kinetics_sounds() -> None:
    root = real("kinetics_sounds")
    listing = KineticsSounds().list(root, split="ogm")
    assert not listing.faults and list(listing.classes) == (root / "classes31.txt").read_text().split("\n")[:31]
    assert counts(listing, "train") == [int(n) for n in KINETICS_TRAIN.split()]
    assert counts(listing, "test") == [int(n) for n in KINETICS_TEST.split()]
    items = list(by_id(listing).values())
    assert [(i.id, i.label, i.group) for i in items[:3]] == [
        ("--4-0ihtnBU_000058", 4, "--4-0ihtnBU"),
        ("--6q_33gNew_000132", 27, "--6q_33gNew"),
        ("-00nar1nEPc_000033", 13, "-00nar1nEPc"),
    ]
    assert items[14_799].id == "-3Mwkq-7TV4_000002" and items[14_799].label == 23
    groups = {s: {i.group for i in items if i.split == s} for s in ("train", "test")}
    assert not groups["train"] & groups["test"]


def test_published_kinetics_400(tmp_path: Path) -> None:
    text = (real("kinetics_sounds") / "k400_val_ks31.csv").read_text()
    for name in ("kinetics_train.csv", "validate.csv"):
        (tmp_path / name).write_text(text + "abseiling,0wR5jVB-WPk,417,427,val,0\n")
    listing = KineticsSounds().list(tmp_path, split="k400")
    assert not listing.faults and sum(counts(listing, "test")) == 1544
    assert all(48 <= n <= 50 for n in counts(listing, "test"))


@pytest.mark.parametrize("split", ["ogm", "speaker", "hash"])
def test_published_cremad(split: str) -> None:
    root = real("cremad")
    listing = CremaD().list(root, split=split)
    items = by_id(listing)
    assert len(items) == 7442 and faults(listing) == [("mislabelled", "1064_IEO_DIS_MD", "")]
    assert len({i[:4] for i in items}) == 91
    if split == "ogm":
        assert counts(listing, "train") == [973, 1148, 1131, 1138, 1142, 1166]
        assert counts(listing, "test") == [114, 123, 140, 133, 129, 105]
        assert [(i.id, i.label) for i in listing.items[:3]] == [
            ("1088_IOM_NEU_XX", 0),
            ("1017_IWW_HAP_XX", 1),
            ("1033_ITS_HAP_XX", 1),
        ]
        assert {i.group for i in listing.items} == {None}
        with (root / "media_manifest.csv").open() as file:
            assert {row["clip"] for row in csv.DictReader(file)} == set(items)
    else:
        assert {i.group for i in listing.items} == {i[:4] for i in items}
        sides = {s: {i.group for i in listing.items if i.split == s} for s in ("train", "holdout", "test")}
        assert [len(g) for g in sides.values()] == ([73, 9, 9] if split == "speaker" else [0, 0, 0])


@pytest.mark.parametrize(
    ("filter", "train"), [("tokens", [11_174, 8_642]), ("substring", [11_172, 8_385]), ("none", [14_784, 14_256])]
)
def test_published_sarcasm(filter: str, train: list[int]) -> None:
    listing = Sarcasm().list(real("sarcasm"), filter=filter)
    assert not listing.faults and counts(listing, "train") == train
    assert counts(listing, "holdout") == [1451, 959] and counts(listing, "test") == [1450, 959]
    assert sum(train) == {"tokens": 19_816, "substring": 19_557, "none": 29_040}[filter]
    items = by_id(listing)
    assert all(type(i) is str and i.isdigit() for i in items) and max(map(int, items)) > 2**53
    assert items["840006160660983809"].media["text"] == Text(
        "<user> thanks for showing up for our appointment today . "
    )
    if filter == "tokens":
        assert "9,224 rows" in listing.split_source and "910308516510011393" not in items


def test_published_twitter2015() -> None:
    root = real("twitter2015")
    listing = Twitter2015().list(root)
    assert not listing.faults
    assert [counts(listing, s) for s in ("train", "holdout", "test")] == [
        [368, 1883, 928],
        [149, 670, 303],
        [113, 607, 317],
    ]
    groups = [{i.group for i in listing.items if i.split == s} for s in ("train", "holdout", "test")]
    assert [len(g) for g in groups] == [2101, 727, 674] and not groups[0] & groups[1] | groups[0] & groups[2] | groups[
        1
    ] & groups[2]
    items = by_id(listing)
    assert items["train-1"].media["text"] == Text("RT @ ltsChuckBass : Chuck Bass is everything # MCM", "Chuck Bass")
    assert items["train-2"].label == 1 and items["test-1"].label == 1 and items["test-2"].label == 2
    assert path_of(items["test-1"], "image").name == "74960.jpg"
    for stem in ("train", "dev", "test"):
        table, blocks = (
            dict(read(root / f"{stem}.{suffix}"))
            for read, suffix in ((twitter2015.read_tsv, "tsv"), (twitter2015.read_txt, "txt"))
        )
        assert table.keys() == blocks.keys()
        assert all(isinstance(r, twitter2015.Row) and r.label == blocks[n].label for n, r in table.items())  # type: ignore[union-attr]


@pytest.mark.parametrize("lists", ["v1", "v2"])
def test_published_nvgesture(lists: str) -> None:
    root = real("nvgesture")
    listing = NVGesture().list(root, lists=lists)
    assert not listing.faults and list(listing.classes) == (root / "class_names.txt").read_text().strip().split("\n")
    items = by_id(listing)
    assert [sum(counts(listing, s)) for s in ("train", "test")] == [1050, 482]
    limits = {"v1": (38, 45, 16, 21), "v2": (36, 50, 15, 22)}[lists]
    assert (
        min(counts(listing, "train")),
        max(counts(listing, "train")),
        min(counts(listing, "test")),
        max(counts(listing, "test")),
    ) == limits
    subjects = {
        s: {int((i.group or "").removeprefix("subject")) for i in listing.items if i.split == s}
        for s in ("train", "test")
    }
    assert subjects == {"train": {1, 2, 3, 4, 6, 7, 11, 12, 15, 16, 17, 18}, "test": {5, 8, 9, 13, 14, 20}}
    spans = {(m.end or 0) - (m.start or 0) for i in listing.items for m in i.media.values() if isinstance(m, File)}
    assert spans == {80}
    other = by_id(NVGesture().list(root, lists="v1" if lists == "v2" else "v2"))
    changed = [i for i in items if items[i].label != other[i].label]
    assert [sum(items[i].split == s for i in changed) for s in ("train", "test")] == [15, 8]
    in_folder = [i for i in items if int(i[6:8]) - 1 == items[i].label]
    assert len(in_folder) == 1532 - (23 if lists == "v2" else 0)

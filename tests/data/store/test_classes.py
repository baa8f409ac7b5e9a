"""What is said of classes that look wrong."""

from __future__ import annotations

import pytest

from mmzoo.data.store.classes import listed_classes, remarks, set_remarks


def said(classes: list[str], totals: list[int] | None = None) -> str:
    totals = totals or [10] * len(classes)
    nothing = [1] * len(classes)
    sets = {"train": [n - 3 for n in totals], "slice": nothing, "holdout": nothing, "test": nothing}
    return " / ".join(remarks(classes, {"hash": sets}))


@pytest.mark.parametrize(
    ("classes", "word"),
    [
        (["1", "1.0"], "'1' and '1.0' differ only in how they are written"),
        (["cat", "Cat", "dog"], "'cat' and 'Cat' differ"),
        (["very good", "very_good"], "differ only"),
        (["caf\u00e9", "cafe\u0301"], "differ only"),
        (["a", "nan"], "'nan' (10 samples) looks like a missing label"),
        (["a", "NA"], "looks like a missing label"),
        (["A", "B", "A|B"], "several labels in one: 'A|B'"),
        (["rock, pop", "pop, jazz", "jazz, rock"], "several labels in one"),
        ([f"{i / 7:.3f}" for i in range(40)], "continuous target"),
        ([str(i) for i in range(40)], ""),
        (["a", "b"], ""),
        (["1", "2", "10"], ""),
        (["Rock & Roll", "Jazz"], ""),
    ],
)
def test_labels_that_look_wrong(classes: list[str], word: str) -> None:
    assert word in said(classes) if word else not said(classes)


def test_labels_that_are_ids() -> None:
    assert "nearly every sample has its own class" in said([f"u{i}x" for i in range(40)], [1] * 40)


def test_sets_that_lack_classes() -> None:
    classes = [f"c{i}" for i in range(8)]
    sets = {"train": [3] * 8, "slice": [1] * 8, "holdout": [1] * 8, "test": [9, *[0] * 7]}
    found = " / ".join(set_remarks(classes, sets))
    assert "7 of 8 classes have no test sample: 'c1', 'c2', 'c3', 'c4', 'c5' and 2 more" in found
    assert "all test samples are of the class 'c0': mAP" in found
    sets = {"train": [3, 3, 0], "slice": [0, 0, 0], "holdout": [1, 1, 0], "test": [1, 1, 0]}
    found = " / ".join(set_remarks(["a", "b", "c"], sets))
    assert "1 of 3 classes has no sample at all: 'c'" in found and "no meta set" in found


def test_classes_of_unequal_size_are_told_with_the_metric_that_counts_them_alike() -> None:
    assert not said(["a", "b", "c"], [40, 20, 10])
    found = said(["stable", "critical", "other"], [140, 20, 50])
    assert found.startswith(
        "the class 'stable' has 7 times the samples of 'critical' (140 and 20): accuracy hardly shows"
    )
    assert "metric: macro_f1" in found


def test_classes_are_listed_with_their_counts() -> None:
    assert listed_classes(["a", "b"], {"hash": {"train": [3, 1200]}}) == "2 classes: 'b' 1,200, 'a' 3"
    assert listed_classes([f"c{i}" for i in range(30)], {"hash": {"test": list(range(30))}}).endswith(
        "and 10 more, down to 'c0' 0"
    )

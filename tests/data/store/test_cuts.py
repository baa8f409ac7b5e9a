"""How samples that nobody places are cut into four sets: sizes, small classes, groups of unequal size."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.data.store.splits import completed_split
from mmzoo.errors import BadValue

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=60)


def cut(labels: list[int], groups: list[str] | None = None, *, meta_set: bool = True) -> dict[str, list[int]]:
    n = len(labels)
    items = [f"s{i}" for i in range(n)]
    return completed_split(items, labels, [""] * n, groups or [""] * n, salt="x", meta_set=meta_set)


@pytest.mark.parametrize("a_class", [2, 3, 4, 5, 6, 7, 8, 10])
def test_many_small_classes_give_sets_of_the_stated_shares(a_class: int) -> None:
    n = 60 * a_class
    found = {name: len(rows) for name, rows in cut([i % 60 for i in range(n)]).items()}
    rest = n - found["test"]
    assert abs(found["test"] - n / 5) <= 0.1 * n / 5
    assert abs(found["holdout"] - rest / 10) <= 0.1 * rest / 10 + 1
    assert sum(found.values()) == n


@FIXED
@given(st.lists(st.integers(1, 9), min_size=2, max_size=30).filter(lambda c: sum(c) >= 8 and max(c) > 1))
def test_no_cut_takes_the_last_training_sample_of_a_class(sizes: list[int]) -> None:
    labels = [c for c, n in enumerate(sizes) for _ in range(n)]
    try:
        found = cut(labels)
    except BadValue as error:
        assert "smallest class has" in str(error)
        return
    trained = Counter(labels[r] for r in found["train"])
    assert set(trained) == set(range(len(sizes)))
    assert sorted(r for rows in found.values() for r in rows) == list(range(len(labels)))


def test_a_rare_class_is_not_only_tested() -> None:
    labels = [i % 2 for i in range(120)] + [2 + i // 2 for i in range(40)]
    found = cut(labels)
    tested = Counter(labels[r] for r in found["test"])
    assert all(tested[c] <= 1 for c in range(2, 22)) and len(found["test"]) == 32


def test_where_nothing_can_be_cut_the_smallest_class_is_named() -> None:
    with pytest.raises(BadValue, match=r"5 samples of 5 classes are too few, the smallest class has 1"):
        cut(list(range(5)))


@pytest.mark.parametrize("sizes", [(356, 280, 40, 14), (1000, 10, 10, 10), (5, 5, 5, 5)])
def test_four_groups_give_four_sets(sizes: tuple[int, ...]) -> None:
    groups = [f"g{k}" for k, n in enumerate(sizes) for _ in range(n)]
    found = cut([i % 2 for i in range(len(groups))], groups)
    of = {name: {groups[r] for r in rows} for name, rows in found.items()}
    assert all(len(names) == 1 for names in of.values()) and len(set.union(*of.values())) == 4


def test_three_groups_do_without_a_meta_set_and_two_are_refused() -> None:
    groups = ["a"] * 30 + ["b"] * 20 + ["c"] * 10
    found = cut([i % 2 for i in range(60)], groups)
    assert not found["slice"] and all(found[name] for name in ("train", "holdout", "test"))
    with pytest.raises(BadValue, match="there are 2 groups"):
        cut([i % 2 for i in range(50)], groups[:50])


def test_a_meta_set_can_be_left_out() -> None:
    labels = [i % 3 for i in range(90)]
    with_one, without = cut(labels), cut(labels, meta_set=False)
    assert not without["slice"] and without["test"] == with_one["test"] and without["holdout"] == with_one["holdout"]
    assert without["train"] == sorted(with_one["train"] + with_one["slice"])

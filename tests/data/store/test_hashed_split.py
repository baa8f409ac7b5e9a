"""A split by hash does not depend on the order of samples."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.data.store.splits import hashed_split, split_hash

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=60)


# ---------------------------------------------------------------------- splits
@FIXED
@given(n=st.integers(1, 60), classes=st.integers(1, 4), extra=st.integers(1, 10))
def test_a_hashed_split_is_a_partition_that_the_order_of_items_does_not_change(
    n: int, classes: int, extra: int
) -> None:
    shares = {"train": Fraction(1, 2), "slice": Fraction(1, 10), "holdout": Fraction(1, 5), "test": Fraction(1, 5)}
    items, labels = [f"item-{i}" for i in range(n)], [i % classes for i in range(n)]
    split = hashed_split(items, labels, shares, salt="s")
    assert sorted(r for rows in split.values() for r in rows) == list(range(n))
    back = hashed_split(items[::-1], labels[::-1], shares, salt="s")
    where = {items[r]: name for name, rows in split.items() for r in rows}
    assert where == {items[::-1][r]: name for name, rows in back.items() for r in rows}
    assert n < 8 or split != hashed_split(items, labels, shares, salt="t") or len(set(where.values())) == 1
    assert split_hash(items, split) == split_hash(items, dict(reversed(split.items())))

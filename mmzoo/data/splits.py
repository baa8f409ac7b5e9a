"""Splits that are fixed by the items' names, not by a seed. No torch at import."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from fractions import Fraction

SPLITS = ("train", "slice", "holdout", "test")


def _rank(salt: str, item: str) -> str:
    return hashlib.sha256(f"{salt}\x1f{item}".encode()).hexdigest()


def hashed_split(
    items: Sequence[str], labels: Sequence[int], shares: Mapping[str, Fraction], *, salt: str
) -> dict[str, list[int]]:
    """Stratified split by a hash of each item's name: split -> sorted row numbers.

    Within each class the items are ordered by hash and cut at the shares, so that the class balance is that of the
    data and adding an item moves few others. `slice` is a part of training kept apart for strategies that learn
    from labels of their own; `train` here is the rest of training.
    """
    by_class: dict[int, list[int]] = {}
    for row, label in enumerate(labels):
        by_class.setdefault(label, []).append(row)
    split: dict[str, list[int]] = {name: [] for name in shares}
    for rows in by_class.values():
        rows.sort(key=lambda r: _rank(salt, items[r]))
        done, share = 0, Fraction(0)
        for name, part in shares.items():
            share += part
            end = round(len(rows) * share)
            split[name] += rows[done:end]
            done = end
    return {name: sorted(rows) for name, rows in split.items()}


def split_hash(items: Sequence[str], split: Mapping[str, Sequence[int]]) -> str:
    """A short hash of which item lies in which split."""
    text = "\n".join(f"{name}\t{items[row]}" for name in sorted(split) for row in split[name])
    return hashlib.sha256(text.encode()).hexdigest()[:16]

"""Splits that are fixed by the items' names, not by a seed. No torch at import."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction

from mmzoo.errors import BadValue

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


#: shares of what a data set does not split itself: a fifth is test, a tenth of the rest holdout; a fifth of training is the slice
TEST, HOLDOUT, SLICE = Fraction(1, 5), Fraction(1, 10), Fraction(1, 5)


def completed_split(
    items: Sequence[str], labels: Sequence[int], sides: Sequence[str], groups: Sequence[str], *, salt: str
) -> dict[str, list[int]]:
    """All four splits from what is published: split -> sorted row numbers.

    sides: for each item train, holdout, test, "" (nobody says) or anything else (not used). Items that nobody places are
    training items; where no test or no holdout is published, it is cut from these by a hash of the items' names, stratified by
    class, and so is the slice. groups: items of one group (unless it is "") stay together in every cut. Raises BadValue where
    there are too few items for all four.
    """
    split = {name: [r for r, side in enumerate(sides) if side == name] for name in ("holdout", "test")}
    rest = [r for r, side in enumerate(sides) if side in ("train", "")]
    for name, share in (("test", TEST), ("holdout", HOLDOUT), ("slice", SLICE)):
        if not split.get(name):
            split[name], rest = _cut(items, labels, groups, rest, share, f"{salt} {name}")
    split["train"] = rest
    if empty := [name for name in SPLITS if not split[name]]:
        raise BadValue(
            f"{salt}: no item is left for {empty[0]}: {len(items)} items are too few, or its groups too large."
        )
    return {name: sorted(split[name]) for name in SPLITS}


def _cut(
    items: Sequence[str], labels: Sequence[int], groups: Sequence[str], rows: Sequence[int], share: Fraction, salt: str
) -> tuple[list[int], list[int]]:
    """About `share` of the rows, and the rest."""
    if any(groups[r] for r in rows):
        return _cut_groups(items, labels, groups, rows, share, salt)
    parts = hashed_split([items[r] for r in rows], [labels[r] for r in rows], {"a": share, "b": 1 - share}, salt=salt)
    return [rows[i] for i in parts["a"]], [rows[i] for i in parts["b"]]


def _cut_groups(
    items: Sequence[str], labels: Sequence[int], groups: Sequence[str], rows: Sequence[int], share: Fraction, salt: str
) -> tuple[list[int], list[int]]:
    """The same with whole groups: one after the other, in the order of their hash, is taken whenever that brings the numbers
    of each class nearer to the share. At least one group is taken and one left, where there are two."""
    members: dict[str, list[int]] = {}
    for r in rows:
        members.setdefault(f"g{groups[r]}" if groups[r] else f"i{items[r]}", []).append(r)
    if len(members) < 2:
        return [], list(rows)
    gap = {label: n * share for label, n in Counter(labels[r] for r in rows).items()}
    counts = {name: Counter(labels[r] for r in member) for name, member in members.items()}

    def gain(name: str) -> Fraction:
        """How much nearer, in squares, to what is still wanted of each class."""
        return sum((n * (2 * gap[label] - n) for label, n in counts[name].items()), Fraction())

    order = sorted(members, key=lambda name: _rank(salt, name))
    taken: set[str] = set()
    for name in order:
        if gain(name) > 0 and len(taken) < len(order) - 1:
            taken.add(name)
            for label, n in counts[name].items():
                gap[label] -= n
    taken = taken or {max(order, key=gain)}
    return [r for name in order if name in taken for r in members[name]], [
        r for name in order if name not in taken for r in members[name]
    ]


def split_hash(items: Sequence[str], split: Mapping[str, Sequence[int]]) -> str:
    """A short hash of which item lies in which split."""
    text = "\n".join(f"{name}\t{items[row]}" for name in sorted(split) for row in split[name])
    return hashlib.sha256(text.encode()).hexdigest()[:16]

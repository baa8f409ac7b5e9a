"""Splits that are fixed by the items' names, not by a seed. No torch at import."""

from __future__ import annotations

import hashlib
import math
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


#: shares of what a data set does not split itself: a fifth is test, a tenth of the rest validation, a fifth of training
#: the meta set
TEST, HOLDOUT, SLICE = Fraction(1, 5), Fraction(1, 10), Fraction(1, 5)
#: each class is rounded by itself where the sizes so found add up to the share within this part of it, or within one
TOLERANCE = Fraction(1, 10)


def completed_split(
    items: Sequence[str],
    labels: Sequence[int],
    sides: Sequence[str],
    groups: Sequence[str],
    *,
    salt: str,
    meta_set: bool = True,
) -> dict[str, list[int]]:
    """All four splits from what is published.

    Samples that nobody places are training samples. Where no test or validation set is published, it is cut from these
    by a hash of the samples' names, stratified by class, and so is the meta set ("slice"). No cut takes the last
    training sample of a class. Samples of one group (unless it is "") stay together in every cut.

    Args:
        sides: For each sample train, holdout, test, "" (nobody says) or anything else (not used).
        meta_set: Whether to cut a meta set. It stays empty, too, where the samples or groups are too few for four sets.

    Returns:
        Split -> sorted row numbers.

    Raises:
        BadValue: There are too few samples or groups for training, validation and test.
    """
    split = {name: [r for r, side in enumerate(sides) if side == name] for name in ("holdout", "test")}
    rest = [r for r, side in enumerate(sides) if side in ("train", "")]
    shares = {"test": TEST, "holdout": HOLDOUT, "slice": SLICE if meta_set else Fraction(0)}
    wanted = [name for name, share in shares.items() if share and not split.get(name)]
    if "slice" in wanted and _n_units(items, groups, rest) <= len(wanted):
        wanted.remove("slice")
    split["slice"] = []
    for n, name in enumerate(wanted):
        leave = len(wanted) - n  # a group for each later cut, and one for training
        split[name], rest = _cut(items, labels, groups, rest, shares[name], f"{salt} {name}", leave)
    split["train"] = rest
    if empty := [name for name in SPLITS if name != "slice" and not split[name]]:
        raise BadValue(f"{salt}: {_too_few(empty[0], items, labels, sides, groups)}")
    return {name: sorted(split[name]) for name in SPLITS}


def _n_units(items: Sequence[str], groups: Sequence[str], rows: Sequence[int]) -> int:
    """How many groups there are to be distributed; a sample without a group is one of its own."""
    return len({_unit(items, groups, r) for r in rows})


def _unit(items: Sequence[str], groups: Sequence[str], row: int) -> str:
    return f"g{groups[row]}" if groups[row] else f"i{items[row]}"


def _too_few(
    name: str, items: Sequence[str], labels: Sequence[int], sides: Sequence[str], groups: Sequence[str]
) -> str:
    """In words, why a set stays empty."""
    word = {"holdout": "validation"}.get(name, name)
    open_rows = [r for r, side in enumerate(sides) if side in ("train", "")]
    if name == "train" and not open_rows:
        return f"no sample is left for training: the split places all {len(items)} in other sets."
    if any(groups[r] for r in open_rows):
        n = _n_units(items, groups, open_rows)
        return (
            f"no group is left for the {word} set: there are {n} groups to be distributed, and training, validation and "
            "test need at least one each that is not published. Give smaller groups, or a column that names the split."
        )
    counts = Counter(labels[r] for r in open_rows)
    smallest = min(counts.values(), default=0)
    return (
        f"no sample is left for the {word} set: {len(open_rows)} samples of {len(counts)} classes are too few, the "
        f"smallest class has {smallest}. Each class keeps one sample for training; give at least two samples per class."
    )


def _cut(
    items: Sequence[str],
    labels: Sequence[int],
    groups: Sequence[str],
    rows: Sequence[int],
    share: Fraction,
    salt: str,
    leave: int,
) -> tuple[list[int], list[int]]:
    """About `share` of the rows, and the rest."""
    if any(groups[r] for r in rows):
        return _cut_groups(items, labels, groups, rows, share, salt, leave)
    by_class: dict[int, list[int]] = {}
    for r in sorted(rows, key=lambda r: _rank(salt, items[r])):
        by_class.setdefault(labels[r], []).append(r)
    sizes = _sizes({label: len(members) for label, members in by_class.items()}, share)
    taken = {r for label, members in by_class.items() for r in members[: sizes[label]]}
    return sorted(taken), [r for r in rows if r not in taken]


def _sizes(counts: Mapping[int, int], share: Fraction) -> dict[int, int]:
    """How many samples of each class a cut takes: class -> number.

    Each class by itself where that adds up to about the share of all. Where it does not, since classes are small, the
    running total over the classes is rounded instead, so that the cut has its size although no class could be cut.
    """
    want = share * sum(counts.values())
    alone = {label: round(n * share) for label, n in counts.items()}
    if sum(alone.values()) and abs(sum(alone.values()) - want) <= max(Fraction(1), TOLERANCE * want):
        return alone
    sizes, total, taken = {}, 0, 0
    for label in sorted(counts):
        n = counts[label]
        total += n
        due = math.floor(total * share + Fraction(1, 2)) - taken
        least, most = math.floor(n * share), min(math.ceil(n * share), n - 1)
        sizes[label] = max(min(due, most), least)
        taken += sizes[label]
    if not taken and max(counts.values(), default=0) > 1:
        sizes[max(counts, key=lambda label: (counts[label], -label))] = 1
    return sizes


def _cut_groups(
    items: Sequence[str],
    labels: Sequence[int],
    groups: Sequence[str],
    rows: Sequence[int],
    share: Fraction,
    salt: str,
    leave: int,
) -> tuple[list[int], list[int]]:
    """The same with whole groups: one after the other, in the order of their hash, is taken whenever that brings the numbers
    of each class nearer to the share. At least one group is taken, and `leave` groups stay."""
    members: dict[str, list[int]] = {}
    for r in rows:
        members.setdefault(_unit(items, groups, r), []).append(r)
    most = len(members) - leave
    if most < 1:
        return [], list(rows)
    gap = {label: n * share for label, n in Counter(labels[r] for r in rows).items()}
    counts = {name: Counter(labels[r] for r in member) for name, member in members.items()}

    def gain(name: str) -> Fraction:
        """How much nearer, in squares, to what is still wanted of each class."""
        return sum((n * (2 * gap[label] - n) for label, n in counts[name].items()), Fraction())

    order = sorted(members, key=lambda name: _rank(salt, name))
    taken: set[str] = set()
    for name in order:
        if len(taken) < most and gain(name) > 0:
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

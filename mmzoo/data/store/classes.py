"""What about the classes of a data set looks wrong: sets that lack some, labels that are not meant so. No torch, no numpy."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence

#: split -> set -> number of samples of each class
Counts = Mapping[str, Mapping[str, Sequence[int]]]
#: what a table writes where a value is missing
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "nil", "?", "-", ".", "#n/a", "<na>", "unknown"})
#: names in a message before the rest is only counted
NAMED = 5
#: from this ratio of the largest class to the smallest on, accuracy is said to hide the small ones
UNEQUAL = 5
WORDS = {"train": "training", "slice": "meta-set", "holdout": "validation", "test": "test"}


def listed_classes(classes: Sequence[str], counts: Counts) -> str:
    """The classes with how many samples each has, the most frequent first, in a line."""
    totals = _totals(classes, counts)
    order = sorted(range(len(classes)), key=lambda c: (-totals[c], c))
    shown = [f"{_short(classes[c])} {totals[c]:,}" for c in order[:20]]
    if len(order) > 20:
        least = order[-1]
        shown.append(f"and {len(order) - 20} more, down to {_short(classes[least])} {totals[least]:,}")
    return f"{len(classes)} classes: {', '.join(shown)}"


def remarks(classes: Sequence[str], counts: Counts) -> list[str]:
    """What a reader of any score should know of the classes: sets that lack some, and labels that look wrong."""
    totals = _totals(classes, counts)
    found = [*_label_remarks(classes, totals), *_unequal(classes, totals)]
    for split, sets in counts.items():
        of_split = f" (split {split})" if len(counts) > 1 else ""
        found += [text + of_split for text in _set_remarks(classes, sets)]
    return found


def set_remarks(classes: Sequence[str], sets: Mapping[str, Sequence[int]]) -> list[str]:
    """The remarks on the sets of one split: for the notes under its scores."""
    return list(_set_remarks(classes, sets))


def _totals(classes: Sequence[str], counts: Counts) -> list[int]:
    return [max((sum(s[c] for s in sets.values()) for sets in counts.values()), default=0) for c in range(len(classes))]


def _set_remarks(classes: Sequence[str], sets: Mapping[str, Sequence[int]]) -> Iterator[str]:
    unseen = [c for c in range(len(classes)) if not any(sets[name][c] for name in sets)]
    if unseen:
        yield f"{_of(unseen, classes)} no sample at all: {_names(unseen, classes)}"
    for name in ("train", "holdout", "test"):
        trained = name == "train"
        numbers = [n + (sets["slice"][c] if trained else 0) for c, n in enumerate(sets[name])]
        lacking = [c for c, n in enumerate(numbers) if not n and c not in unseen]
        here = [c for c, n in enumerate(numbers) if n]
        if lacking:
            yield f"{_of(lacking, classes)} no {WORDS[name]} sample: {_names(lacking, classes)}"
        if len(here) == 1 and not trained:
            yield (
                f"all {WORDS[name]} samples are of the class {_short(classes[here[0]])}: mAP and macro-F1 cannot be "
                "measured on them"
            )
    if not sum(sets["slice"]):
        yield "there is no meta set: strategies that learn from one are refused"


def _of(some: Sequence[int], classes: Sequence[str]) -> str:
    return f"{len(some)} of {len(classes)} classes {'has' if len(some) == 1 else 'have'}"


def _names(some: Sequence[int], classes: Sequence[str]) -> str:
    named = ", ".join(_short(classes[c]) for c in some[:NAMED])
    return named + (f" and {len(some) - NAMED} more" if len(some) > NAMED else "")


def _short(name: str) -> str:
    return repr(name if len(name) <= 40 else name[:40] + "...")


def _unequal(classes: Sequence[str], totals: Sequence[int]) -> Iterator[str]:
    there = [c for c, n in enumerate(totals) if n]
    if not there:
        return
    least, most = min(there, key=lambda c: totals[c]), max(there, key=lambda c: totals[c])
    if totals[most] >= UNEQUAL * totals[least]:
        yield (
            f"the class {_short(classes[most])} has {totals[most] / totals[least]:.0f} times the samples of "
            f"{_short(classes[least])} ({totals[most]:,} and {totals[least]:,}): accuracy hardly shows the small classes, "
            "macro-F1 counts all alike (metric: macro_f1)"
        )


# ---------------------------------------------------------------------------------------------- labels
def _label_remarks(classes: Sequence[str], totals: Sequence[int]) -> Iterator[str]:
    """Labels that are probably not meant as classes of their own."""
    yield from _alike(classes)
    for c, name in enumerate(classes):
        if name.strip().casefold() in MISSING and totals[c]:
            yield f"the class {_short(name)} ({totals[c]:,} samples) looks like a missing label"
    yield from _several(classes)
    yield from _continuous(classes, totals)


def _alike(classes: Sequence[str]) -> Iterator[str]:
    """Names that differ in writing only: 1 and 1.0, cat and Cat, composed and decomposed letters."""
    keys: tuple[Callable[[str], str], ...] = (_as_number, _as_word)
    seen: dict[str, str] = {}
    for name in classes:
        for key in keys:
            like = key(name)
            if like and seen.setdefault(like, name) != name:
                yield f"the classes {_short(seen[like])} and {_short(name)} differ only in how they are written"
                break


def _as_number(name: str) -> str:
    number = _number(name)
    return "" if number is None else f"number {number!r}"


def _as_word(name: str) -> str:
    return "word " + " ".join(
        unicodedata.normalize("NFKC", name).casefold().replace("_", " ").replace("-", " ").split()
    )


def _several(classes: Sequence[str]) -> Iterator[str]:
    """Labels made of others: A|B beside A and B."""
    known = {name.strip() for name in classes}
    for mark in ("|", ";", ",", "+", "/", "&"):
        joined = [n for n in classes if mark in n]
        apart = [n for n in joined if all(p.strip() for p in n.split(mark))]
        made = [n for n in apart if any(p.strip() in known for p in n.split(mark))]
        pieces = {p.strip() for n in apart for p in n.split(mark)}
        if made or (len(apart) > 2 and len(pieces) <= len(apart)):
            some = ", ".join(_short(n) for n in (made or apart)[:NAMED])
            yield (
                f"{len(made or apart)} classes hold {mark!r} and look like several labels in one: {some}. Each "
                "combination counts as a class of its own"
            )
            return


def _continuous(classes: Sequence[str], totals: Sequence[int]) -> Iterator[str]:
    """Targets that are measured rather than named."""
    n = sum(totals)
    numbers = [x for x in map(_number, classes) if x is not None]
    broken = sum(not x.is_integer() for x in numbers)
    many = len(classes) >= 10 and 2 * len(classes) > n
    if (
        len(numbers) >= 10
        and len(numbers) >= 0.9 * len(classes)
        and (2 * broken >= len(numbers) or 5 * len(numbers) > n)
    ):
        yield (
            f"the labels are {len(numbers):,} different numbers among {n:,} samples: they look like a continuous target, "
            "and each becomes a class. Put them into ranges first"
        )
    elif many:
        yield (
            f"{len(classes):,} classes among {n:,} samples: nearly every sample has its own class. Is the column of "
            "the label an id or a text?"
        )


def _number(name: str) -> float | None:
    try:
        value = float(name)
    except ValueError:
        return None
    return value if value == value and abs(value) != float("inf") else None

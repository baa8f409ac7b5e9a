"""How the classes of listed samples spread over the sets of each split. No torch, no numpy."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Sequence

from mmzoo.data.preparing.listing import Listed
from mmzoo.data.sources.source import Fault, Item, Recipe
from mmzoo.data.store.classes import WORDS, Counts, listed_classes, remarks
from mmzoo.data.store.splits import SPLITS, completed_split
from mmzoo.data.store.store import UNUSED
from mmzoo.errors import BadValue


def with_meta_set(recipe: Recipe) -> bool:
    """Whether a meta set is cut from the training samples; a manifest can do without one."""
    return bool(recipe.options.get("meta_set", True))


def split_rows(listed: Listed, items: Sequence[Item], meta_set: bool) -> dict[str, dict[str, list[int]]]:
    """split -> set -> positions among `items`. Raises BadValue where there are too few for three sets."""
    found = {}
    for split in listed.split_sources:
        used = [n for n, i in enumerate(items) if listed.sides[i.id][split] != UNUSED]
        here = [items[n] for n in used]
        parts = completed_split(
            [i.id for i in here],
            [i.label for i in here],
            [listed.sides[i.id][split] for i in here],
            [listed.groups[i.id][split] for i in here],
            salt=listed.name,
            meta_set=meta_set,
        )
        found[split] = {name: [used[r] for r in rows] for name, rows in parts.items()}
    return found


def class_counts(listed: Listed, items: Sequence[Item], meta_set: bool) -> dict[str, dict[str, list[int]]]:
    """The samples of each class in each set of each split. Raises as `split_rows`."""
    counts: dict[str, dict[str, list[int]]] = {}
    for split, parts in split_rows(listed, items, meta_set).items():
        counts[split] = {}
        for name in SPLITS:
            of_class = Counter(items[r].label for r in parts[name])
            counts[split][name] = [of_class[label] for label in range(len(listed.classes))]
    return counts


def class_lines(listed: Listed, recipe: Recipe) -> tuple[str, list[str]]:
    """The classes of what is listed with their counts in a line, and what about them looks wrong."""
    try:
        counts = class_counts(listed, listed.items, with_meta_set(recipe))
    except BadValue:  # too few samples for a split: reported as an error elsewhere
        return "", []
    return listed_classes(listed.classes, counts), remarks(listed.classes, counts)


def size_lines(listed: Listed, recipe: Recipe) -> list[str]:
    """The sizes of the sets of each split with what they mean for a score, and how many samples have each modality."""
    found = []
    with contextlib.suppress(BadValue):  # too few samples for a split: reported as an error elsewhere
        for split, parts in split_rows(listed, listed.items, with_meta_set(recipe)).items():
            n = {name: len(rows) for name, rows in parts.items()}
            of_split = f"split {split}: " if len(listed.split_sources) > 1 else ""
            found.append(
                f"{of_split}{n['train'] + n['slice']:,} / {n['holdout']:,} / {n['test']:,} samples "
                f"{WORDS['train']} / {WORDS['holdout']} / {WORDS['test']}; an accuracy on {n['test']:,} test samples has a "
                f"standard error of up to {50 / math.sqrt(n['test']):.1f} points"
            )
    return [*found, *_presence(listed.items, [*recipe.fields])]


def _presence(items: Sequence[Item], modalities: Sequence[str]) -> list[str]:
    """How many samples have each modality that some lack. A sample whose file cannot be read has it: that is a fault."""
    counts = Counter(m for item in items for m in item.media)
    lacking = [m for m in modalities if counts[m] < len(items)]
    if not lacking and len(modalities) > 1:
        return [
            f"every sample has {' and '.join(modalities)}" if len(modalities) < 4 else "every sample has every modality"
        ]
    return [
        f"remark: {counts[m]:,} of {len(items):,} samples have {m}, {len(items) - counts[m]:,} lack it" for m in lacking
    ]


def untrained(listed: Listed, items: Sequence[Item], counts: Counts) -> list[Fault]:
    """A fault for each sample of a class that a split trains on no sample of: no model can learn it."""
    faults = []
    for item in items:
        for split, sets in counts.items():
            trained = sets["train"][item.label] + sets["slice"][item.label]
            if listed.sides[item.id][split] != UNUSED and not trained:
                message = f"the class {listed.classes[item.label]!r} has no training sample (split {split})"
                faults.append(Fault("untrained", message, item.id, None, item.where))
                break
    return faults

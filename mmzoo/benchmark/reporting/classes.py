"""Scores of each class, and which classes are taken for which. No torch at import, numpy only where predictions are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmzoo.benchmark.reporting.groups import Group, Row
from mmzoo.benchmark.reporting.overview import by_dataset
from mmzoo.benchmark.reporting.statistics import spread
from mmzoo.benchmark.reporting.tables import DASH, Cell, Table, percent
from mmzoo.benchmark.results.predictions import note, read_predictions
from mmzoo.benchmark.results.store import Store
from mmzoo.errors import CorruptFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: classes of a confusion matrix at most; of more the MOST_CONFUSED most frequent confusions are listed
MOST_CLASSES, MOST_CONFUSED = 20, 10
#: lines of a table of classes at most, those with the lowest score of the first method
MOST_LINES = 50


@dataclass
class Counted:
    """A method on a data set. counts: (C, C) test samples of each seed by true (row) and predicted class (column)."""

    group: Group
    classes: tuple[str, ...]
    counts: list[NDArray[np.int64]]


def class_tables(
    rows: Sequence[Row], bench: Mapping[str, Any], store: Store, faults: list[CorruptFile] | None = None
) -> list[Table]:
    """For each data set: the F1 of each class under each joint method, and the confusions of each method that the bench is
    about. faults: takes an error for each file of predictions that is there and cannot be used."""
    tables = []
    for dataset, groups in by_dataset(rows, bench).items():
        counted, unread = _counted([g for g in groups if not g.alone], store, faults)
        if not counted:
            continue
        tables.append(_per_class(dataset, counted))
        if unread:
            tables[-1].notes.append(f"not here, since their predictions cannot be read: {', '.join(unread)}")
        about = [c for c in counted if c.group.role == "method"] or counted[:1]
        tables += [_confusion(dataset, c) for c in about]
    return tables


def _counted(
    groups: Sequence[Group], store: Store, faults: list[CorruptFile] | None
) -> tuple[list[Counted], list[str]]:
    """The methods with predictions, and the runs whose predictions cannot be read."""
    found: list[Counted] = []
    unread = []
    for group in groups:
        for row in group.rows:
            if row["status"] != "ok":
                continue
            try:
                kept = read_predictions(row, store)
            except CorruptFile as error:
                note(error, row, store, faults)
                unread.append(str(row["run_id"]))
                continue
            if not found or found[-1].group is not group:
                found.append(Counted(group, kept.classes, []))
            if kept.classes == found[-1].classes:
                found[-1].counts.append(kept.confusion())
    first = found[0].classes if found else ()
    return [c for c in found if c.classes == first], unread


def _per_class(dataset: str, counted: Sequence[Counted]) -> Table:
    import numpy as np

    table = Table(
        f"{dataset}: F1 of each class in %, mean ± std over seeds",
        ["class", "test samples", *(c.group.label for c in counted)],
    )
    scores = [np.stack([_f1(counts) for counts in c.counts]) for c in counted]
    samples = counted[0].counts[0].sum(1)
    order = list(range(len(samples)))
    if len(order) > MOST_LINES:
        order = sorted(order, key=lambda i: (samples[i] == 0, scores[0][:, i].mean()))[:MOST_LINES]
        table.notes.append(f"the {MOST_LINES} of {len(samples)} classes with the lowest F1 of {counted[0].group.label}")
    for i in order:
        cells = [percent(spread(s[:, i].tolist())) if samples[i] else DASH for s in scores]
        table.body.append([Cell(counted[0].classes[i]), Cell(str(samples[i])), *map(Cell, cells)])
    return table


def _f1(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(C,) F1 of each class, 0 where it is neither there nor predicted."""
    import numpy as np

    right = counts.diagonal().astype(float)
    return np.asarray(2 * right / np.maximum(counts.sum(0) + counts.sum(1), 1), dtype=np.float64)


def _confusion(dataset: str, counted: Counted) -> Table:
    """Test samples of all seeds by true and predicted class, with recall and precision."""
    counts, classes = sum(counted.counts[1:], counted.counts[0]), counted.classes
    title = f"{dataset}: {counted.group.label}, test samples of {len(counted.counts)} run{'s' if len(counted.counts) > 1 else ''} by true and predicted class"
    if len(classes) > MOST_CLASSES:
        return _most_confused(title, counts, classes)
    table = Table(
        title,
        ["true class", *classes, "recall"],
        caption=f"Test samples by true and predicted class, of {counted.group.label} on {dataset}. Correct predictions in bold",
    )
    for i, name in enumerate(classes):
        row = [Cell(str(n), i == j) for j, n in enumerate(counts[i].tolist())]
        table.body.append([Cell(name), *row, Cell(_share(counts[i, i], counts[i].sum()))])
    precision = [Cell(_share(counts[j, j], counts[:, j].sum())) for j in range(len(classes))]
    table.body.append([Cell("precision"), *precision, Cell(_share(counts.trace(), counts.sum()))])
    return table


def _most_confused(title: str, counts: NDArray[np.int64], classes: Sequence[str]) -> Table:
    table = Table(
        f"{title}, the most frequent confusions", ["true class", "predicted class", "samples", "of the class"]
    )
    pairs = [(int(counts[i, j]), i, j) for i, j in zip(*counts.nonzero()) if i != j]
    for n, i, j in sorted(pairs, key=lambda p: (-p[0], p[1], p[2]))[:MOST_CONFUSED]:
        table.body.append([Cell(classes[i]), Cell(classes[j]), Cell(str(n)), Cell(_share(n, counts[i].sum()))])
    table.words = 2
    return table


def _share(part: Any, whole: Any) -> str:
    return f"{100 * int(part) / int(whole):.1f}" if int(whole) else DASH

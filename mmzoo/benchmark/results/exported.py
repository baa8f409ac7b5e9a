"""The predictions of all runs of a folder as lines of one table. No torch, no numpy at import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmzoo.benchmark.results.predictions import read_predictions
from mmzoo.benchmark.results.store import Store
from mmzoo.errors import CorruptFile

Row = Mapping[str, Any]
FIRST = ("run", "dataset", "method", "seed", "id", "true", "predicted")


def header_of(rows: Sequence[Row], store: Store) -> tuple[list[str], list[str], list[CorruptFile]]:
    """The columns of the table, the classes of all data sets in order, and an error for each run that gives no line."""
    classes: dict[str, None] = {}
    faults = []
    for row in rows:
        try:
            classes |= dict.fromkeys(read_predictions(row, store).classes)
        except CorruptFile as error:
            faults.append(error)
    return [*FIRST, *(f"probability:{name}" for name in classes)], list(classes), faults


def lines_of(rows: Sequence[Row], store: Store, classes: Sequence[str]) -> Iterator[list[Any]]:
    """A line for each test sample of each run whose predictions can be used; classes of other data sets stay empty."""
    for row in rows:
        try:
            kept = read_predictions(row, store)
        except CorruptFile:
            continue  # `header_of` has told
        columns = {name: i for i, name in enumerate(kept.classes)}
        first = [row["run_id"], row["dataset"], row["label"], row["seed"]]
        for i, (target, predicted) in enumerate(zip(kept.target.tolist(), kept.predicted.tolist())):
            scores = kept.scores[i].tolist()
            shares = [f"{scores[columns[name]]:.6g}" if name in columns else "" for name in classes]
            yield [*first, kept.ids[i], kept.classes[target], kept.classes[predicted], *shares]

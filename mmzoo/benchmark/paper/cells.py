"""Our numbers beside the printed ones, cell by cell. No torch at import."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmzoo.benchmark.paper.printed import Line, Printed, Values
from mmzoo.benchmark.reporting.groups import METRICS
from mmzoo.benchmark.reporting.statistics import Spread, spread
from mmzoo.benchmark.reporting.tables import DASH, Cell, Table

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """The runs of a data set for a table.

    Args:
        rows: Their rows.
        refused: method -> why it was not run.
        synthetic: Whether the data set is the generated twin, on which no number compares with a printed one.
        fast: Whether the budget was cut, so that none does either.
    """

    rows: Sequence[Row]
    refused: Mapping[str, str]
    synthetic: bool
    fast: bool = False

    @property
    def compares(self) -> bool:
        return not self.synthetic and not self.fast


@dataclass(frozen=True)
class Compared:
    """A cell. ours: in 0 to 1. error: standard error of the mean over seeds, in points; NaN with one seed. reason: why there is
    no number of ours."""

    row: str
    dataset: str
    column: str
    ours: Spread
    printed: Values
    compares: bool
    reason: str = ""

    @property
    def difference(self) -> float:
        """Points between ours and the first printed value; NaN where one is missing or they do not compare."""
        if not self.compares or not self.ours.n or not self.printed:
            return math.nan
        return 100 * self.ours.mean - self.printed[0]

    @property
    def error(self) -> float:
        s = self.ours
        return math.nan if s.deviation is None or s.n < 2 else 100 * s.deviation / math.sqrt(s.n)


def compared(printed: Printed, found: Mapping[str, Found]) -> list[Compared]:
    """Every cell of a table, of the data sets that were run."""
    return [
        _cell(printed, line, dataset, column, found[dataset])
        for line in printed.rows
        for dataset, columns in printed.columns.items()
        if dataset in found
        for column in columns
    ]


def _cell(printed: Printed, line: Line, dataset: str, column: str, found: Found) -> Compared:
    mine = [row for row in found.rows if line.takes(row)]
    ok = [row for row in mine if row["status"] == "ok"]
    values = [v for row in ok if math.isfinite(v := value(row, column, printed.gap.get(dataset, "")))]
    reason = ""
    if not values:
        failed = [f"{row['status']}: {row['reason']}" for row in mine if row["status"] != "ok"]
        reason = (
            found.refused.get(line.method) or next(iter(failed), "") or printed.dashes.get((line.label, dataset), "")
        )
        reason = reason or "not run"
    return Compared(
        line.label,
        dataset,
        column,
        spread(values),
        printed.values(line.label, dataset, column),
        found.compares,
        reason,
    )


def value(row: Row, column: str, gap: str) -> float:
    """A number of a run in 0 to 1. column: see `Printed.columns`; gap: its metric."""
    metrics = row["metrics"]
    if column == "gap":
        own = [m["own"][gap] for m in metrics["modalities"].values()]
        return float(max(own) - min(own))
    metric, _, modality = column.partition(" ")
    scores = metrics["modalities"].get(modality, {}).get("own", {}) if modality else metrics
    return float(scores.get(metric, math.nan))


def heading(column: str) -> str:
    metric, _, modality = column.partition(" ")
    return f"{METRICS.get(metric, metric.upper())}{' ' + modality if modality else ''}"


def paper_table(printed: Printed, cells: Sequence[Compared], found: Mapping[str, Found]) -> Table:
    """Our numbers as the paper prints its own: methods x data sets. Best bold, second underlined; the smallest gap is the best."""
    columns = [(d, c) for d, cs in printed.columns.items() if d in found for c in cs]
    table = Table(
        f"{printed.place}: {printed.title} (ours)",
        ["method", *(f"{name(d, found[d])} {heading(c)}" for d, c in columns)],
    )
    at = {(c.row, c.dataset, c.column): c for c in cells}
    ranked = {key: _ranked([c for c in cells if (c.dataset, c.column) == key]) for key in columns}
    for line in printed.rows:
        body = [Cell(line.label)]
        for d, c in columns:
            cell, best = at[line.label, d, c], ranked[d, c]
            shown = _percent(cell.ours)
            body.append(Cell(shown, best=best[:1] == [line.label], second=best[1:2] == [line.label]))
        table.body.append(body)
    table.notes += list(_marks(found)) + list(_reasons(cells, found))
    return table


def comparison_table(printed: Printed, cells: Sequence[Compared], dataset: str, found: Found) -> Table:
    """ours, printed and their difference on one data set."""
    columns = printed.columns[dataset]
    header = ["method", *(f"{heading(c)} {what}" for c in columns for what in ("ours", "printed", "difference"))]
    table = Table(f"{printed.place}, {name(dataset, found)}: ours, printed, difference in points", header)
    at = {(c.row, c.column): c for c in cells if c.dataset == dataset}
    for line in printed.rows:
        body = [Cell(line.label)]
        for column in columns:
            cell = at[line.label, column]
            told = " / ".join(f"{v:.2f}" for v in cell.printed) or DASH
            body += [Cell(_percent(cell.ours)), Cell(told), Cell(_difference(cell))]
        table.body.append(body)
    table.notes += list(_marks({dataset: found}))
    table.notes += [
        f"The paper contradicts itself: {c['row']}, {heading(c['metric'])}: {c['here']:.2f} here, {c['elsewhere']:.2f} in {c['place']}."
        for c in printed.contradictions
        if c["dataset"] == dataset
    ]
    if found.compares:
        table.notes.append(
            "difference: ours less the first printed value, ± the standard error of our mean over seeds."
        )
    return table


def name(dataset: str, found: Found) -> str:
    return f"{dataset}{' (synthetic)' if found.synthetic else ''}{' (fast)' if found.fast else ''}"


def _ranked(cells: Sequence[Compared]) -> list[str]:
    known = [c for c in cells if c.ours.n]
    return [c.row for c in sorted(known, key=lambda c: c.ours.mean if c.column == "gap" else -c.ours.mean)]


def _percent(s: Spread) -> str:
    if not s.n:
        return "-"
    text = f"{100 * s.mean:.2f}"
    return text if s.deviation is None else f"{text} ± {100 * s.deviation:.2f}"


def _difference(cell: Compared) -> str:
    if not math.isfinite(cell.difference):
        return DASH
    error = f" ± {cell.error:.2f}" if math.isfinite(cell.error) else ""
    return f"{cell.difference:+.2f}{error}"


def _marks(found: Mapping[str, Found]) -> list[str]:
    """What keeps our numbers from being the paper's."""
    notes = []
    if twins := [d for d, f in found.items() if f.synthetic]:
        notes.append(
            f"(synthetic): {', '.join(twins)} is not prepared here: the numbers are of a synthetic set in its format, with small encoders. "
            "Nothing on it compares with a printed number."
        )
    if any(f.fast for f in found.values()):
        notes.append(
            "(fast): one seed and a few epochs, to see that everything runs. Nothing compares with a printed number."
        )
    return notes


def _reasons(cells: Sequence[Compared], found: Mapping[str, Found]) -> list[str]:
    reasons: dict[str, dict[str, None]] = {}
    for cell in cells:
        if cell.reason:
            reasons.setdefault(cell.reason, {})[f"{cell.row} on {cell.dataset}"] = None
    return [f"- for {', '.join(where)}: {reason}" for reason, where in reasons.items()]

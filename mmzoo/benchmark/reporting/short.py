"""One short table per data set, below the overview. No torch or numpy at import."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmzoo.benchmark.reporting.floors import below_notes, floor_lines, floor_notes, floors_of, longer
from mmzoo.benchmark.reporting.groups import (
    METRICS,
    Basis,
    Group,
    Row,
    at,
    difference_text,
    fair_reference,
    main_metric,
    main_score,
    reference_notes,
    reference_of,
)
from mmzoo.benchmark.reporting.overview import PLAIN, by_dataset, places
from mmzoo.benchmark.reporting.statistics import Spread, paired, spread
from mmzoo.benchmark.reporting.tables import DASH, Cell, Table, percent

#: rows of a table for which it is said why they were still improving; the others are only named
EXPLAINED = 2


def short_tables(rows: Sequence[Row], bench: Mapping[str, Any], said: Sequence[str] = ()) -> list[Table]:
    """One short table per data set: its metrics, the difference to plain, the fraction of the Bayes gap closed.

    Args:
        rows, bench: See `make_overview`.
        said: Notes of tables above these, which are not repeated.
    """
    tables = [_short(name, groups, floors_of(rows, name)) for name, groups in by_dataset(rows, bench).items()]
    shown = set(said)
    for table in tables:  # what is said of several tables is said once
        table.notes = [note for note in table.notes if note not in shown]
        shown.update(table.notes)
    return tables


def _short(name: str, groups: Sequence[Group], floors: Sequence[Row]) -> Table:
    main = main_metric(groups)
    metrics = [main, *(m for m in METRICS if m != main)]
    planted = any("bayes" in r for g in groups for r in g.rows)
    header = [
        "method",
        *(METRICS[m] for m in metrics),
        "Δ plain",
        *(("closed",) if planted else ()),
        "samples",
        "seeds",
    ]
    title = f"{name}: test scores in %, mean ± std over seeds"
    if planted:
        best = spread([r["bayes"] for g in groups if not g.alone for r in g.rows if "bayes" in r][:1])
        title += f"; Bayes accuracy {percent(best)}"
    table = Table(title, header, priority=[0, 1, 4, 5, 2, *((3,) if planted else ()), 6, 7])
    columns: list[Callable[[Row], float]] = [at("metrics", m) for m in metrics]
    placed = places(groups)
    deltas = {group.label: to_plain(group, groups) for group in groups}
    most = max((d.spread.n for d in deltas.values() if d), default=0)
    for group in groups:
        place = placed.get(group.label, 0)
        cells = [Cell(group.label)]
        for i, column in enumerate(columns):
            marked = i == 0 and not group.alone
            cells.append(Cell(percent(group.spread(column)), best=marked and place == 1, second=marked and place == 2))
        cells.append(Cell(delta_text(deltas[group.label], most)))
        if planted:
            cells.append(Cell(closed(group, None if group.alone else reference_of(group, groups, PLAIN))))
        cells.append(Cell(_whole(group.spread(at("cost", "train_items")))))
        table.body.append([*cells, Cell(str(len(group.by_seed(main_score))))])
        table.notes += [f"{name}: {note}" for note in failures(group)] + cautions(group) + blind(group)
    table.notes += delta_notes(groups, list(deltas.values()))
    columns_of: dict[str, Callable[[Row], str]] = {heading: lambda row: DASH for heading in header[1:]}
    columns_of |= {METRICS[m]: lambda row, m=m: percent(spread([row["metrics"][m]])) for m in metrics}  # type: ignore[misc]
    table.body += floor_lines(floors, columns_of, DASH)
    if floors:  # data of a user's own: nobody has chosen its epochs
        table.notes += still_improving_notes(groups)
    table.notes += below_notes(groups, floors) + floor_notes(floors)
    if planted:
        table.notes.append(
            "closed: fraction of the gap between plain training and Bayes accuracy that the method closes, with the "
            "standard error over seeds. Synthetic data: it says nothing about the real data set."
        )
    return table


@dataclass(frozen=True)
class Delta:
    """The paired difference of a joint method to plain training. alike: see `fair_reference`."""

    spread: Spread
    alike: bool


def to_plain(group: Group, groups: Sequence[Group]) -> Delta | None:
    """None for plain training itself, for one modality, and where there is no plain training to compare with."""
    plain = None if group.alone else fair_reference(group, groups, PLAIN)
    if plain is None or plain.group is group:
        return None
    return Delta(paired(group.by_seed(main_score), plain.group.by_seed(main_score)), plain.alike)


def delta_text(delta: Delta | None, most: int) -> str:
    """most: the seeds of the difference of the table that rests on the most."""
    if delta is None or not delta.spread.n:
        return DASH
    return difference_text(percent(delta.spread, sign=True), Basis(delta.spread.n), Basis(most), alike=delta.alike)


def delta_notes(groups: Sequence[Group], deltas: Sequence[Delta | None]) -> list[str]:
    """What the differences of a table are to, where they are not all to the same."""
    found = [d for d in deltas if d and d.spread.n]
    most = max((d.spread.n for d in found), default=0)
    unlike, fewer = any(not d.alike for d in found), any(d.spread.n < most for d in found)
    return reference_notes(groups, unlike=unlike, fewer=fewer)


def _whole(s: Spread) -> str:
    return f"{s.mean:.0f}" if s.n else DASH


def closed(group: Group, plain: Group | None) -> str:
    """The fraction of the gap from plain training to Bayes accuracy that a method closes, in %, ± its standard error.

    A ratio of means over the common seeds; the standard error is the delta method's, from the paired seeds.
    """
    if plain is None or plain is group or group.alone:
        return DASH
    scores, base, best = group.by_seed(main_score), plain.by_seed(main_score), group.by_seed(at("bayes"))
    seeds = sorted(set(scores) & set(base))
    gains, gaps = [scores[s] - base[s] for s in seeds], [best[s] - base[s] for s in seeds]
    if not seeds or not sum(gaps) > 0:
        return DASH
    ratio = sum(gains) / sum(gaps)
    if len(seeds) < 2:
        return f"{100 * ratio:.0f} %"
    residual = spread([g - ratio * w for g, w in zip(gains, gaps)])
    error = (residual.deviation or 0.0) / math.sqrt(len(seeds)) / statistics.fmean(gaps)
    return f"{100 * ratio:.0f} ± {100 * error:.0f} %"


def failures(group: Group) -> list[str]:
    """Which runs of a method failed, and why."""
    return [f"{group.label}, seed {r['seed']}: {r['status']}, {r['reason']}" for r in group.rows if r["status"] != "ok"]


def cautions(group: Group) -> list[str]:
    """The warnings of the runs of a method, with how often each was given unless it was once in every run."""
    notes = []
    for message in dict.fromkeys(m for r in group.rows for m in r.get("warnings", {})):
        counts = [r.get("warnings", {}).get(message, 0) for r in group.rows]
        listed = ", ".join(f"{n} (seed {r['seed']})" for n, r in zip(counts, group.rows) if n)
        notes.append(f"{group.label}: {message}" + ("" if set(counts) == {1} else f"; count: {listed}"))
    return notes


def blind(group: Group) -> list[str]:
    """How many test samples a row scores without any modality of them."""
    counts = {
        (m["n_scored"] - m["n_seen"], m["n_scored"])
        for r in group.rows
        if r["status"] == "ok"
        for m in [r["metrics"]]
        if "n_seen" in m
    }
    return [
        f"{group.label}: {unseen} of {scored} test samples miss every modality that it reads: they are predicted from "
        "the bias, and counted; training, selection of the epoch and unimodal baselines leave them out"
        for unseen, scored in sorted(counts)
        if unseen
    ]


def still_improving_notes(groups: Sequence[Group]) -> list[str]:
    """Which rows more epochs may help, the evidence of a few, and how many epochs."""
    found = {g.label: [r for r in g.rows if r.get("still_improving")] for g in groups}
    found = {label: rows for label, rows in found.items() if rows}
    if not found:
        return []
    said = [
        f"{label} ({'; '.join(rows[0]['still_improving'])})" if i < EXPLAINED else label
        for i, (label, rows) in enumerate(found.items())
    ]
    return [f"Still improving when training ended: {', '.join(said)}. Train longer: --epochs {longer(groups)}."]

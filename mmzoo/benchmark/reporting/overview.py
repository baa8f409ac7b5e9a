"""The overview: methods by data sets, ranks over them, the difference to plain training and to the control, cost.

No torch or numpy at import.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmzoo.benchmark.reporting.floors import floors_of
from mmzoo.benchmark.reporting.groups import (
    METRICS,
    Basis,
    Difference,
    Group,
    Row,
    difference_of,
    difference_text,
    grouped,
    main_metric,
    main_score,
    mean_text,
    reference_notes,
    sample_note,
    selection_note,
)
from mmzoo.benchmark.reporting.statistics import NO_INTERVAL, Spread, nemenyi, smallest_p, spread
from mmzoo.benchmark.reporting.tables import DASH, Cell, Table, percent
from mmzoo.data.store.choice import is_synthetic

#: the strategies that every method is compared with, as their runs name them
PLAIN, CONTROL = "plain", "joint_unimodal"


@dataclass(frozen=True)
class Score:
    """One method on one data set. place: 1 the best of the joint methods, 2 the second, 0 any other."""

    spread: Spread
    rows: tuple[Row, ...]
    place: int = 0
    note: str = ""


@dataclass(frozen=True)
class Line:
    """One method over all data sets. Values are None where there is nothing to compare with."""

    label: str
    role: str
    unimodal: bool
    scores: Mapping[str, Score]
    rank: float | None
    to_plain: Difference | None
    to_control: Difference | None
    cost: float | None


@dataclass(frozen=True)
class Overview:
    """metrics: data set -> the metric that it is known by. critical: Nemenyi's critical difference of mean ranks at 5 %.
    floors: data set -> the row of the linear baseline of all modalities joined, where there is one.
    groups: data set -> its configurations."""

    datasets: tuple[str, ...]
    metrics: Mapping[str, str]
    lines: tuple[Line, ...]
    critical: float | None
    n_seeds: tuple[int, int]
    floors: Mapping[str, Row]
    groups: Mapping[str, Sequence[Group]]

    @property
    def joint(self) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if not line.unimodal)

    @property
    def differences(self) -> tuple[Difference, ...]:
        """Those that there are, to plain training and to the control."""
        return tuple(d for line in self.lines for d in (line.to_plain, line.to_control) if d is not None)

    @property
    def most(self) -> Basis:
        """The most seeds and data sets that a difference rests on."""
        return Basis.most(d.basis for d in self.differences)


def by_dataset(rows: Sequence[Row], bench: Mapping[str, Any]) -> dict[str, list[Group]]:
    """data set -> its groups, both in the order of the bench."""
    order = {name: i for i, name in enumerate(bench.get("datasets", ()))}
    names = sorted(dict.fromkeys(r["dataset"] for r in rows), key=lambda name: order.get(name, len(order)))
    return {name: grouped([r for r in rows if r["dataset"] == name], bench["methods"]) for name in names}


def make_overview(rows: Sequence[Row], bench: Mapping[str, Any]) -> Overview:
    """Summarise the rows of a benchmark.

    Args:
        rows: rows as the store has them.
        bench: order and roles of the methods, as `Store.bench` gives them.
    """
    found = by_dataset(rows, bench)
    reasons = {(r["dataset"], r["method"]): r["reason"] for r in bench["refused"]}
    labels = dict.fromkeys(g.label for groups in found.values() for g in groups)
    labels |= dict.fromkeys(r["method"] for r in bench["refused"])
    ordered = sorted(labels, key=lambda label: _place(label, bench["methods"]))
    placed = {name: places(groups) for name, groups in found.items()}
    ranks = mean_ranks(found)
    lines = []
    for label in ordered:
        mine = {name: g for name, groups in found.items() for g in groups if g.label == label}
        scores = {
            name: Score(g.spread(main_score), g.rows, placed[name].get(label, 0), _failure(g))
            for name, g in mine.items()
        }
        refused = {
            name: Score(spread([]), (), note=reasons[name, label])
            for name in found
            if name not in scores and (name, label) in reasons
        }
        any_group = next(iter(mine.values()), None)
        lines.append(
            Line(
                label,
                any_group.role if any_group else bench["methods"].get(label, "other"),
                bool(any_group and any_group.alone),
                {**scores, **refused},
                ranks.get(label),
                difference_of(mine, found, PLAIN),
                difference_of(mine, found, CONTROL),
                _cost(mine, found),
            )
        )
    seeds = [len(g.by_seed(main_score)) for groups in found.values() for g in groups if g.by_seed(main_score)]
    critical = nemenyi(len(ranks), len(found)) if len(ranks) > 2 and len(found) > 1 else None
    return Overview(
        tuple(found),
        {name: main_metric(groups) for name, groups in found.items()},
        tuple(lines),
        critical,
        (min(seeds, default=0), max(seeds, default=0)),
        {name: row for name in found if (row := _joined_floor(rows, name))},
        found,
    )


def _joined_floor(rows: Sequence[Row], dataset: str) -> Row | None:
    ok = [r for r in floors_of(rows, dataset) if r["status"] == "ok"]
    return next((r for r in ok if r["modality"] is None), ok[0] if len(ok) == 1 else None)


def mean_ranks(found: Mapping[str, Sequence[Group]]) -> dict[str, float]:
    """label -> mean rank over the data sets, 1 the best, of the joint methods scored on every one of them."""
    means = {
        name: {g.label: g.spread(main_score).mean for g in groups if not g.alone and g.by_seed(main_score)}
        for name, groups in found.items()
    }
    if not means:
        return {}
    labels = [label for label in next(iter(means.values())) if all(label in m for m in means.values())]
    if len(labels) < 2:
        return {}
    ranks = {label: [] for label in labels}  # type: dict[str, list[float]]
    for values in means.values():
        for label in labels:
            mine = round(values[label], 12)
            others = [round(values[other], 12) for other in labels]
            ranks[label].append(1 + sum(o > mine for o in others) + (sum(o == mine for o in others) - 1) / 2)
    return {label: statistics.fmean(values) for label, values in ranks.items()}


def _place(label: str, roles: Mapping[str, str]) -> tuple[int, str]:
    order = list(roles)
    known = [name for name in order if label == name or label.startswith(f"{name} (")]
    return (order.index(max(known, key=len)) if known else len(order), label)


def places(groups: Sequence[Group]) -> dict[str, int]:
    """label -> 1 for the best and 2 for the second mean of the joint methods, ties included."""
    means = {g.label: round(g.spread(main_score).mean, 12) for g in groups if not g.alone and g.by_seed(main_score)}
    best = sorted(set(means.values()), reverse=True)[:2]
    return {label: best.index(value) + 1 for label, value in means.items() if value in best}


def _failure(group: Group) -> str:
    failed = [r for r in group.rows if r["status"] != "ok"]
    return "; ".join(f"seed {r['seed']}: {r['status']}, {r['reason']}" for r in failed)


def passes(row: Row) -> float:
    """The cost of a run in forwards of the whole model; a backward counts as two."""
    return float(row["cost"]["forward"] + 2 * row["cost"]["backward"])


def _cost(mine: Mapping[str, Group], found: Mapping[str, Sequence[Group]]) -> float | None:
    """The cost per training sample and epoch against that of plain training: the mean over the data sets."""
    ratios = []
    for name, group in mine.items():
        plain = next((g for g in found[name] if not g.alone and _is_plain(g) and g.by_seed(main_score)), None)
        if plain is None or group.alone or not group.by_seed(main_score):
            continue
        ratios.append(group.spread(passes).mean / plain.spread(passes).mean)
    return statistics.fmean(ratios) if ratios else None


def _is_plain(group: Group) -> bool:
    parts = group.rows[0]["spec"]["parts"]
    return len(parts) == 1 and parts[0]["strategy"] == PLAIN and not group.rows[0]["spec"].get("spare_slice")


# ---------------------------------------------------------------------------------------------- as a table
def overview_table(overview: Overview) -> Table:
    """The overview as a table. The best unimodal baseline of each data set comes last, without a rank."""
    several = len(overview.datasets) > 1
    shared = METRICS[next(iter(overview.metrics.values()))] if len(set(overview.metrics.values())) == 1 else ""
    table = Table(
        f"overview: {_counted(overview, shared or 'scores')}",
        [
            "method",
            *(name if shared else f"{name} ({METRICS[overview.metrics[name]]})" for name in overview.datasets),
            *(("mean rank",) if several else ()),
            "Δ plain",
            "Δ control",
            "cost",
        ],
        priority=[0, *[2] * len(overview.datasets), *((1,) if several else ()), 3, 4, 5],
        caption=f"Test {'accuracy' if shared == 'ACC' else shared or 'scores'} in %, mean ± std over {_seeds(overview)}"
        f"{'' if several else f', on {overview.datasets[0]}' if overview.datasets else ''}. Best joint method in bold, second underlined",
    )
    for line in [*overview.joint, *_best_unimodal(overview)]:
        cells = [Cell(line.label)]
        for name in overview.datasets:
            score = line.scores.get(name)
            place = score.place if score else 0
            cells.append(Cell(percent(score.spread) if score else DASH, best=place == 1, second=place == 2))
        if several:
            cells.append(Cell(DASH if line.rank is None else f"{line.rank:.2f}"))
        cells += [Cell(_shown(d, overview.most)) for d in (line.to_plain, line.to_control)]
        cells.append(Cell(DASH if line.cost is None else f"{line.cost:.2f}x"))
        table.body.append(cells)
    if overview.floors:
        scores = [overview.floors.get(name) for name in overview.datasets]
        shown = [DASH if r is None else percent(spread([main_score(r)])) for r in scores]
        rest = len(table.header) - 1 - len(shown)
        table.body.append([Cell("linear baseline"), *map(Cell, shown), *[Cell(DASH)] * rest])
    table.notes += list(_notes(overview))
    return table


def _best_unimodal(overview: Overview) -> list[Line]:
    """One line: on each data set the best of the modalities trained alone."""
    alone = [line for line in overview.lines if line.unimodal]
    best = {}
    for name in overview.datasets:
        scored = [line.scores[name] for line in alone if name in line.scores and line.scores[name].spread.n]
        if scored:
            best[name] = max(scored, key=lambda score: score.spread.mean)
    return [Line("best unimodal", "reference", True, best, None, None, None, None)] if best else []


def _counted(overview: Overview, what: str) -> str:
    n = len(overview.datasets)
    return f"test {what} in %, mean ± std, {n} data set{'s' if n != 1 else ''}, {_seeds(overview)}"


def _seeds(overview: Overview) -> str:
    low, high = overview.n_seeds
    return f"{low} seed{'s' if low != 1 else ''}" if low == high else f"{low} to {high} seeds"


def _shown(difference: Difference | None, most: Basis) -> str:
    if difference is None:
        return DASH
    low, high = difference.interval
    mean = difference_text(mean_text(difference), difference.basis, most, alike=difference.alike)
    return f"{mean} [{100 * low:+.1f}, {100 * high:+.1f}]" if math.isfinite(low) else mean


def _interval_words(overview: Overview) -> str:
    there = any(math.isfinite(d.interval[0]) for d in overview.differences)
    return ", with a 95 % interval (Student's t over seeds)" if there else ""


def _notes(overview: Overview) -> Sequence[str]:
    rows = [row for line in overview.lines for score in line.scores.values() for row in score.rows]
    notes = [
        f"The best joint method of a data set is bold, the second underlined. {selection_note(rows)}",
        f"Δ plain, Δ control: mean difference over the data sets{_interval_words(overview)}, to plain training and to plain "
        "training plus the unimodal losses, with the same head, encoders, budget and training samples. cost: forwards + 2 "
        "backwards of the whole model, relative to plain training.",
        *reference_notes(
            [group for groups in overview.groups.values() for group in groups],
            unlike=any(not d.alike for d in overview.differences),
            fewer=any(d.basis.less_than(overview.most) for d in overview.differences),
        ),
    ]
    if any(math.isinf(d.interval[0]) for d in overview.differences):
        notes.append(NO_INTERVAL)
    notes += sample_note(overview.groups)
    if made := dict.fromkeys(r["dataset"] for r in rows if is_synthetic(r["spec"]["data_params"])):
        notes.append(f"{', '.join(made)}: synthetic data made by mmzoo, not the published data.")
    if overview.critical is not None:
        notes.append(
            f"Mean ranks less than {overview.critical:.2f} apart do not differ significantly (Nemenyi's critical difference "
            f"at 5 % over {len(overview.datasets)} data sets)."
        )
    n = overview.n_seeds[0]
    if n and smallest_p(n) > 0.05:
        notes.append(
            f"With {n} seed{'s' if n != 1 else ''} no permutation test over seeds can give p below {smallest_p(n):g}: read the "
            "differences as a description, not as evidence. More: --stats, --seeds 6."
        )
    failures = [
        f"{line.label} on {name}: {score.note}"
        for line in overview.lines
        for name, score in line.scores.items()
        if score.note
    ]
    return [*notes, *failures]

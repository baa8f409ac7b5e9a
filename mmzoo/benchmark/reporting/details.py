"""Detailed tables: scores and cost, branches and unimodal baselines, paired differences. No torch at import."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mmzoo.benchmark.reporting.floors import below_notes, floor_lines, floor_notes, floors_of
from mmzoo.benchmark.reporting.groups import (
    METRICS,
    Group,
    Row,
    alone_of,
    at,
    compared,
    main_metric,
    main_score,
    plain_of,
    sample_note,
    selection_note,
)
from mmzoo.benchmark.reporting.overview import by_dataset
from mmzoo.benchmark.reporting.short import (
    blind,
    cautions,
    closed,
    delta_notes,
    delta_text,
    failures,
    still_improving_notes,
    to_plain,
)
from mmzoo.benchmark.reporting.statistics import Spread, detectable, paired, smallest_p, spread
from mmzoo.benchmark.reporting.tables import DASH, Cell, Table, number, percent
from mmzoo.benchmark.results.records import as_settings

#: the columns where test scores of every epoch are kept as well, see `SELECTIONS`
TEST_SELECTION = ("test-set selection", "optimism")
TUNED = ("tuning trials", "tuning seconds", "tuning backwards")


def detail_tables(rows: Sequence[Row], bench: Mapping[str, Any]) -> list[Table]:
    """For each data set: scores and cost, branches beside unimodal baselines, and paired differences."""
    tables = []
    for dataset, groups in by_dataset(rows, bench).items():
        refused = [r for r in bench["refused"] if r["dataset"] == dataset]
        tables.append(_scores(dataset, groups, refused, floors_of(rows, dataset)))
        if chosen := _tuned_settings(dataset, groups):
            tables.append(chosen)
        if any(g.by_seed(main_score) for g in groups if not g.alone):
            tables.append(_modalities(dataset, groups))
        if difference := _differences(dataset, groups):
            tables.append(difference)
    return tables


def _scores(
    dataset: str, groups: Sequence[Group], refused: Sequence[Mapping[str, str]], floors: Sequence[Row] = ()
) -> Table:
    main = main_metric(groups)
    metrics = [main, *(m for m in METRICS if m != main)]
    optional = _optional_columns(groups, main)
    header = [
        "method",
        *(METRICS[m] for m in metrics),
        f"last-epoch {METRICS[main]}",
        f"Δ {METRICS[main]} to plain",
        *(name for names, _ in optional for name in names),
        *("samples", "seconds", "forwards", "backwards", "seeds"),
    ]
    table = Table(f"{dataset}: test scores in %, mean ± std over seeds", header)
    paths = [*(("metrics", m) for m in metrics), ("metrics", "last", main)]
    columns = [[group.spread(at(*path)) for path in paths] for group in groups]
    joint = [i for i, g in enumerate(groups) if not g.alone]
    best = [_best([columns[i][c] for i in joint]) for c in range(len(paths))]
    deltas = [to_plain(group, groups) for group in groups]
    most = max((d.spread.n for d in deltas if d), default=0)
    for i, group in enumerate(groups):
        cells = [Cell(percent(s), i in joint and s.n > 0 and s.mean == best[c]) for c, s in enumerate(columns[i])]
        plain = plain_of(group, groups)
        cells.append(Cell(delta_text(deltas[i], most)))
        cells += [Cell(text) for _, texts in optional for text in texts(group, plain)]
        cells += [Cell(text) for text in _cost(group)]
        table.body.append([Cell(group.label), *cells, Cell(str(len(group.by_seed(main_score))))])
        table.notes += failures(group) + cautions(group) + blind(group)
    for r in refused:
        table.body.append([Cell(r["method"])] + [Cell(DASH)] * (len(table.header) - 1))
        table.notes.append(f"{r['method']}: {r['reason']}")
    table.body += floor_lines(floors, _floor_columns(table.header, metrics), DASH)
    table.notes += still_improving_notes(groups)
    table.notes += below_notes(groups, floors) + floor_notes(floors)
    table.notes += _together(groups) + _reading(groups) + _detectable([d.spread for d in deltas if d])
    table.notes += delta_notes(groups, deltas) + sample_note({dataset: groups})
    return table


def _tuned_settings(dataset: str, groups: Sequence[Group]) -> Table | None:
    """The settings that tuning chose for each method; None where no method was tuned."""
    table = Table(
        f"{dataset}: settings chosen on validation, of tuned methods",
        ["method", "settings", "validation as asked", "validation chosen", "trials"],
        words=2,
        notes=[
            "validation as asked: the first trial, the method as it was asked for. Settings are written as --set takes them."
        ],
    )
    for group in groups:
        row = next((r for r in group.rows if "tuning" in r), None)
        if row is not None:
            tuning, strategies = row["tuning"], [part["strategy"] for part in row["spec"]["parts"]]
            held = (
                [f"{100 * tuning['holdout'][k]:.1f}" for k in ("first", "best")]
                if "holdout" in tuning
                else [DASH, DASH]
            )
            cells = [
                group.label,
                as_settings(tuning["chosen"], row["method"], strategies),
                *held,
                str(tuning["trials"]),
            ]
            table.body.append([Cell(c) for c in cells])
    return table if table.body else None


def _optional_columns(
    groups: Sequence[Group], main: str
) -> list[tuple[tuple[str, ...], Callable[[Group, Group | None], list[str]]]]:
    """The names of columns that only some benches have, and what gives their cells for a group and its plain training."""

    def bayes(group: Group, plain: Group | None) -> list[str]:
        return [percent(spread(list(group.by_seed(at("bayes")).values())[:1])), closed(group, plain)]

    def selected(group: Group, plain: Group | None) -> list[str]:
        chosen, optimism = (group.spread(at("metrics", "peers", k)) for k in (main, "flatters"))
        return [percent(chosen), percent(optimism, sign=True)]

    def tuned(group: Group, plain: Group | None) -> list[str]:
        return [number(group.spread(at("tuning", k)), 0) for k in ("trials", "seconds", "backward")]

    rows = [row for group in groups for row in group.rows]
    every = [
        (any("bayes" in r for r in rows), ("Bayes", "closed"), bayes),
        (any("peers" in r["metrics"] for r in rows), TEST_SELECTION, selected),
        (any("tuning" in r for r in rows), TUNED, tuned),
    ]
    return [(names, cells) for there, names, cells in every if there]


def _cost(group: Group) -> list[str]:
    """Training samples, seconds, forwards and backwards."""
    return [
        number(group.spread(at("cost", "train_items")), 0),
        number(group.spread(at("timing", "seconds"))),
        *(number(group.spread(at("cost", k)), 0) for k in ("forward", "backward")),
    ]


def _floor_columns(header: Sequence[str], metrics: Sequence[str]) -> dict[str, Callable[[Row], str]]:
    """Every column of the table of scores but the first -> the text that a floor has there."""
    columns: dict[str, Callable[[Row], str]] = {name: lambda row: DASH for name in header[1:]}
    for m in metrics:
        columns[METRICS[m]] = lambda row, m=m: percent(spread([row["metrics"][m]]))  # type: ignore[misc]
    columns["samples"] = lambda row: str(row["cost"]["train_items"])
    columns["seconds"] = lambda row: f"{row['timing']['seconds']:.1f}"
    columns["seeds"] = lambda row: "1"
    return columns


def _together(groups: Sequence[Group]) -> list[str]:
    """How multi-process runs differ from single-process ones."""
    said: dict[str, list[str]] = {}
    for group in groups:
        for row in group.rows:
            for text in row.get("per_process", []):
                said.setdefault(f"trained by {row['processes']} processes: {text}", []).append(group.label)
    return [f"{', '.join(dict.fromkeys(labels))}: {text}" for text, labels in said.items()]


def _reading(groups: Sequence[Group]) -> list[str]:
    counts = [len(g.by_seed(main_score)) for g in groups]
    notes = [
        f"{selection_note([r for g in groups for r in g.rows])} "
        "samples: training samples. seconds: training time, validation included. forwards, backwards: "
        "whole-model passes over a batch. Δ: difference to plain training with the same head, budget and samples; "
        f"{DASH} where there is no such run."
    ]
    if any("peers" in r["metrics"] for g in groups for r in g.rows):
        notes.append(
            "test-set selection: the same runs, with the epoch selected on the test split, as is common in the field. It "
            "is biased upwards; optimism is the difference to the reported score. No other number here uses it."
        )
    if any("bayes" in r for g in groups for r in g.rows):
        notes.append(
            "Synthetic data. Bayes: the accuracy of the optimal classifier on the modalities of the row, known from the "
            "generator. closed: the fraction of the gap between plain training and Bayes accuracy that the method closes, "
            "(ACC - plain) / (Bayes - plain)."
        )
    if any("tuning" in r for g in groups for r in g.rows):
        notes.append(
            "tuning trials: settings were selected on the validation set, with the same number of trials and epochs for every "
            "method and a seed that is not reported. The other columns do not include the cost of tuning."
        )
    if taught := [g.label for g in groups if any(r.get("teachers") for r in g.rows)]:
        notes.append(
            f"{', '.join(taught)}: seconds, forwards and backwards include the training of the teachers. Teachers are "
            "trained once and counted in each row that uses them."
        )
    n = min((c for c in counts if c), default=0)
    if n and smallest_p(n) > 0.05:
        notes.append(
            f"With {n} seed{'s' if n > 1 else ''}, no sign or permutation test can give p below {smallest_p(n):g}: the "
            "differences describe these runs and are no evidence beyond them."
        )
    return notes


def _modalities(dataset: str, groups: Sequence[Group]) -> Table:
    main = main_metric(groups)
    alone = list(dict.fromkeys(g.rows[0]["modality"] for g in groups if g.alone))
    inside = [g for g in groups if not g.alone and g.by_seed(main_score)]
    modalities = list(
        dict.fromkeys(m for g in inside for r in g.rows if r["status"] == "ok" for m in r["spec"]["encoders"])
    )
    modalities += [m for m in alone if m not in modalities]
    table = Table(
        f"{dataset}: each modality's {METRICS[main]} in %: branch of the joint model, linear probe, unimodal baseline",
        [
            "method",
            *(f"{m} {what}" for m in modalities for what in ("branch", "probe", "unimodal")),
            "branch gap",
            "probe gap",
            "branch logits",
        ],
    )
    for group in inside:
        cells = [Cell(group.label)]
        for m in modalities:
            for what in ("own", "probe"):
                cells.append(Cell(percent(group.spread(at("metrics", "modalities", m, what, main)))))
            by_itself = alone_of(m, group, groups)
            own = at("metrics", "modalities", m, "own", main)
            cells.append(Cell(percent(by_itself.spread(own)) if by_itself else DASH))
        cells += [Cell(percent(group.spread(at("metrics", "gap", k)))) for k in ("own", "probe")]
        how = next(r["metrics"]["own_logits"] for r in group.rows if r["status"] == "ok")
        table.body.append([*cells, Cell(how)])
    if inside:
        table.notes.append(
            "branch: the logits of one modality inside the joint model; the last column gives their source (exact: computed "
            "by the head; slice: its part of the joint classifier; ablated: the other features set to zero). probe: a "
            "linear classifier on the frozen encoder. unimodal: the modality trained by itself. All three are scored on the test samples that have the modality. A low "
            "branch score with a high probe means that the head neglects the branch; a low probe means that the encoder is "
            "under-trained."
        )
        missing = [g.label for g in groups if not g.alone and g not in inside]
        if missing:
            table.notes.append(f"not listed, for the reasons above: {', '.join(missing)}")
    return table


def _differences(dataset: str, groups: Sequence[Group]) -> Table | None:
    main = main_metric(groups)
    table = Table(
        f"{dataset}: paired differences in {METRICS[main]}, points, mean ± std over common seeds",
        ["difference", METRICS[main], "wins", "seeds"],
    )
    found = []
    for group, other in compared(groups):
        a, b = group.by_seed(main_score), other.by_seed(main_score)
        found.append(paired(a, b))
        wins = sum(a[s] > b[s] for s in set(a) & set(b))
        table.body.append(
            [
                Cell(f"{group.label} minus {other.label}"),
                Cell(percent(found[-1], sign=True)),
                Cell(f"{wins}/{found[-1].n}"),
                Cell(str(found[-1].n)),
            ]
        )
    table.notes += _detectable(found)
    return table if table.body else None


def _detectable(differences: Sequence[Spread]) -> list[str]:
    """The smallest difference that a paired t-test over so many seeds detects with 80 % power, at the median std here."""
    spreads = [(s.n, s.deviation) for s in differences if s.deviation is not None]
    if not spreads:
        return []
    n, deviation = min(n for n, _ in spreads), statistics.median(d for _, d in spreads)
    if not deviation:
        return []
    return [
        f"Power: with {n} seeds and the median std of these differences ({100 * deviation:.1f}), a paired t-test at 5 % "
        f"has 80 % power to detect a difference of {100 * detectable(n) * deviation:.1f} points."
    ]


def _best(spreads: Iterable[Spread]) -> float:
    return max((s.mean for s in spreads if s.n), default=math.nan)

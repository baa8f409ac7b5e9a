"""Tables of the scores under stress: the areas of each method, and every curve. No torch or numpy at import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmzoo.benchmark.reporting.groups import METRICS, Row, main_metric, main_score
from mmzoo.benchmark.reporting.overview import by_dataset
from mmzoo.benchmark.reporting.robustness.curves import Stressed, stressed
from mmzoo.benchmark.reporting.tables import DASH, Cell, Table, percent
from mmzoo.benchmark.results.store import Store
from mmzoo.config.spec import STRESSES
from mmzoo.errors import CorruptFile

_LEVELS = {"missing": "share of the test samples that lack the modality", "noise": "strength of the corruption"}


def stress_tables(
    rows: Sequence[Row], bench: Mapping[str, Any], store: Store, faults: list[CorruptFile] | None = None
) -> list[Table]:
    """For each data set with curves: one table of areas, and one of curves for each kind of stress.

    Args:
        rows, bench: As `mmzoo.benchmark.report.tables` takes them.
        store: Where the files beside the rows are.
        faults: Takes an error for each file that cannot be used.
    """
    found = []
    for dataset, groups in by_dataset(rows, bench).items():
        if not (lines := stressed(groups, store, faults)):
            continue
        metric = METRICS[main_metric(groups)]
        found.append(_areas(dataset, metric, lines))
        found += [_curves(dataset, metric, lines, kind) for kind in STRESSES if any(each.keys(kind) for each in lines)]
    return found


def _areas(dataset: str, metric: str, lines: Sequence[Stressed]) -> Table:
    kinds = [kind for kind in STRESSES if any(each.keys(kind) for each in lines)]
    header = ["method", metric, *(f"{what} {kind}" for kind in kinds for what in ("area", "worst")), "seeds"]
    table = Table(f"{dataset}: {metric} in % under stress, mean ± std over seeds", header)
    joint = [each for each in lines if not each.group.alone]
    best = {k: max((a.mean for s in joint if (a := s.mean_area(k)).n), default=None) for k in kinds}
    for each in lines:
        cells = [Cell(each.group.label), Cell(percent(each.group.spread(main_score)))]
        for kind in kinds:
            area = each.mean_area(kind)
            cells.append(Cell(percent(area), best=not each.group.alone and bool(area.n) and area.mean == best[kind]))
            cells.append(Cell(_worst(each, kind)))
        table.body.append([*cells, Cell(str(len(each.curves)))])
    table.notes.append(
        "area: the mean score under the curve over the levels, and over modalities and corruptions; all of the score is kept where "
        "it equals the second column. worst: the modality with the smallest area. Models are those of the rows: nothing is trained "
        "under stress. A modality alone is stressed in its only input, so that its missing curve ends at the bias."
    )
    return table


def _worst(line: Stressed, kind: str) -> str:
    areas = [(a.mean, key[1]) for key in line.keys(kind) if (a := line.area(key)).n]
    if not areas:
        return DASH
    score, modality = min(areas)
    return f"{100 * score:.1f} {modality}"


def _curves(dataset: str, metric: str, lines: Sequence[Stressed], kind: str) -> Table:
    named = kind != "missing"
    points = max(
        len(c.levels) for each in lines for found in each.curves.values() for k, c in found.items() if k[0] == kind
    )
    first = next(c for each in lines for found in each.curves.values() for k, c in found.items() if k[0] == kind)
    heads = [str(i) for i in range(points)] if named else [f"{100 * level:.0f} %" for level in first.levels]
    header = ["method", "modality", *(["corruption"] if named else []), *heads, "area"]
    table = Table(f"{dataset}: {metric} in % by {_LEVELS[kind]}", header, words=3 if named else 2)
    for each in lines:
        for key in each.keys(kind):
            cells = [Cell(each.group.label), Cell(key[1]), *([Cell(key[2])] if named else [])]
            cells += [Cell(percent(each.at(key, i))) for i in range(points)]
            table.body.append([*cells, Cell(percent(each.area(key)))])
    table.notes.append(
        "0: the samples as they are." if named else "The same samples lack the modality for every method and seed."
    )
    return table

"""The charts of a report as PDF and SVG files. Needs vl-convert-python when figures are drawn."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmzoo.benchmark.reporting.figures import charts, collect
from mmzoo.benchmark.reporting.figures.map_cells import find_maps
from mmzoo.benchmark.reporting.figures.map_chart import phase_diagram
from mmzoo.benchmark.reporting.figures.stress_chart import stress_chart, stress_records
from mmzoo.benchmark.reporting.groups import METRICS, Group, Row, main_metric, main_score
from mmzoo.benchmark.reporting.overview import Overview, by_dataset, make_overview
from mmzoo.benchmark.reporting.robustness.curves import stressed
from mmzoo.benchmark.results.comparable import separated
from mmzoo.benchmark.results.store import Store
from mmzoo.config.spec import STRESSES
from mmzoo.errors import BadValue, MmzooError
from mmzoo.io.files import write_bytes

FORMS = ("pdf", "svg")
#: what beside the plot takes part in the width of a facetted chart: axis, labels, heading
BESIDE = {"row": 165, "columns": 60}


def draw_figures(rows: Sequence[Row], bench: Mapping[str, Any], store: Store, folder: Path) -> list[Path]:
    """Write every figure that the rows allow, each in FORMS.

    Returns:
        The files.

    Raises:
        MmzooError: without vl-convert-python.
        BadValue: where the folder cannot be written.
    """
    files = []
    for name, spec in figures(rows, bench, store).items():
        for form in FORMS:
            path = folder / f"{re.sub(r'[^A-Za-z0-9_=,-]+', '_', name)}.{form}"
            try:
                write_bytes(path, convert(spec, form))
            except OSError as error:
                raise BadValue(f"figures cannot be written to {folder}: {error}. Name another folder.") from None
            files.append(path)
    return files


def figures(rows: Sequence[Row], bench: Mapping[str, Any], store: Store) -> dict[str, charts.Spec]:
    """name -> the specification of each figure that the rows allow."""
    rows, _ = separated(rows)
    overview = make_overview(rows, bench)
    palette = charts.palette(overview)
    found: dict[str, charts.Spec | None] = {}
    for dataset, groups in by_dataset(rows, bench).items():
        if any(g.by_seed(main_score) for g in groups):
            found |= {f"{kind}-{dataset}": spec for kind, spec in _of(groups, store, palette).items()}
    found["critical-difference"] = rank_chart(overview)
    found |= {f"map-{each.name}": phase_diagram(each, palette) for each in find_maps(rows, bench)}
    return {name: spec for name, spec in found.items() if spec is not None}


def rank_chart(overview: Overview) -> charts.Spec | None:
    """The critical-difference diagram; None where there are too few methods or data sets."""
    if overview.critical is None:
        return None
    return charts.ranks(*collect.rank_records(overview), overview.critical, len(overview.datasets))


def _of(groups: Sequence[Group], store: Store, palette: Mapping[str, int]) -> dict[str, charts.Spec | None]:
    metric = METRICS[main_metric(groups)]
    joint = {g.label: palette[g.label] for g in collect.joint_of(groups)}
    every = joint | {g.label: palette[g.label] for g in groups if g.alone}
    histories = collect.histories(groups, store)
    curved = [each for each in stressed(groups, store) if each.group.label in joint]
    alpha = [v for v in collect.logged_values(histories) if v["name"].rpartition("/")[2] == "alpha"]
    return {
        "scores": charts.scores(collect.seed_scores(groups), every, metric),
        "branches": charts.branches(collect.branch_scores(groups), joint, metric),
        "curves": charts.curves(collect.learning_curves(histories, main_metric(groups)), joint, metric),
        "alpha": charts.logged(alpha, joint, ["alpha"], choose=False),
        "gap": charts.gap(collect.gaps(groups), joint, metric),
        "cost": charts.cost(collect.costs(groups), joint, metric),
        "calibration": charts.calibration(collect.reliability(groups, store)[0], joint),
        **{kind: stress_chart(stress_records(curved, kind), joint, metric, kind) for kind in STRESSES},
    }


def in_a_column(spec: charts.Spec) -> charts.Spec:
    """The chart as wide as a column of a two-column page, where a pixel is a point: its text keeps its size, 8 at least.

    Legends go below.
    """
    found = copy.deepcopy(spec)
    _legends_below(found)
    if inner := found.get("spec"):
        columns = found.get("columns", 1)
        beside = BESIDE["row"] if "row" in found["facet"] else BESIDE["columns"]
        inner["width"] = (charts.COLUMN - beside) / columns
    else:
        found |= {"width": charts.COLUMN, "autosize": {"type": "fit-x", "contains": "padding"}}
    return found


def _legends_below(value: Any) -> None:
    """Give every colour, shape and dash a legend below in two columns, where it has one."""
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _legends_below(part)
    if isinstance(value, dict):
        for channel in ("color", "shape", "strokeDash"):
            given = value.get(channel)
            if isinstance(given, dict) and "field" in given and given.get("legend", {}) is not None:
                given["legend"] = {"orient": "bottom", "columns": 2, "labelLimit": 85, "title": None}


def convert(spec: charts.Spec, form: str) -> bytes:
    """A chart as the bytes of a PDF, an SVG or a PNG. Raises MmzooError without vl-convert-python."""
    try:
        import vl_convert
    except ImportError as error:
        raise MmzooError(
            f"figures need vl-convert-python ({error}). Install it: pip install vl-convert-python"
        ) from None
    given = {**in_a_column(spec), "config": charts.CONFIG}
    if form == "svg":
        return str(vl_convert.vegalite_to_svg(given)).encode()
    if form == "pdf":
        return bytes(vl_convert.vegalite_to_pdf(given))
    return bytes(vl_convert.vegalite_to_png(given, scale=2))

"""Render the HTML report: one self-contained file with a leaderboard, charts and every run, without network requests.

Used by `mmzoo report` and `mmzoo watch`. Does not import torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmzoo import __version__
from mmzoo.benchmark.reporting.figures import charts, collect
from mmzoo.benchmark.reporting.figures.drawing import rank_chart
from mmzoo.benchmark.reporting.figures.map_cells import find_maps
from mmzoo.benchmark.reporting.figures.map_chart import phase_diagram
from mmzoo.benchmark.reporting.figures.stress_chart import stress_chart, stress_records
from mmzoo.benchmark.reporting.groups import (
    METRICS,
    Basis,
    Difference,
    Group,
    Row,
    at,
    difference_text,
    main_metric,
    mean_text,
)
from mmzoo.benchmark.reporting.overview import (
    Line,
    Overview,
    by_dataset,
    make_overview,
    overview_table,
)
from mmzoo.benchmark.reporting.robustness.curves import stressed
from mmzoo.benchmark.reporting.short import short_tables
from mmzoo.benchmark.reporting.statistics import spread
from mmzoo.benchmark.reporting.tables import DASH, Table, one_line, percent
from mmzoo.benchmark.results.paper_figures import read_figures
from mmzoo.benchmark.results.status import unfinished_words, without_row
from mmzoo.benchmark.results.store import Store
from mmzoo.config.spec import STRESSES
from mmzoo.errors import CorruptFile, MmzooError

HERE = Path(__file__).parent


def render_page(
    rows: Sequence[Row],
    bench: Mapping[str, Any],
    store: Store,
    *,
    out: Path | None = None,
    tables: Sequence[Table] = (),
    live: str = "",
    faults: list[CorruptFile] | None = None,
) -> str:
    """The report as one HTML file.

    Args:
        rows, bench: as the store has them, see `Store.bench`.
        store: holds histories and predictions of the rows.
        out: where the page will be written; links to the files of a run are relative to it.
        tables: further tables, such as those of `--stats`.
        live: for a page that a server updates: the server's name of the state that the page shows.
        faults: takes an error for each file of predictions that is there and cannot be used.

    Raises MmzooError without jinja2 or vl-convert-python.
    """
    overview = make_overview(rows, bench)
    datasets = by_dataset(rows, bench)
    palette = charts.palette(overview)
    missing, n_planned = without_row(store)
    specs: dict[str, Any] = {}
    sections = _sections(datasets, short_tables(rows, bench), store, specs, palette, faults)
    if chart := rank_chart(overview):
        specs["ranks"] = chart
    specs |= (maps := {f"map{i}": phase_diagram(each, palette) for i, each in enumerate(find_maps(rows, bench))})
    context = {
        "version": __version__,
        "live": live,
        "overview": overview,
        "unfinished": unfinished_words(len(missing), n_planned) if missing else "",
        "notes": overview_table(overview).notes,
        "board": _board(overview, datasets),
        "sections": sections,
        "tables": tables,
        "ranks": "ranks" in specs,
        "maps": [{"id": name, "label": spec["description"]} for name, spec in maps.items()],
        "paper": read_figures(store.root),
        "runs": _runs(datasets, _base(store.root, out)),
        "equal": _equal(rows),
        "environments": collect.environments(rows),
        "command": bench.get("command", ""),
        "where": str(store.root),
        "specs": _embedded({"charts": specs, "config": charts.CONFIG}),
        "runtime": _runtime() if specs else "",
        "style": (HERE / "report.css").read_text(encoding="utf-8"),
        "script": (HERE / "report.js").read_text(encoding="utf-8"),
    }
    return f"{_environment().get_template('report.html.j2').render(context)}\n"


def _sections(
    datasets: Mapping[str, Sequence[Group]],
    tables: Sequence[Table],
    store: Store,
    specs: dict[str, Any],
    palette: Mapping[str, int],
    faults: list[CorruptFile] | None,
) -> list[dict[str, Any]]:
    """A section for each data set. Its charts are added to `specs`."""
    found = []
    for i, ((name, groups), short) in enumerate(zip(datasets.items(), tables, strict=True)):
        shown = _charts(groups, store, f"d{i}", specs, palette, faults)
        found.append({"id": f"d{i}", "name": name, "table": short, "charts": shown, "notes": _notes(groups)})
    return found


def _environment() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise MmzooError(f"the HTML report needs jinja2 ({error}). Install it: pip install jinja2") from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"visible": one_line, "percent": percent}
    return environment


@lru_cache(maxsize=1)
def _runtime() -> str:
    """Vega, Vega-Lite and vega-embed as one script."""
    try:
        import vl_convert
    except ImportError as error:
        raise MmzooError(
            f"the charts of the HTML report need vl-convert-python ({error}). Install it: pip install vl-convert-python"
        ) from None
    # A closing tag inside a string of the script would end its element.
    return str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")).replace("</script", "<\\/script")


def _embedded(value: Any) -> str:
    """JSON that is safe inside a script element."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026").replace("\u2028", "\\u2028")


def _charts(
    groups: Sequence[Group],
    store: Store,
    prefix: str,
    specs: dict[str, Any],
    palette: Mapping[str, int],
    faults: list[CorruptFile] | None,
) -> list[dict[str, str]]:
    """Add the charts of a data set to `specs`. Returns id and caption of each."""
    metric = METRICS[main_metric(groups)]
    joint = {g.label: palette[g.label] for g in collect.joint_of(groups)}
    every = {**joint, **{g.label: palette[g.label] for g in groups if g.alone}}
    found = collect.histories(groups, store)
    logged = collect.logged_values(found)
    names = list(dict.fromkeys(v["name"] for v in logged))
    predictions = collect.predicted(groups, store, faults)
    matrices, axes = collect.class_records(predictions)
    bins, errors = collect.reliability(predictions)
    curved = [each for each in stressed(groups, store) if each.group.label in joint]
    drawn = {
        "scores": charts.scores(collect.seed_scores(groups), every, metric),
        "branches": charts.branches(collect.branch_scores(groups), joint, metric),
        "curves": charts.curves(collect.learning_curves(found, main_metric(groups)), joint, metric),
        "logged": charts.logged(logged, joint, names) if names else None,
        "gap": charts.gap(collect.gaps(groups), joint, metric),
        "cost": charts.cost(collect.costs(groups), joint, metric),
        "confusion": charts.confusion(matrices, **axes) if matrices else None,
        "calibration": charts.calibration(bins, joint),
        **{k: stress_chart(stress_records(curved, k), joint, metric, k) for k in STRESSES},
    }
    captions = {"calibration": "ECE in %: " + ", ".join(f"{k} {v:.1f}" for k, v in errors.items())} if errors else {}
    shown = []
    for kind, spec in drawn.items():
        if spec is not None:
            specs[f"{prefix}-{kind}"] = spec
            shown.append({"id": f"{prefix}-{kind}", "label": spec["description"], "caption": captions.get(kind, "")})
    return shown


def _board(overview: Overview, datasets: Mapping[str, Sequence[Group]]) -> list[dict[str, Any]]:
    """The leaderboard: for each method a cell for each data set, with the value of each metric and where its runs are."""
    numbers = {name: f"d{i}" for i, name in enumerate(overview.datasets)}
    board = []
    for line in sorted(overview.lines, key=lambda each: each.unimodal):
        cells = []
        for name in overview.datasets:
            score = line.scores.get(name)
            group = next((g for g in datasets[name] if g.label == line.label), None)
            values = {m: group.spread(at("metrics", m)) if group else spread([]) for m in METRICS}
            cells.append(
                {
                    "dataset": numbers[name],
                    "place": score.place if score else 0,
                    "note": score.note if score else "",
                    "main": overview.metrics[name],
                    "values": {m: (s.mean if s.n else "", percent(s)) for m, s in values.items()},
                    "runs": f"runs-{numbers[name]}-{_slug(line.label)}" if group else "",
                }
            )
        board.append({"line": line, "cells": cells, **_cells(line, overview.most)})
    return board


def _cells(line: Line, most: Basis) -> dict[str, tuple[Any, str, str]]:
    """The differences of a line to plain training and to the control."""
    return {"plain": _cell(line.to_plain, most), "control": _cell(line.to_control, most)}


def _cell(difference: Difference | None, most: Basis) -> tuple[Any, str, str]:
    """Value to sort by, text, and interval of a difference. most: what the strongest of the table rests on."""
    if difference is None:
        return "", DASH, ""
    low, high = (100 * bound for bound in difference.interval)
    text = difference_text(mean_text(difference), difference.basis, most, alike=difference.alike)
    return 100 * difference.spread.mean, text, f"{low:+.1f} to {high:+.1f}" if abs(low) < 1e6 else ""


def _runs(datasets: Mapping[str, Sequence[Group]], base: str) -> list[dict[str, Any]]:
    """Each group of runs: what they are, and the files of each."""
    found = []
    for i, (name, groups) in enumerate(datasets.items()):
        for group in groups:
            spec = {k: v for k, v in group.rows[0]["spec"].items() if k != "seed"}
            found.append(
                {
                    "id": f"runs-d{i}-{_slug(group.label)}",
                    "dataset": name,
                    "label": group.label,
                    "spec": json.dumps(spec, indent=1, sort_keys=True),
                    "rows": [{**r, "folder": f"{base}/runs/{r['run_id']}"} for r in group.rows],
                }
            )
    return found


def _slug(label: str) -> str:
    """An id that is unique for a label: letters and digits as they are, everything else by its code."""
    return "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):x}" for c in label)


def _base(root: Path, out: Path | None) -> str:
    """The results folder, as seen from the page."""
    from urllib.parse import quote

    start = root if out is None else out.resolve().parent
    try:
        return quote(Path(os.path.relpath(root.resolve(), start.resolve())).as_posix())
    except ValueError:  # another drive
        return quote(root.resolve().as_posix())


def _equal(rows: Sequence[Row]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for record in collect.held_equal(rows):
        found.setdefault(record["dataset"], []).append(record)
    return found


def _notes(groups: Sequence[Group]) -> list[str]:
    """Warnings and failures of the runs of a data set."""
    notes = [
        f"{g.label}, seed {r['seed']}: {r['status']}, {r['reason']}"
        for g in groups
        for r in g.rows
        if r["status"] != "ok"
    ]
    warned = {f"{g.label}: {message}" for g in groups for r in g.rows for message in r.get("warnings", {})}
    return [*notes, *sorted(warned)]

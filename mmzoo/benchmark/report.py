"""The report of a benchmark: which tables it has, and their forms. No torch at import."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmzoo.benchmark.reporting.classes import class_tables
from mmzoo.benchmark.reporting.comparison import comparison_tables
from mmzoo.benchmark.reporting.details import detail_tables
from mmzoo.benchmark.reporting.figures.map_cells import map_tables
from mmzoo.benchmark.reporting.groups import Row
from mmzoo.benchmark.reporting.modalities import modality_tables
from mmzoo.benchmark.reporting.overview import make_overview, overview_table
from mmzoo.benchmark.reporting.robustness.tables import stress_tables
from mmzoo.benchmark.reporting.short import short_tables
from mmzoo.benchmark.reporting.tables import Cell, Table, labels, latex, markdown, to_csv
from mmzoo.benchmark.results.comparable import separated
from mmzoo.benchmark.results.forms import SCHEMA
from mmzoo.benchmark.results.status import unfinished_words, without_row
from mmzoo.benchmark.results.store import Store
from mmzoo.errors import CorruptFile

FORMATS = ("md", "csv", "json", "latex", "html")
#: the parts of a report; the first is there unless others are asked for
VIEWS = ("overview", "details", "modalities", "map", "stats", "stress")


def tables(
    rows: Sequence[Row],
    bench: Mapping[str, Any],
    store: Store,
    views: Sequence[str] = (),
    faults: list[CorruptFile] | None = None,
) -> list[Table]:
    """The tables of some VIEWS, by default of the overview. Rows that may not be compared have headings of their own. Before
    them a table of the planned runs that have no row, where there are any.

    Args:
        rows: rows as the store has them.
        bench: order and roles of the methods, as `Store.bench` gives them.
        store: where predictions are read from, for "stats", and curves, for "stress".
        views: names of VIEWS; nothing for the overview.
        faults: takes an error for each row whose predictions or curves cannot be used, see `comparison_tables`.
    """
    return [*_unfinished(store), *_tables(rows, bench, store, views, faults)]


def _tables(
    rows: Sequence[Row],
    bench: Mapping[str, Any],
    store: Store,
    views: Sequence[str],
    faults: list[CorruptFile] | None,
) -> list[Table]:
    rows, notes = separated(rows)
    found: list[Table] = []
    for view in views or VIEWS[:1]:
        if view == "overview":
            first = overview_table(make_overview(rows, bench))
            found += [first, *short_tables(rows, bench, said=first.notes)]
        elif view == "details":
            found += [*detail_tables(rows, bench), *class_tables(rows, bench, store, faults)]
        elif view == "modalities":
            found += modality_tables(rows, bench)
        elif view == "stress":
            found += stress_tables(rows, bench, store, faults)
        elif view == "map":
            found += map_tables(rows, bench)
        else:
            found += comparison_tables(rows, bench, store, faults)
    if found:
        found[0].notes += notes
    return found


def _unfinished(store: Store) -> list[Table]:
    missing, n = without_row(store)
    if not missing:
        return []
    table = Table(
        unfinished_words(len(missing), n),
        ["data set", "methods", "runs without a row"],
        words=2,
        notes=[
            "The tables below are of the other runs. The command of the bench does the rest when it is given again."
        ],
    )
    for name in dict.fromkeys(m["dataset"] for m in missing):
        labels = [m["label"] for m in missing if m["dataset"] == name]
        table.body.append([Cell(name), Cell(", ".join(dict.fromkeys(labels))), Cell(str(len(labels)))])
    return [table]


def json_pieces(rows: Iterable[Row]) -> Iterator[str]:
    """The rows as one JSON object, piece by piece, one row a line: no more than one row is in memory as text."""
    yield '{\n "rows": ['
    for n, row in enumerate(rows):
        yield f"{',' if n else ''}\n  {json.dumps(row, sort_keys=True)}"  # indent takes over three times as long
    yield f'\n ],\n "schema": {SCHEMA}\n}}\n'


def render(
    rows: Sequence[Row],
    bench: Mapping[str, Any],
    store: Store,
    fmt: str,
    views: Sequence[str] = (),
    *,
    out: Path | None = None,
    faults: list[CorruptFile] | None = None,
) -> str:
    """The report in one of FORMATS.

    Args:
        rows, bench, store, views, faults: see `tables`. json and csv hold every number of every row, whatever the views.
        fmt: one of FORMATS.
        out: the file that an HTML page is written to, for its links to the files of a run.
    """
    if fmt == "json":
        return "".join(json_pieces(rows))
    if fmt == "csv":
        return to_csv(rows)
    if fmt == "html":
        from mmzoo.benchmark.reporting.html.page import render_page

        more = _tables(rows, bench, store, views, faults) if views else []
        return render_page(separated(rows)[0], bench, store, out=out, tables=more, faults=faults)
    found = tables(rows, bench, store, views, faults)
    return "\n".join(map(markdown, found) if fmt == "md" else map(latex, found, labels(found)))

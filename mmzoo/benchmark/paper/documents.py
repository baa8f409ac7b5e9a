"""The tables and figures of the paper as files: Markdown, LaTeX, CSV, JSON and one HTML page. No torch at import."""

from __future__ import annotations

import csv
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmzoo.benchmark.paper.cells import Compared, Found, comparison_table, paper_table
from mmzoo.benchmark.paper.printed import Printed
from mmzoo.benchmark.reporting.tables import Table, latex, markdown
from mmzoo.errors import BadValue
from mmzoo.io.files import write_bytes

_STYLE = (
    "body{font:14px/1.5 Helvetica,Arial,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:.5em 0}th,td{padding:.2em .7em;text-align:right;border-bottom:1px solid #ddd}"
    "th:first-child,td:first-child{text-align:left}thead th{border-bottom:2px solid #333}figure{margin:1em 0}"
    "div.wide{overflow-x:auto}li{color:#555}"
)


@dataclass
class Document:
    """A table or figure of the paper as we have it. pictures: caption -> SVG."""

    name: str
    title: str
    tables: Sequence[Table] = ()
    records: Sequence[Mapping[str, Any]] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def table_document(printed: Printed, cells: Sequence[Compared], found: Mapping[str, Found]) -> Document:
    if not found:
        return Document(
            printed.name, printed.place, notes=["None of its data sets is among those that were asked for."]
        )
    shown = [paper_table(printed, cells, found)]
    shown += [comparison_table(printed, cells, d, f) for d, f in found.items() if d in printed.columns]
    notes = [*printed.notes]
    known = f"{printed.n_cells} of {printed.prints or 'its'} printed numbers have a source here."
    notes.append(known)
    notes += [
        f"Printed, without a known cell: {', '.join(map(str, u['values']))} ({u['about']})." for u in printed.unplaced
    ]
    shown[0].notes += notes
    return Document(printed.name, printed.place, shown, [_record(printed.name, c, found[c.dataset]) for c in cells])


def _record(table: str, cell: Compared, found: Found) -> dict[str, Any]:
    s = cell.ours
    return {
        "table": table,
        "row": cell.row,
        "dataset": cell.dataset,
        "column": cell.column,
        "synthetic": found.synthetic,
        "fast": found.fast,
        "seeds": s.n,
        "ours": round(100 * s.mean, 4) if s.n else None,
        "deviation": None if s.deviation is None else round(100 * s.deviation, 4),
        "printed": list(cell.printed),
        "difference": round(cell.difference, 4) if math.isfinite(cell.difference) else None,
        "error": round(cell.error, 4) if math.isfinite(cell.error) else None,
        "reason": cell.reason,
    }


def write_documents(documents: Sequence[Document], folder: Path) -> list[Path]:
    """Each document as NAME.md, .tex, .csv, .json and .svg, and all of them as index.html. Raises BadValue where the folder cannot be
    written."""
    files: dict[str, str] = {"index.html": page(documents)}
    for each in documents:
        if each.tables:
            files[f"{each.name}.md"] = "\n".join(map(markdown, each.tables))
            files[f"{each.name}.tex"] = "\n".join(map(latex, each.tables))
        if each.records:
            files[f"{each.name}.csv"] = _csv(each.records)
        names = {f"{each.name}.svg" if i == 0 else f"{each.name}-{i}.svg": c for i, c in enumerate(each.pictures)}
        files |= {file: each.pictures[caption] for file, caption in names.items()}
        if each.records or names:
            told = {"pictures": names, "notes": list(each.notes)} if names else {}
            value = {"schema": 1, "cells": list(each.records), **told}
            files[f"{each.name}.json"] = json.dumps(value, indent=1) + "\n"
    try:
        for name, text in files.items():
            write_bytes(folder / name, text.encode())
    except OSError as error:
        raise BadValue(f"the tables cannot be written to {folder}: {error}. Name another folder with --out.") from None
    return [folder / name for name in files]


def _csv(records: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(records[0]), lineterminator="\n")
    writer.writeheader()
    for record in records:
        writer.writerow({k: " / ".join(map(str, v)) if isinstance(v, list) else v for k, v in record.items()})
    return out.getvalue()


def page(documents: Sequence[Document]) -> str:
    """One HTML page without scripts."""
    parts = [
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Tables and figures</title><style>{_STYLE}</style></head><body>"
    ]
    for each in documents:
        parts.append(f"<h2>{html.escape(each.title)}</h2>")
        parts += [_html_table(table) for table in each.tables]
        for caption, svg in each.pictures.items():
            parts.append(f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>")
        if each.notes:
            parts.append("<ul>" + "".join(f"<li>{html.escape(n)}</li>" for n in each.notes) + "</ul>")
    return "\n".join([*parts, "</body></html>"])


def _html_table(table: Table) -> str:
    head = "".join(f"<th scope='col'>{html.escape(h)}</th>" for h in table.header)
    lines = []
    for row in table.body:
        marked = [
            f"<b>{html.escape(c.text)}</b>"
            if c.best
            else f"<u>{html.escape(c.text)}</u>"
            if c.second
            else html.escape(c.text)
            for c in row
        ]
        lines.append("<tr>" + "".join(f"<td>{m}</td>" for m in marked) + "</tr>")
    notes = "<ul>" + "".join(f"<li>{html.escape(n)}</li>" for n in table.notes) + "</ul>" if table.notes else ""
    return (
        f"<h3>{html.escape(table.title)}</h3><div class='wide'><table><thead><tr>{head}</tr></thead><tbody>"
        f"{''.join(lines)}</tbody></table></div>{notes}"
    )

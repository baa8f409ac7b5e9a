"""mmzoo report: tables, pages and figures from a folder of results."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmzoo.errors import BadValue

if TYPE_CHECKING:
    from mmzoo.benchmark.results.store import Store
    from mmzoo.errors import CorruptFile

FORMATS = ("auto", "md", "csv", "json", "latex", "html")
VIEWS = ("details", "modalities", "map", "stats", "stress")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("report", help="print tables or write an HTML page and figures from a results folder")
    add = parser.add_argument
    add("folder", metavar="DIR", help="the folder given to bench as --out")
    add(
        "--format",
        choices=FORMATS,
        default="auto",
        help="auto: tables that fit the terminal, Markdown if the output is not a terminal; html: one page with "
        "charts; json, csv: one row per run (default: auto)",
    )
    add("-o", "--output", metavar="FILE", help="write to FILE instead of the standard output")
    add(
        "--details",
        action="store_true",
        help="scores and cost, modalities in the joint model and trained separately, paired differences, classes",
    )
    add(
        "--modalities", action="store_true", help="each modality by every measure, its contribution, sizes of the parts"
    )
    add(
        "--map",
        action="store_true",
        help="the best method per cell, for a data set benched under several parameter settings",
    )
    add("--stats", action="store_true", help="tests and intervals over seeds, test samples and data sets")
    add(
        "--stress",
        action="store_true",
        help="scores with missing or corrupted modalities, for runs benched with --stress",
    )
    add("--all", action="store_true", help="the overview and all of the above")
    add("--figures", metavar="DIR", help="write the charts as PDF and SVG into DIR")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report. Rows that cannot be read are named on stderr, and the exit code is then 2."""
    from mmzoo.benchmark.results.sharing import shared_rows
    from mmzoo.benchmark.results.store import Store

    for flag, value in (("the folder of the results", arguments.folder), ("--figures", arguments.figures)):
        if value == "":
            raise BadValue(f"{flag} is empty: name a folder.")
    views = _views(arguments)
    store = Store(Path(arguments.folder))
    if arguments.format == "json" and arguments.output is None and arguments.figures is None and not views:
        return _stream(store, arguments.folder)
    fmt = _format(arguments)
    errors: list[CorruptFile] = []
    short = fmt in ("auto", "md", "latex") and arguments.figures is None and not views
    every = fmt in ("csv", "json")
    rows = shared_rows(store, errors, "all" if every else "scores" if short else "tables")
    if not rows and not errors:
        where = arguments.folder
        raise BadValue(
            f"there are no results in the folder {where}: make some with: mmzoo bench --method NAME --out {where}"
        )
    if rows:
        _write(arguments, fmt, rows, store, views, errors)
        if arguments.figures is not None:
            from mmzoo.benchmark.reporting.figures.drawing import draw_figures

            files = draw_figures(rows, store.bench(), store, Path(arguments.figures))
            names = ", ".join(dict.fromkeys(path.stem for path in files))
            told = (
                f"the figures {names} (PDF and SVG) to {arguments.figures}" if files else "no figure: no run has scores"
            )
            print(f"mmzoo: wrote {told}", file=sys.stderr)
    if (fault := store.bench_fault()) is not None:
        errors.append(fault)
    for text in dict.fromkeys(map(str, errors)):  # several views may read the same file
        print(f"mmzoo: {text}", file=sys.stderr)
    return 2 if errors else 0


def _stream(store: Store, where: str) -> int:
    """Print the rows as JSON, each as it is read."""
    from itertools import chain

    from mmzoo.benchmark.report import json_pieces

    errors: list[CorruptFile] = []
    rows = store.each_row(errors)
    first = next(rows, None)
    if first is None and not errors:
        raise BadValue(f"there are no results in the folder {where}: mmzoo bench --method NAME --out {where}")
    sys.stdout.writelines(json_pieces(chain([] if first is None else [first], rows)))
    for error in errors:
        print(f"mmzoo: {error}", file=sys.stderr)
    return 2 if errors else 0


def _views(arguments: argparse.Namespace) -> list[str]:
    """The parts that are asked for. Raises BadValue where the format has no parts."""
    if arguments.all:
        return ["overview", *VIEWS]
    views, fmt = [view for view in VIEWS if getattr(arguments, view)], _format(arguments)
    if views and fmt in ("csv", "json"):
        raise BadValue(
            f"--{views[0]} chooses tables, and {fmt} has none: it holds every number of every row. Leave "
            f"--{views[0]} out, or write --format md, latex or html."
        )
    return views


def _format(arguments: argparse.Namespace) -> str:
    """The format that is asked for, or that the suffix of the file says; auto for tables on a terminal."""
    if arguments.format != "auto" or arguments.output is None:
        return str(arguments.format)
    ends = {".html": "html", ".htm": "html", ".tex": "latex", ".csv": "csv", ".json": "json", ".md": "md"}
    return ends.get(Path(arguments.output).suffix.lower(), "md")


def _write(
    arguments: argparse.Namespace,
    fmt: str,
    rows: list[dict[str, Any]],
    store: Store,
    views: list[str],
    faults: list[CorruptFile],
) -> None:
    from mmzoo.benchmark import report
    from mmzoo.benchmark.reporting.terminal import show
    from mmzoo.benchmark.results.stress import has_stress
    from mmzoo.io.files import write_bytes

    if arguments.stress and not any(has_stress(row, store) for row in rows):
        raise BadValue(
            f"no run in {arguments.folder} was put under stress: run its bench with --stress missing,noise first. Runs whose weights "
            "were not kept are trained again."
        )
    bench = store.bench()
    if fmt == "auto":
        show(report.tables(rows, bench, store, views, faults), sys.stdout)
        return
    out = None if arguments.output is None else Path(arguments.output)
    text = report.render(rows, bench, store, fmt, views, out=out, faults=faults)
    if out is None:
        print(text, end="")
        return
    try:
        write_bytes(out, text.encode())
    except OSError as error:
        raise BadValue(f"the report cannot be written to {out}: {error}. Name another file with -o.") from None
    print(f"mmzoo: wrote {out}", file=sys.stderr)

"""mmzoo report: tables from a folder of results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mmzoo.errors import BadValue

if TYPE_CHECKING:
    from mmzoo.benchmark.reporting.tables import Table

FORMATS = ("md", "csv", "json", "latex", "html")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("report", help="tables from a folder of results")
    parser.add_argument("folder", metavar="DIR", help="what was given to bench as --out")
    parser.add_argument("--format", choices=FORMATS, default="md", help="json and csv: one row a run (default: md)")
    parser.add_argument(
        "--modalities",
        action="store_true",
        help="in place of the usual tables: each modality by every measure, what it contributes, and the "
        "size of the parts (json and csv hold all of it anyway)",
    )
    parser.add_argument(
        "--stats",
        action="store_true",
        help="in place of the usual tables: tests and intervals over seeds, over test items and over data "
        "sets, and what cannot be decided",
    )
    parser.add_argument(
        "--figures",
        metavar="DIR",
        help="also draw scores by seed, alpha by epoch and the critical-difference diagram into DIR "
        "(pip install 'mmzoo[figures]')",
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report. Rows that cannot be read are named on stderr, and the exit code is then 2."""
    from mmzoo.benchmark.reporting.comparison import comparison_tables
    from mmzoo.benchmark.reporting.figures import draw_figures
    from mmzoo.benchmark.reporting.modalities import modality_tables
    from mmzoo.benchmark.reporting.report import make_tables, render
    from mmzoo.benchmark.results.store import Store

    store = Store(Path(arguments.folder))
    if not arguments.folder:
        raise BadValue("the folder of the results is empty: name what was given to bench as --out.")
    chosen = [flag for flag in ("modalities", "stats") if getattr(arguments, flag)]
    if chosen and arguments.format in ("csv", "json"):
        raise BadValue(
            f"--{chosen[0]} chooses tables, and {arguments.format} has none: it holds every number of every row. Leave "
            f"--{chosen[0]} out, or write --format md, latex or html."
        )
    if arguments.figures == "":
        raise BadValue("--figures is empty: name the folder to draw into.")
    rows, errors = store.rows()
    if not rows and not errors:
        where = arguments.folder
        raise BadValue(
            f"there are no results in the folder {where}: make some with: mmzoo bench --method NAME --out {where}"
        )
    if rows:
        made: dict[str, Callable[..., list[Table]]] = {
            "modalities": modality_tables,
            "stats": partial(comparison_tables, store=store, faults=errors),
        }
        asked = [made[flag] for flag in chosen] or [make_tables]
        print(
            render(rows, store.bench(), arguments.format, lambda *given: [t for make in asked for t in make(*given)]),
            end="",
        )
        if arguments.figures is not None:
            files = draw_figures(rows, store.bench(), store, Path(arguments.figures))
            print(f"mmzoo: wrote {', '.join(map(str, files)) or 'no figure: no run has scores'}", file=sys.stderr)
    if (fault := store.bench_fault()) is not None:
        errors.append(fault)
    for error in errors:
        print(f"mmzoo: {error}", file=sys.stderr)
    return 2 if errors else 0

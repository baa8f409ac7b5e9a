"""mmzoo report: tables from a folder of results."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmzoo.errors import BadValue

FORMATS = ("md", "csv", "json", "latex")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("report", help="tables from a folder of results")
    parser.add_argument("folder", metavar="DIR", help="what was given to bench as --out")
    parser.add_argument("--format", choices=FORMATS, default="md", help="json and csv: one row a run (default: md)")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report. Rows that cannot be read are named on stderr, and the exit code is then 2."""
    from mmzoo.bench.report import render
    from mmzoo.bench.store import Store

    store = Store(Path(arguments.folder))
    if not arguments.folder:
        raise BadValue("the folder of the results is empty: name what was given to bench as --out.")
    rows, errors = store.rows()
    if not rows and not errors:
        where = arguments.folder
        raise BadValue(f"there are no results in {where}. Make some with: mmzoo bench --method NAME --out {where}")
    if rows:
        print(render(rows, store.bench(), arguments.format), end="")
    for error in errors:
        print(f"mmzoo: {error}", file=sys.stderr)
    return 2 if errors else 0

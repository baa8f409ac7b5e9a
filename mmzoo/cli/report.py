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
    parser.add_argument("--modalities", action="store_true",
                        help="in place of the usual tables: each modality by every measure, what it contributes, and the "
                             "size of the parts (md and latex; json and csv hold all of it anyway)")  # fmt: skip
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the report. Rows that cannot be read are named on stderr, and the exit code is then 2."""
    from mmzoo.bench.modalities import modality_tables
    from mmzoo.bench.report import make_tables, render
    from mmzoo.bench.store import Store

    store = Store(Path(arguments.folder))
    if not arguments.folder:
        raise BadValue("the folder of the results is empty: name what was given to bench as --out.")
    if arguments.modalities and arguments.format in ("csv", "json"):
        raise BadValue(
            f"--modalities chooses tables, and {arguments.format} has none: it holds every number anyway. Leave "
            "--modalities out, or write --format md or --format latex."
        )
    rows, errors = store.rows()
    if not rows and not errors:
        where = arguments.folder
        raise BadValue(f"there are no results in {where}. Make some with: mmzoo bench --method NAME --out {where}")
    if rows:
        tables = modality_tables if arguments.modalities else make_tables
        print(render(rows, store.bench(), arguments.format, tables), end="")
    for error in errors:
        print(f"mmzoo: {error}", file=sys.stderr)
    return 2 if errors else 0

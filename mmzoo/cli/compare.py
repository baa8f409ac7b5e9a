"""mmzoo compare: two folders of results, or two methods of one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmzoo.errors import BadValue

if TYPE_CHECKING:
    from mmzoo.benchmark.results.packing import Parts
    from mmzoo.errors import CorruptFile


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "compare",
        help="show what differs between two results folders, or two methods",
        description="Compares scores paired by seed, reports whether the difference is significant, and lists "
        "what differs in the specifications, hashes and environments.",
    )
    parser.add_argument("a", metavar="A", help="a folder of results, or a method with --in")
    parser.add_argument("b", metavar="B", help="another folder, or another method")
    parser.add_argument("--in", metavar="DIR", dest="folder", help="compare the methods A and B of this folder")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from mmzoo.benchmark.reporting import compare
    from mmzoo.benchmark.reporting.terminal import show

    if arguments.folder is not None:
        sides = compare.methods(arguments.a, arguments.b, rows_of(arguments.folder))
    else:
        for name in (arguments.a, arguments.b):
            if not Path(name).is_dir():
                raise BadValue(
                    f"{name!r} is no folder. To compare two methods of one folder: mmzoo compare A B --in DIR"
                )
        sides = compare.stores((arguments.a, rows_of(arguments.a)), (arguments.b, rows_of(arguments.b)))
    show(compare.compare_tables(*sides), sys.stdout)
    return 0


def rows_of(
    folder: str, take: Callable[[dict[str, Any]], dict[str, Any]] = lambda row: row, parts: Parts = "tables"
) -> list[dict[str, Any]]:
    """The rows of a folder, or what is taken of each. Those that cannot be read are named on stderr. Raises BadValue where there are
    none. parts: how much of each row."""
    from mmzoo.benchmark.results.sharing import each_of
    from mmzoo.benchmark.results.store import Store

    errors: list[CorruptFile] = []
    rows = each_of(Store(Path(folder)), errors, take, parts=parts)
    for error in errors:
        print(f"mmzoo: {error}", file=sys.stderr)
    if not rows:
        raise BadValue(f"there are no results in the folder {folder}: name what was given to bench as --out.")
    return rows

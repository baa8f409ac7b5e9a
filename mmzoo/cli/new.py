"""mmzoo new: generate a plugin package whose tests pass as generated."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path

#: kind -> what is written, for --help
PARTS = {
    "strategy": "a training strategy",
    "head": "a fusion head",
    "encoder": "an encoder",
    "dataset": "a data set",
    "plugin": "one of each",
}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "new",
        help="generate a plugin package, with tests that pass as generated",
        description="Writes a folder NAME with a complete package: a working example to change, its entry in a "
        "registry.yaml, and tests. " + "; ".join(f"{kind}: {what}" for kind, what in PARTS.items()) + ".",
    )
    parser.add_argument("kind", choices=PARTS, metavar="KIND", help=", ".join(PARTS))
    parser.add_argument(
        "name", metavar="NAME", help="name of the new entry, lower_snake_case, as in `mmzoo bench --method NAME`"
    )
    parser.add_argument("--dir", metavar="DIR", default=".", help="parent folder (default: the current directory)")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from mmzoo.registry.plugins import catalogue
    from mmzoo.scaffold.write import write_package

    folder = write_package(arguments.kind, arguments.name, Path(arguments.dir), catalogue())
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        print(path)
    # A bare name would have pip look for a stranger's package of that name.
    there = shlex.quote(str(folder) if folder.is_absolute() else os.path.join(".", folder))
    print(f"\nNext: pip install -e {there}  then  mmzoo check {folder.name}  and  python -m pytest {there}")
    return 0

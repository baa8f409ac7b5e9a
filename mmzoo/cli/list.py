"""mmzoo list: what exists."""

from __future__ import annotations

import argparse
import json

from mmzoo.catalogue import KINDS, SINGULAR
from mmzoo.errors import unknown


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("list", help="what exists: methods, strategies, heads, encoders, data sets")
    parser.add_argument("kind", nargs="?", help=f"one of {', '.join(KINDS)}; all when left out")
    parser.add_argument("--json", action="store_true", help="an object: kind -> list of entries")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from mmzoo.plugins import catalogue

    known = catalogue()
    kinds = KINDS if arguments.kind is None else (_kind(arguments.kind),)
    found = {kind: known.entries(kind) for kind in kinds}
    if arguments.json:
        print(json.dumps({
            kind: [{**e.public(), "name": known.name_of(e)} for e in entries] for kind, entries in found.items()
        }, indent=1))  # fmt: skip
        return 0
    width = max((len(known.name_of(e)) for entries in found.values() for e in entries), default=0)
    for kind, entries in found.items():
        print(f"{kind}:")
        for e in entries:
            marks = "" if e.status == "stable" else f" [{e.status}]"
            marks += "" if e.package == "mmzoo" else f" ({e.package})"
            print(f"  {known.name_of(e):{width}}  {e.summary}{marks}")
        print()
    print("More about one of them: mmzoo show NAME")
    return 0


def _kind(text: str) -> str:
    """A kind in the plural or the singular."""
    for kind in KINDS:
        if text in (kind, SINGULAR[kind], SINGULAR[kind].replace(" ", "")):
            return kind
    raise unknown("kind", text, KINDS, see="See: mmzoo list")

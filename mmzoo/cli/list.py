"""`mmzoo list`: list the entries of the catalogue. No torch."""

from __future__ import annotations

import argparse
import json

from mmzoo.errors import BadValue, unknown
from mmzoo.io.streams import wrapped
from mmzoo.registry import KINDS, SINGULAR, Catalogue, Entry

GROUPINGS = ("year", "family", "cost")
#: the heading of entries that say nothing about themselves
UNKNOWN = {"year": "no paper", "family": "no family", "cost": "no cost"}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("list", help="list methods, strategies, heads, encoders and data sets")
    parser.add_argument("kind", nargs="?", help=f"one of {', '.join(KINDS)}; default: all")
    parser.add_argument("--by", choices=GROUPINGS, help="group the methods, or the entries of KIND")
    parser.add_argument("--json", action="store_true", help="print a JSON object: kind -> list of entries")
    parser.add_argument("--markdown", action="store_true", help="print the methods as a Markdown table")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from mmzoo.registry.plugins import catalogue

    known = catalogue()
    if arguments.markdown:
        if arguments.kind is not None and _kind(arguments.kind) != "methods":
            raise BadValue(f"--markdown is a table of the methods, not of {arguments.kind!r}: leave the kind out.")
        print(method_table(known))
        return 0
    everything = KINDS if arguments.by is None else ("methods",)
    kinds = everything if arguments.kind is None else (_kind(arguments.kind),)
    found = {kind: known.entries(kind) for kind in kinds}
    if arguments.json:
        print(
            json.dumps(
                {kind: [_public(known, e) for e in entries] for kind, entries in found.items()},
                indent=1,
            )
        )
        return 0
    width = max((len(known.name_of(e)) for entries in found.values() for e in entries), default=0)
    groups = found if arguments.by is None else _grouped(known, found[kinds[0]], arguments.by)
    for heading, entries in groups.items():
        print(f"{heading}:")
        for e in entries:
            marks = "" if e.status == "stable" else f" [{e.status}]"
            marks += "" if e.package == "mmzoo" else f" ({e.package})"
            print(wrapped(f"  {known.name_of(e):{width}}  {e.summary}{marks}", width + 4))
        print()
    print("More about one of them: mmzoo show NAME")
    return 0


def _public(known: Catalogue, e: Entry) -> dict[str, object]:
    return {**e.public(), "name": known.name_of(e), "family": known.family(e), "links": known.links(e)}


def _grouped(known: Catalogue, entries: list[Entry], by: str) -> dict[str, list[Entry]]:
    """heading -> entries, years and costs in ascending order, families by name, entries without a value last."""
    keyed: dict[tuple[bool, float, str], list[Entry]] = {}
    for e in entries:
        number, text = 0.0, ""
        if by == "year":
            year = next((p.paper.get("year") for p in known.parts(e) if p.paper), None)
            number, text = (0.0, "") if year is None else (float(year), str(year))
        elif by == "family":
            text = known.family(e) or ""
        elif e.cost:
            forward, backward = (float(e.cost.get(k, 1)) for k in ("forward", "backward"))
            number, text = forward + backward, f"{forward:g} forward, {backward:g} backward"
        keyed.setdefault((not text, number, text), []).append(e)
    return {key[2] or UNKNOWN[by]: keyed[key] for key in sorted(keyed)}


def method_table(known: Catalogue, package: str | None = None) -> str:
    """The methods as a Markdown table, those of one package or all: name, what it is, parts, source, cost of a batch and beside it."""
    lines = [
        "| method | what it does | strategy @ head | source | forwards | backwards | beside |",
        "|---|---|---|---|---:|---:|---|",
    ]
    for e in known.entries("methods"):
        if package is not None and e.package != package:
            continue
        also = f" ({', '.join(e.aliases)})" if e.aliases else ""
        parts = f"{'+'.join([e.extra['strategy'], *e.extra.get('then', {})])} @ {e.extra['head']}"
        cost = [*(f"{e.cost.get(k, 1):g}" for k in ("forward", "backward")), "; ".join(e.cost_beside())]
        lines.append(f"| `{known.name_of(e)}`{also} | {e.summary} | {parts} | {e.source} | {' | '.join(cost)} |")
    return "\n".join(lines)


def _kind(text: str) -> str:
    """A kind in the plural or the singular."""
    for kind in KINDS:
        if text in (kind, SINGULAR[kind], SINGULAR[kind].replace(" ", "")):
            return kind
    raise unknown("kind", text, KINDS, see="See: mmzoo list")

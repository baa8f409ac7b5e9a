"""`mmzoo show`: print the full catalogue entry of one name."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from mmzoo.errors import UnknownName, near_miss
from mmzoo.registry import KINDS, SINGULAR, Catalogue, Entry


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("show", help="show one method, strategy, head, encoder or data set in full")
    parser.add_argument("what", metavar="NAME", help="e.g. ogm, or KIND/NAME, e.g. heads/concat")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from mmzoo.registry.plugins import catalogue

    found = _find(catalogue(), arguments.what)
    print("\n".join(_text(catalogue(), entry) for entry in found), end="")
    return 0


def _find(catalogue: Catalogue, name: str) -> list[Entry]:
    """Every entry of a name; a method comes with its strategy, which holds formula and parameters."""
    first, _, rest = name.partition("/")
    if first in KINDS and rest:
        return [catalogue.get(first, rest)]
    found = [catalogue.get(kind, name) for kind in KINDS if catalogue.has(kind, name)]
    for entry in list(found):
        if entry.kind == "methods":
            strategy = catalogue.get("strategies", entry.extra["strategy"], entry.package)
            if strategy not in found:
                found.append(strategy)
    if not found:
        known = {e.name for e in catalogue}
        raise UnknownName(f"there is nothing called {name!r}.{near_miss(name, known)} See: mmzoo list")
    return found


def _text(catalogue: Catalogue, e: Entry) -> str:
    lines = [f"{SINGULAR[e.kind]} {e.name}" + (f" ({e.package})" if e.package != "mmzoo" else ""), f"  {e.summary}"]
    if e.paper:
        lines.append(f"  paper: {e.title}")
    if after := e.extra.get("after"):
        lines += [f"  source: ours, not the paper's: {after['differs']}", f"  after: {e.title}"]
    names = {"paper": "that paper", "code": "that paper's code"} if after else {}
    lines += [f"  {names.get(what, what)} at: {address}" for what, address in catalogue.links(e).items()]
    if family := catalogue.family(e):
        lines.append(f"  family: {family}")
    if e.kind == "methods":
        given = {**e.extra.get("args", {}), **{f"head.{k}": v for k, v in e.extra.get("head_args", {}).items()}}
        chosen = f" with {_pairs(given)}" if given else ""
        lines.append(f"  is: strategy {e.extra['strategy']}{chosen}, head {e.extra['head']}")
        lines += [f"  then: {name}{f' with {_pairs(p)}' if p else ''}" for name, p in e.extra.get("then", {}).items()]
    if "equation" in e.extra:
        lines += ["  equation:", *(f"    {line}" for line in e.extra["equation"].rstrip().splitlines())]
    if e.accepted:
        lines.append("  parameters:")
        width = max(map(len, e.accepted))
        for p in e.accepted.values():
            doc = f"  {p.doc}" if p.doc else ""
            default = json.dumps(p.default)
            tuned = f"; tuned from {p.search.low:g} to {p.search.high:g}" if p.search else ""
            lines.append(f"    {p.name:{width}}  {default}{doc} ({p.accepts()}{tuned})")
    lines += _facts(e)
    if e.kind == "strategies" and (recipes := _recipes(catalogue, e)):
        lines.append(f"  methods with it: {'; '.join(recipes)}")
    if e.fidelity:
        lines.append("  fidelity:")
        names = {
            "checked_against": "checked against",
            "paper": "beside the paper",
            "code": "beside the authors' code",
            "ours": "our own",
        }
        lines += [f"    {names.get(k, k)}: {v}" for k, v in e.fidelity.items()]
    return "\n".join(lines) + "\n"


def _recipes(catalogue: Catalogue, strategy: Entry) -> list[str]:
    """The variants of a strategy that have a name, with the parameters that make them."""
    found = []
    for e in catalogue.entries("methods"):
        if catalogue.get("strategies", e.extra["strategy"], e.package) is strategy:
            given = e.extra.get("args", {})
            found.append(e.name + (f" ({_pairs(given)})" if given else ""))
    return found


def _facts(e: Entry) -> list[str]:
    lines = []
    if e.requires:
        lines.append(f"  needs: {', '.join(e.requires)}")
    if "teachers" in e.requires:
        lines.append(
            "  teachers: a unimodal model of each modality, trained first on the same samples with the same seed and budget"
        )
    if e.extra.get("solo"):
        lines.append("  cannot be chained with another method or limited to some epochs")
    if e.extra.get("single_process"):
        lines.append(f"  one process: {e.extra['single_process']}")
    if e.extra.get("owns"):
        lines.append(f"  replaces: {', '.join(e.extra['owns'])} (cannot be chained with another that does)")
    if e.cost:
        batch = {k: v for k, v in e.cost.items() if k in ("forward", "backward")}
        lines.append("; ".join([f"  cost a batch: {_pairs(batch)}", *e.cost_beside()]))
    for key in (
        "how",
        "additive",
        "evidential",
        "couples",
        "mean_gates",
        "input",
        "n_classes",
        "metric",
        "licence",
        "install",
        "untuned",
    ):
        if key in e.extra:
            value = e.extra[key]
            lines.append(f"  {key}: {', '.join(value) if isinstance(value, list) else value}")
    if isinstance(e.extra.get("modalities"), Mapping):
        lines.append(f"  modalities: {_pairs(e.extra['modalities'])}")
    for key in ("presets", "training"):
        for name, body in e.extra.get(key, {}).items():
            lines.append(f"  {key.removesuffix('s')} {name}: {_pairs(body)}")
    if e.aliases:
        lines.append(f"  also called: {', '.join(e.aliases)}")
    return [*lines, f"  status: {e.status}, version {e.version}"]


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {v if isinstance(v, str) else json.dumps(v)}" for k, v in values.items())

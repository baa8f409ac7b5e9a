"""`mmzoo check`: run the contract checks on a strategy, head, encoder or data set and print a report. No torch at import."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from typing import TYPE_CHECKING

from mmzoo.errors import BadValue

if TYPE_CHECKING:
    from mmzoo.testing import Report

_MARKS = {"passed": "passed  ", "failed": "FAILED  ", "skipped": "skipped ", "expected": "expected"}


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "check",
        help="run the contract checks on a strategy, head, encoder or data set",
        description="Runs the checks that every component of the zoo passes. Exit code 0 if all pass, 1 if any fails, "
        "2 if there is nothing to check.",
    )
    parser.add_argument(
        "target", nargs="?", metavar="TARGET", help="a name, KIND/NAME, FILE.py:CLASS, FILE.py, or an installed package"
    )
    parser.add_argument("--list", action="store_true", dest="listed", help="print each check and what it claims")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="settings",
        help="a parameter of what is checked: alpha=0.3, or ogm.alpha=0.3",
    )
    parser.add_argument("--only", metavar="CHECK,...", default="", help="run only these checks, e.g. purity,resume")
    parser.add_argument("--json", action="store_true", help="print a JSON list with one object per component")
    parser.add_argument("--quiet", action="store_true", help="print only checks that did not pass, and no progress")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    if arguments.listed:
        return _list(as_json=arguments.json)
    if arguments.target is None:
        raise BadValue("mmzoo check wants a TARGET: a name, FILE.py:CLASS or a package. --list prints the checks.")
    from mmzoo.config.grammar import parse_setting
    from mmzoo.registry.plugins import catalogue
    from mmzoo.testing.targets import find, reports

    targets = find(catalogue(), arguments.target, [parse_setting(text) for text in arguments.settings])
    done: list[Report] = []
    only = [name.strip() for name in arguments.only.split(",") if name.strip()]
    told = not (arguments.quiet or arguments.json) and sys.stderr.isatty()
    for report in reports(targets, only, _progress if told else None):
        done.append(report)
        if told:
            _say("")
        if not arguments.json:
            print(_text(report, quiet=arguments.quiet), flush=True)
    if arguments.json:
        print(json.dumps([{"part": r.label, "ok": r.ok, "checks": [vars(c) for c in r]} for r in done], indent=1))
    return 0 if all(r.ok for r in done) else 1


def _progress(part: str, check: str) -> None:
    _say(f"{part}: {check.removeprefix('check_')} ...")


def _say(text: str) -> None:
    """Replace the last line on the terminal."""
    sys.stderr.write(f"\r\x1b[K{text[:100]}")
    sys.stderr.flush()


def _list(*, as_json: bool) -> int:
    """Each check by kind of part, with what it claims."""
    from mmzoo.testing.harness.report import CHECKS, claim
    from mmzoo.testing.targets import CHECKED

    claims = {kind: {n.removeprefix("check_"): claim(c) for n, c in CHECKS[kind].items()} for kind in CHECKED.values()}
    if as_json:
        print(json.dumps(claims, indent=1))
        return 0
    for kind, checks in claims.items():
        print("data set" if kind == "dataset" else kind)
        for name, said in checks.items():
            print(f"  {name}")
            print(textwrap.indent(_wrapped(said), " " * 12))
        print()
    return 0


def _text(report: Report, *, quiet: bool) -> str:
    """A line a check; what failed with the claim, what was seen and what to do; a reason for what was not run."""
    lines = [report.label]
    for result in report:
        if quiet and result.status == "passed":
            continue
        lines.append(f"  {_MARKS[result.status]}  {result.name.removeprefix('check_')}")
        if result.reason:
            lines += [textwrap.indent(_wrapped(line), " " * 12) for line in result.reason.splitlines()]
    counts = {status: sum(r.status == status for r in report) for status in _MARKS}
    said = ", ".join(f"{n} {'failed as expected' if s == 'expected' else s}" for s, n in counts.items() if n)
    return "\n".join([*lines, f"  {said or 'none of these checks is about such a part'}.", ""])


def _wrapped(line: str) -> str:
    return "\n".join(textwrap.wrap(line, 104, subsequent_indent="  ", break_long_words=False)) or ""

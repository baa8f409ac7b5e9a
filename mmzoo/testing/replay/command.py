"""The command: read vector files, replay their cases, print one line each and a summary."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from mmzoo.errors import BadValue
from mmzoo.io.streams import silence
from mmzoo.testing.replay.registry import Case, Result, cases_of, replay

#: The modules that register the library's own cases.
OWN = ("rebalancing", "fusion", "affine", "agm", "channel", "evidence", "gblend", "scores", "teachers")


def load_own() -> None:
    """Register the library's own cases."""
    for module in OWN:
        importlib.import_module(f"mmzoo.testing.replay.{module}")


def load_installed() -> None:
    """Register the cases of installed packages; one that fails costs its own cases, and a word."""
    from mmzoo.registry.plugins import load

    for implementation in load().manager.hook.mmzoo_replays.get_hookimpls():
        try:
            implementation.function()
        except Exception as error:
            print(
                f"note: replays of {implementation.plugin_name} are left out: {type(error).__name__}: {error}",
                file=sys.stderr,
            )


def read(path: str) -> list[Case]:
    """The cases of a file. Raises BadValue, naming the file, for one that cannot be read as vectors."""
    try:
        return cases_of(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as fault:
        raise BadValue(f"{path}: cannot be read ({fault.strerror})") from fault
    except BadValue as fault:
        raise BadValue(f"{path}: {fault}") from fault
    except (ValueError, RecursionError) as fault:
        raise BadValue(f"{path}: not JSON ({fault})") from fault


def line(file: str, result: Result) -> str:
    """One case in one line: what was compared, what was left out and why."""
    case = result.case
    head = f"{Path(file).name} {case.kind or case.name}:"
    if not result.known:
        return f"unknown  {head} no replay of {case.name!r} {case.kind!r} (not in mmzoo, or not registered)"
    state = "FAILED " if result.failed else "ok     " if result.compared or result.loose else "skipped"
    parts = []
    if result.compared:
        parts.append(f"{len(result.compared)} compared, largest error {result.error:.1e}")
    if result.loose:
        loose = ", ".join(f"{path} ({error:.1e})" for path, error in result.loose.items())
        parts.append(f"approximate in the vector: {loose}")
    if result.failed:
        parts.append(f"beyond tolerance: {', '.join(result.failed)}")
    parts += result.notes
    reasons = dict.fromkeys(reason for reason, _, _ in result.skipped)
    for reason in reasons:
        parts.append(f"skipped {', '.join(what for r, what, _ in result.skipped if r == reason)} ({reason})")
    if result.missed:
        parts.append(f"NOT COMPARED: {', '.join(result.missed)}")
    return f"{state}  {head} {'; '.join(parts) or 'nothing is expected'}"


def summary(results: Sequence[Result]) -> str:
    known = [r for r in results if r.known]
    done = [r for r in known if r.compared or r.loose]
    unknown = sorted({f"{r.case.name} {r.case.kind}".strip() for r in results if not r.known})
    values = sum(len(r.compared) + len(r.loose) for r in done)
    error = max((r.error for r in done), default=0.0)
    return "\n".join(
        [
            f"compared: {values} values in {len(done)} cases, largest error {error:.1e}; "
            f"cases beyond tolerance: {sum(bool(r.failed) for r in known)}",
            f"skipped: {sum(n for r in known for _, _, n in r.skipped)} values, with the reason above",
            f"not compared: {sum(len(r.missed) for r in known)} values in known cases",
            f"unknown: {len(results) - len(known)} cases" + (f" ({', '.join(unknown)})" if unknown else ""),
        ]
    )


def _tolerance(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number of at least 0, not {text}")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mmzoo.testing.replay",
        description="Compute the cases of test-vector files with mmzoo's own code, in float64, and compare.",
        epilog="Exit code 0: all within the tolerance. 1: an error above it, a case that could not be "
        "computed, or nothing compared at all. 2: a file or an option that cannot be used. Cases that no "
        "replay is registered for are listed as unknown and do not fail the run by themselves. null is NaN.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE.json", help="files of vectors, or folders of them")
    parser.add_argument(
        "--tolerance",
        type=_tolerance,
        default=1e-9,
        help="largest |ours - expected| / max(1, |expected|) (default: %(default)s)",
    )
    parser.add_argument(
        "--import",
        action="append",
        default=[],
        dest="modules",
        metavar="MODULE",
        help="a Python module to import first, which registers replays of its own",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code. When nobody reads what it prints any more, it ends."""
    options = _parser().parse_args(argv)
    try:
        code = _replayed(options)
        sys.stdout.flush()
    except BrokenPipeError:
        silence(sys.stdout)
        return 0
    return code


def _replayed(options: argparse.Namespace) -> int:
    load_own()
    load_installed()
    try:
        for module in options.modules:
            _import(module)
        work = [(file, case) for path in options.files for file in _files(path) for case in read(file)]
        results = []
        for file, case in work:
            try:
                results.append(replay(case, options.tolerance))
            except BadValue as fault:
                raise BadValue(f"{file}: {case.kind or case.name}: {fault}") from fault
            print(line(file, results[-1]))
    except BadValue as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2
    print(summary(results))
    if not any(r.compared or r.loose for r in results):
        print("error: nothing was compared.", file=sys.stderr)
        return 1
    return 1 if any(r.failed for r in results) else 0


def _files(path: str) -> list[str]:
    """The file itself, or the vectors of a folder by name. Raises BadValue for a folder without any."""
    if not Path(path).is_dir():
        return [path]
    found = [str(p) for p in sorted(Path(path).glob("*.json"))]
    if not found:
        raise BadValue(f"{path}: a folder without a file that ends in .json")
    return found


def _import(module: str) -> None:
    try:
        importlib.import_module(module)
    except ImportError as fault:
        raise BadValue(f"--import {module}: {fault}") from fault

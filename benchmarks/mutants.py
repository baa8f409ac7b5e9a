"""Breaks the library on purpose, one line at a time, and sees whether the tests notice.

    python benchmarks/mutants.py                       # every mutant: writes results/mutants.csv
    python benchmarks/mutants.py --only ogm --jobs 2   # those whose name, file or description holds a word; other rows stay
    python benchmarks/mutants.py --stale               # those that are new, or whose file or description has changed

The mutants lie in tests/mutants/*.yaml: a list of `file`, `find` (text that occurs once), `replace`, `what` (a sign, swapped
modalities, stale statistics, a missing detach ...) and `tests` (what should fail). Each is tried on a copy of the
source tree, so that nothing here is touched. `killed`: a test failed; `survived`: none did, which is a gap in the
tests; `broken`: the tests could not be run at all.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "mutants.csv"
KEYS = ("file", "find", "replace", "what", "tests")


def read_mutants() -> list[dict[str, Any]]:
    """All mutants, each with the name of its list. Raises SystemExit for one that does not fit the source."""
    found = []
    for path in sorted((ROOT / "tests" / "mutants").glob("*.yaml")):
        for i, mutant in enumerate(yaml.safe_load(path.read_text(encoding="utf-8"))):
            name = f"{path.stem}-{i}"
            if missing := [k for k in KEYS if k not in mutant]:
                raise SystemExit(f"{name}: {', '.join(missing)} is missing")
            times = (ROOT / mutant["file"]).read_text(encoding="utf-8").count(mutant["find"])
            if times != 1:
                raise SystemExit(f"{name}: {mutant['find']!r} occurs {times} times in {mutant['file']}, not once")
            found.append({"name": name, **mutant})
    return found


def copy_tree(to: Path) -> None:
    """The source tree without what git and the tools keep beside it, and without measurements."""
    beside = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")

    def left_out(folder: str, names: list[str]) -> set[str]:
        return beside(folder, names) | ({RESULTS.parent.name} if Path(folder) == RESULTS.parent.parent else set())

    shutil.copytree(ROOT, to, ignore=left_out, dirs_exist_ok=True)


def run_tests(tree: Path, tests: list[str]) -> int:
    """The exit status of pytest in a tree."""
    path = os.pathsep.join(map(str, [tree, *sorted((tree / "plugins").glob("*"))]))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    return subprocess.run(command, cwd=tree, env=env, capture_output=True).returncode


def attempt(mutant: Mapping[str, Any], tree: Path) -> dict[str, Any]:
    """Apply, run, restore."""
    path = tree / mutant["file"]
    original = path.read_text(encoding="utf-8")
    path.write_text(original.replace(mutant["find"], mutant["replace"]), encoding="utf-8")
    try:
        status = run_tests(tree, list(mutant["tests"]))
    finally:
        path.write_text(original, encoding="utf-8")
    outcome = {0: "survived", 1: "killed"}.get(status, "broken")
    return _row(mutant, outcome)


def with_others(rows: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """The rows and those in a file of mutants that were not tried now and are still what they were, in the lists' order."""
    every = {m["name"]: m for m in read_mutants()}
    found = {}
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            same = ((r, every.get(r["mutant"], {})) for r in csv.DictReader(file))
            found = {r["mutant"]: r for r, m in same if (r["file"], r["what"]) == (m.get("file"), m.get("what"))}
    found |= {r["mutant"]: r for r in rows}
    return [found.get(name) or _row(mutant, "not tried") for name, mutant in every.items()]


def _row(mutant: Mapping[str, Any], outcome: str) -> dict[str, Any]:
    facts = {"mutant": mutant["name"], "file": mutant["file"], "what": mutant["what"]}
    return {**facts, "outcome": outcome, "tests": " ".join(mutant["tests"])}


def write(rows: list[dict[str, Any]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["mutant", "file", "what", "outcome", "tests"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="a word that name, file or description must hold")
    parser.add_argument(
        "--stale", action="store_true", help="only those that the file of results does not have as they are"
    )
    parser.add_argument("--no-baseline", action="store_true", help="the tests are known to pass without any mutant")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    mutants = [m for m in read_mutants() if given.only in f"{m['name']} {m['file']} {m['what']}"]
    if given.stale:
        done = {row["mutant"] for row in with_others([], given.out) if row["outcome"] == "killed"}
        mutants = [m for m in mutants if m["name"] not in done]
    with tempfile.TemporaryDirectory() as folder:
        trees = [Path(folder) / str(i) for i in range(given.jobs)]
        for tree in trees:
            copy_tree(tree)
        # A mutant is killed by its tests only if they pass without it.
        for tests in () if given.no_baseline else sorted({tuple(m["tests"]) for m in mutants}):
            if run_tests(trees[0], list(tests)):
                raise SystemExit(f"{' '.join(tests)}: fails without any mutant")
        rows: list[dict[str, Any]] = []
        lock = threading.Lock()

        def share(i: int) -> None:
            for mutant in mutants[i :: given.jobs]:
                row = attempt(mutant, trees[i])
                with lock:  # each stays, also where the rest is cut off
                    rows.append(row)
                    write(with_others(rows, given.out), given.out)
                print(f"{row['outcome']:9} {row['mutant']}: {row['what']}", flush=True)

        with ThreadPoolExecutor(given.jobs) as pool:
            list(pool.map(share, range(given.jobs)))
    killed = sum(r["outcome"] == "killed" for r in rows)
    print(f"{killed} of {len(rows)} killed")
    sys.exit(killed != len(rows))


if __name__ == "__main__":
    main()

"""A results folder of many runs: what reading and reporting it costs.

    python benchmarks/many_rows.py [--rows 2000 20000 100000] [--keep DIR] [--only NAME] [--write]

Trains four methods on mfeat once, for one epoch, and writes their rows again under other seeds until there are so many: real rows
with checksums, histories and predictions, in folders of their own. Then each command runs as its own process: the tables of
`mmzoo report`, `--format json`, `status`, `runs`, the plan of a bench whose runs are all there, the HTML page of up to PAGE rows, a bench of
two seeds more until it trains, and one of as many runs in an empty folder.
Commands keep what they have read of many rows (MMZOO_HOME/rows, here in a folder of its own): "cold" is without it, as the first command
is. Seconds are wall time, with the processor time beside them; memory is the peak of the process. --keep makes the
folders in DIR and uses those that are there. --write puts the rows into benchmarks/results/many_rows.csv.
"""

from __future__ import annotations

import argparse
import copy
import csv
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "many_rows.csv"
BENCH = ("bench", "--method", "ogm", "--baselines", "pmr,mla", "--datasets", "mfeat", "--epochs", "1")
#: methods of that bench with its references, which are the rows of a seed
EACH_SEED = 9
#: the most rows that a page is made of
PAGE = 2000
#: the most seeds of a bench; rows beyond are of later seeds. Two of them are left out: the seeds that the next bench has to do
LIMIT, MORE = 10000, 2
FILES = ("history.jsonl", "predictions.npz")
STARTS = ("bench, to its first step", "bench of as many runs in an empty folder, to its first step")
#: commands that are also measured without what was read before
COLD = ("report", STARTS[0])


def make(folder: Path, n: int) -> None:
    """A results folder of n rows."""
    from mmzoo.benchmark.results.store import Store
    from mmzoo.config.spec import RunSpec

    run([*BENCH, "--seeds", "1", "--out", str(folder)])
    store = Store(folder)
    rows, _ = store.rows()
    assert len(rows) == EACH_SEED, len(rows)
    os.fsync = lambda fd: None  # rows of a folder that is measured need not survive a power cut
    for i in range(len(rows), n):
        row = copy.deepcopy(rows[i % len(rows)])
        source = store.folder(row["run_id"])
        seed = i // len(rows)
        row["seed"] = row["spec"]["seed"] = seed if seed < LIMIT - MORE else seed + MORE
        row["run_id"] = RunSpec.from_dict(row["spec"]).run_id
        target = store.folder(row["run_id"])
        target.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (target / name).hardlink_to(source / name)
        store.write(row)


def seeds_of(n: int) -> int:
    """The seeds of a bench whose runs are all there."""
    return min(n // EACH_SEED, LIMIT - MORE)


def commands(folder: Path, n: int) -> dict[str, list[str]]:
    """name -> the arguments of each command that is measured."""
    found = {
        "report": ["report", str(folder), "--format", "md"],
        "report --format json": ["report", str(folder), "--format", "json"],
        "status": ["status", str(folder)],
        "runs": ["runs", str(folder)],
        "bench --plan": [*BENCH, "--seeds", str(seeds_of(n)), "--out", str(folder), "--plan"],
    }
    if n <= PAGE:
        found["report -o report.html"] = ["report", str(folder), "-o", "report.html"]
    return found


def run(arguments: list[str], cwd: Path | None = None) -> tuple[float, float, float]:
    """Seconds of wall and of processor time, and the peak memory in MB of an mmzoo command."""
    script = "import resource, sys; from mmzoo.cli import main; code = main(sys.argv[1:]); "
    script += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(code)"
    path = os.pathsep.join([str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")])
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"mmzoo {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, spent, int(done.stderr.split()[-1]) / 1024


def start(folder: Path, n: int) -> tuple[float, float, float]:
    """Seconds of wall and of processor time until a bench of two seeds more trains its first run, and its memory by then in MB.

    It is stopped there, and what it began is removed.
    """
    root = Path(__file__).resolve().parent.parent
    there = set(os.listdir(folder / "runs"))
    arguments = [*BENCH, "--seeds", str(seeds_of(n) + MORE), "--workers", "1", "--out", str(folder), "--yes"]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    bench = subprocess.Popen(
        [sys.executable, "-m", "mmzoo", *arguments],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    seconds = memory = 0.0
    while not seconds and bench.poll() is None:
        time.sleep(0.5)  # the bench needs the processor
        new = set(os.listdir(folder / "runs")) - there
        if any(
            "starts at epoch 0" in log.read_text() for r in new if (log := folder / "runs" / r / "log.txt").is_file()
        ):
            seconds = time.perf_counter() - began
            status = Path(f"/proc/{bench.pid}/status")
            told = status.read_text() if status.is_file() else ""
            memory = next((int(line.split()[1]) / 1024 for line in told.splitlines() if line.startswith("VmHWM")), 0.0)
    bench.kill()
    _, text = bench.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    for name in set(os.listdir(folder / "runs")) - there:
        shutil.rmtree(folder / "runs" / name)
    if not seconds:
        raise SystemExit(f"the bench ended before its first run:\n{text.decode(errors='replace')}")
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, memory


def measured(n: int, command: str, place: Path, spend: Callable[[], tuple[float, float, float]]) -> dict[str, Any]:
    """One line of the table."""
    seconds, spent, memory = spend()
    page = place / "report.html"
    size = page.stat().st_size / 1e6 if page.exists() else 0.0
    page.unlink(missing_ok=True)
    line = {
        "rows": n,
        "command": command,
        "seconds": f"{seconds:.1f}",
        "processor seconds": f"{spent:.1f}",
        "peak MB": f"{memory:.0f}",
        "page MB": f"{size:.1f}" if size else "",
    }
    print(line, flush=True)
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[2000, 20000, 100000])
    parser.add_argument("--keep", metavar="DIR", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", default="", help="of the commands those whose name holds this")
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    for n in given.rows:
        with tempfile.TemporaryDirectory() as name:
            place, kept = Path(name), Path(name) / "home" / "rows"
            os.environ["MMZOO_HOME"] = str(kept.parent)
            folder = (given.keep or place).resolve() / f"rows-{n}"
            if not folder.exists():
                make(folder, n)
            spending = {c: partial(run, arguments, place) for c, arguments in commands(folder, n).items()}
            for command, spend in {**spending, STARTS[0]: partial(start, folder, n)}.items():
                if given.only not in command:
                    continue
                if command in COLD:
                    shutil.rmtree(kept, ignore_errors=True)
                    found.append(measured(n, f"{command}, cold", place, spend))
                elif not kept.exists():
                    run(["runs", str(folder)])
                found.append(measured(n, command, place, spend))
            if given.only in STARTS[1]:
                (place / "empty" / "runs").mkdir(parents=True)
                found.append(measured(n, STARTS[1], place, partial(start, place / "empty", n)))
    if given.write:
        with RESULTS.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(found[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(found)


if __name__ == "__main__":
    main()

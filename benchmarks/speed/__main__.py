"""How fast mmzoo is: measure, print tables, write JSON.

    python -m benchmarks.speed                         # all but the peers, on two idle cores about 25 minutes
    python -m benchmarks.speed --only steps,bench
    python -m benchmarks.speed --only peers --balance FOLDER   # a clone of GeWu-Lab/BalanceBenchmark; pip install lightning

steps: a step of each method beside a bare loop (MLPs). large: two ResNet18 at CREMA-D's size. bench: where a bench's
processor time goes, of the main job and of all methods. job: the README's main command as a whole. together: seeds as one batched model. growth: modalities, classes, batch, rows. peers: BalanceBenchmark and
Lightning on the same batches.

Times are processor time on one thread, so that other work on the machine hardly moves them. Sections that are not run keep
their numbers in benchmarks/results/speed/speed.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results" / "speed"
SECTIONS = ("steps", "large", "bench", "job", "together", "growth", "peers")


def section(name: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one section, measured in this process."""
    import torch

    if name == "bench":  # before torch is there: its import is part of what is measured
        raise AssertionError("bench is measured in a process of its own")
    torch.set_num_threads(1)
    from benchmarks.speed import growth, job, large, peers, steps, together

    if name == "steps":
        return steps.measure(given.rounds)
    if name == "large":
        return large.measure(given.pairs)
    if name == "job":
        return job.measure()
    if name == "together":
        return [together.measure(seeds) for seeds in (3, 5, 10)]
    if name == "growth":
        return growth.measure(list(growth.POINTS), given.rows)
    return peers.measure(given.balance, given.pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"sections, separated by commas, of {', '.join(SECTIONS)}")
    parser.add_argument("--rounds", type=int, default=30, help="epochs of small steps that are timed")
    parser.add_argument("--pairs", type=int, default=8, help="large steps that are timed")
    parser.add_argument("--rows", type=int, default=1_000_000, help="the longest table that is prepared")
    parser.add_argument("--balance", type=Path, help="a clone of BalanceBenchmark")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--point", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--peer", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--profile", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.point:
        from benchmarks.speed.growth import point

        print(json.dumps(point(given.point[0], int(given.point[1]))))
        return
    if given.peer:
        from benchmarks.speed.peers import one

        print(json.dumps(one(*given.peer, given.pairs, given.balance)))
        return
    if given.profile:
        from benchmarks.speed.bench import BENCHES, profile

        print(json.dumps(profile(*BENCHES[given.profile]())))
        return
    wanted = given.only.split(",") if given.only else [s for s in SECTIONS if s != "peers"]
    if unknown := set(wanted) - set(SECTIONS):
        parser.error(f"no section {min(unknown)!r}; there are {', '.join(SECTIONS)}")
    if "peers" in wanted and given.balance is None:
        parser.error("peers needs --balance FOLDER")
    for name in wanted:
        rows = _profiled(given.out) if name == "bench" else section(name, given)
        write(given.out, name, rows)
        print(table(rows))


def _profiled(out: Path) -> list[dict[str, Any]]:
    """The rows of the benches; the functions of the main job go to main_job.txt."""
    from benchmarks.speed.bench import BENCHES
    from mmzoo.io.files import write_bytes

    rows = []
    for name in BENCHES:
        command = [sys.executable, "-m", "benchmarks.speed", "--profile", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    functions, *_ = [found.pop("functions") for found in rows]
    row = rows[0]
    lines = [f"{row['what']}: {row['runs']} runs, {row['seconds']} s of processor time; in or below, per cent", ""]
    lines += [f"{share:5.1f}  {name}" for name, share in functions.items()]
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / "main_job.txt", "\n".join([*lines, ""]).encode())
    return rows


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    """Put a section into speed.json, and all sections into speed.md."""
    import torch

    from mmzoo.io.files import write_bytes

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "speed.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    where = f"{platform.machine()}, {os.cpu_count()} cores, one thread, torch {torch.__version__}"
    found[name] = {"hardware": where, "rows": rows}
    found = {s: found[s] for s in SECTIONS if s in found}
    write_bytes(path, json.dumps(found, indent=1).encode() + b"\n")
    text = ["# Speed, as measured", "", "Made by `python -m benchmarks.speed`; what the numbers mean: README.md.", ""]
    for s, held in found.items():
        text += [f"## {s}", "", table(held["rows"]), "", held["hardware"] + ".", ""]
    write_bytes(folder / "speed.md", "\n".join(text).encode())


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as markdown; a mapping in a cell as its items."""
    keys = list(dict.fromkeys(k for row in rows for k in row))

    def cell(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{k} {v}" for k, v in value.items())
        return "-" if value is None else str(value)

    lines = [[cell(row.get(k)) for k in keys] for row in rows]
    return "\n".join(
        ["| " + " | ".join(keys) + " |", "|" + " --- |" * len(keys), *("| " + " | ".join(x) + " |" for x in lines)]
    )


if __name__ == "__main__":
    main()

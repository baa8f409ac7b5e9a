"""python -m benchmarks.speed [--rounds N] [--out FILE]: measure, print a table, write JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

import torch

from benchmarks.speed import steps
from mmzoo.io.files import write_bytes

RESULTS = Path(__file__).resolve().parents[1] / "results" / "speed.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="epochs of steps that are timed")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    rows = steps.measure(given.rounds)
    print(f"| {'step':<16} | ms    | to bare loop |\n| --- | --- | --- |")
    for row in rows:
        print(f"| {row['what']:<16} | {row['milliseconds']:5.3f} | {row['ratio']:.3f} |")
    where = f"{platform.machine()}, {os.cpu_count()} cores, one thread, torch {torch.__version__}"
    given.out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(given.out, json.dumps({"hardware": where, "steps": rows}, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()

"""The main command of the README as a whole: wall time, processor time, and how busy the cores are.

Synthetic sets are generated and prepared before, as a user's second bench finds them.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

COMMAND = ("bench", "--method", "dynamic_gap_lb", "--baselines", "ogm,pmr")


def _spent(arguments: tuple[str, ...], environment: dict[str, str]) -> tuple[float, float]:
    """Seconds of wall and of processor time, of the command and all its workers."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "mmzoo", *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure() -> list[dict[str, Any]]:
    """One row for the preparation with one run of each set, one for the command with three seeds."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "MMZOO_HOME": str(Path(folder, "home")), "OMP_NUM_THREADS": "1"}
        first = ("bench", "--method", "concat", "--seeds", "1", "--epochs", "1", "--out", str(Path(folder, "first")))
        for what, arguments in (
            ("synthetic sets, and an epoch on each", first),
            ("the main command", (*COMMAND, "--out", str(Path(folder, "out")))),
        ):
            wall, processor = _spent(arguments, environment)
            runs = len(list(Path(arguments[-1], "runs").glob("*/result.json")))
            rows.append(
                {
                    "what": what,
                    "rows": runs,
                    "wall_s": round(wall, 1),
                    "processor_s": round(processor, 1),
                    "busy": round(100 * processor / wall / cores),
                }
            )
    return rows

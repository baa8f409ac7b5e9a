"""How time and memory grow: modalities, classes, samples in a batch, and rows of a table read from disk.

Every point is a process of its own, so that its peak memory is its own. Two MLPs of the default size train plainly and
under OGM on generated vectors; then all scores of 2,000 test samples are computed, ablations and probes included. Rows of
a table: 16 numbers in two modalities, prepared from CSV by `mmzoo data prepare`, then read in batches of 64 in a drawn
order.
"""

from __future__ import annotations

import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

#: axis -> its points
POINTS = {
    "modalities": (1, 2, 4, 8),
    "classes": (2, 10, 100, 1000, 5000),
    "batch": (16, 64, 256, 1024),
    "rows": (10_000, 100_000, 1_000_000),
}
#: what an axis does not vary
USUAL = {"modalities": 2, "classes": 10, "batch": 64}
WIDTH, SAMPLES = 64, 2000


def point(axis: str, value: int) -> dict[str, Any]:
    """One point, measured in this process."""
    import torch

    torch.set_num_threads(1)
    row = _rows(value) if axis == "rows" else _training(**{**USUAL, axis: value})
    return {**row, "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def _training(modalities: int, classes: int, batch: int) -> dict[str, Any]:
    import torch

    from mmzoo import Batch, MultimodalModel, Run
    from mmzoo.core.encoder import InputSpec
    from mmzoo.encoders.mlp import MLP
    from mmzoo.evaluation.scores import evaluate_modalities
    from mmzoo.heads.concat import Concat
    from mmzoo.strategies.ogm import OGM
    from mmzoo.training.strategy import Strategy

    names = [f"m{i}" for i in range(modalities)]
    g = torch.Generator().manual_seed(0)

    def batches(n: int, size: int) -> list[Batch]:
        return [
            Batch(
                {m: torch.randn((size, WIDTH), generator=g) for m in names},
                torch.randint(classes, (size,), generator=g),
                torch.arange(size) + i * size,
            )
            for i in range(n)
        ]

    def run_of(strategy: Strategy) -> Run:
        torch.manual_seed(0)
        encoders = {m: MLP(InputSpec("vector", (WIDTH,))) for m in names}
        head = Concat({m: e.out_dim for m, e in encoders.items()}, classes)
        return Run(MultimodalModel(encoders, head), strategy, train=batches(2, batch))

    def step_time(run: Run) -> float:
        run.start_epoch()
        taken = []
        for i in range(40):
            start = time.process_time()
            run.step(todo[i % len(todo)])
            taken.append(time.process_time() - start)
        return 1e3 * statistics.median(taken[5:])

    todo = batches(4, batch)
    plain = run_of(Strategy())
    row = {"step_ms": round(step_time(plain), 3)}
    if modalities > 1:
        row["ogm_step_ms"] = round(step_time(run_of(OGM())), 3)
    known, test = batches(SAMPLES // 500, 500), batches(SAMPLES // 500, 500)
    start = time.process_time()
    evaluate_modalities(plain.model, plain.strategy, train=lambda: known, test=lambda: test)
    return {**row, "scores_s": round(time.process_time() - start, 2)}


def _rows(n: int) -> dict[str, Any]:
    import numpy as np
    import torch

    from mmzoo.data.loading.prepared import open_module

    with tempfile.TemporaryDirectory() as folder:
        top = Path(folder)
        draw = np.random.default_rng(0)
        with (top / "table.csv").open("w") as file:
            file.write("id,label," + ",".join(f"x{i}" for i in range(16)) + "\n")
            for start in range(0, n, 10_000):
                numbers = draw.standard_normal((min(10_000, n - start), 16)).round(3)
                labels = draw.integers(0, 10, len(numbers))
                file.writelines(
                    f"r{start + i},c{c}," + ",".join(map(str, x)) + "\n"
                    for i, (c, x) in enumerate(zip(labels, numbers))
                )
        modalities = "\n".join(
            f"  {m}: {{kind: vector, columns: [{', '.join(f'x{i}' for i in at)}]}}"
            for m, at in {"first": range(8), "second": range(8, 16)}.items()
        )
        (top / "table.yaml").write_text(f"name: table\ntable: table.csv\nmodalities:\n{modalities}\n")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {**os.environ, "MMZOO_HOME": folder, "OMP_NUM_THREADS": "1"}
        subprocess.run(
            [sys.executable, "-m", "mmzoo", "data", "prepare", str(top / "table.yaml"), "--jobs", "0"],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        data = open_module(next(p.parent for p in top.glob("stores/table/*/meta.json")))
        loader = data.loader("train", batch_size=64)
        start = time.process_time()
        read = sum(len(b) for b in loader.batches(torch.Generator().manual_seed(0)))
        seconds = time.process_time() - start
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "prepare_s": round(cpu, 1),
        "prepare_peak_mb": round(after.ru_maxrss / 1024),
        "epoch_s": round(seconds, 2),
        "us_an_item": round(1e6 * seconds / read, 2),
    }


def measure(axes: list[str], most: int | None = None) -> list[dict[str, Any]]:
    """One row a point. most: leave out larger numbers of rows.

    Each has `growth`: the exponent of its first measure since the point before (1: linear, 2: quadratic).
    """
    found = []
    for axis in axes:
        last: dict[str, Any] | None = None
        for value in POINTS[axis]:
            if axis == "rows" and most is not None and value > most:
                continue
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.speed", "--point", axis, str(value)], capture_output=True, text=True
            )
            if done.returncode:
                raise SystemExit(done.stderr)
            row = {"axis": axis, "value": value, **json.loads(done.stdout.splitlines()[-1])}
            if last is not None:
                row["growth"] = {
                    k: round(math.log(max(row[k], 1e-9) / max(last[k], 1e-9)) / math.log(value / last["value"]), 2)
                    for k in row
                    if k in last and k.endswith(("_ms", "_s", "_mb"))
                }
            found.append(row)
            last = row
            print(row, flush=True)
    return found

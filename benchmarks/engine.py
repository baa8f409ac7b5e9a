"""What the options of how numbers are computed change and cost on this machine.

    python benchmarks/engine.py                # every option and method below: writes results/engine.csv
    python benchmarks/engine.py --steps 20 --size 96 --methods concat,dynamic_gap_lb

kind option: two ResNet18 at batch 16 on generated images. to_usual: the median ratio of the processor time of a step to
that of a usual one, steps alternating in one process; difference: the largest difference of the features of a batch to
those of the usual run at the same weights, relative to the largest feature.
kind compiled: a method on a task of two small branches, with train.compile and without; difference: the largest
difference between their weights after two epochs; of a learned alpha also that of alpha (`alpha`). seconds: what
compiling took, roughly: the first step. Set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import csv
import io
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from step_cost import BATCH, CLASSES, ResNet18, batches

from mmzoo import MultimodalModel, Run
from mmzoo.benchmark.execution.building import build_strategy
from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.heads.concat import Concat
from mmzoo.io.files import write_bytes
from mmzoo.registry import BUILT_IN, Catalogue, built_in_path, read_entries
from mmzoo.testing.harness.observing import weights
from mmzoo.testing.harness.tasks import build_model, build_run, make_task, train
from mmzoo.training.config import Training
from mmzoo.training.strategy import Strategy

RESULTS = Path(__file__).resolve().parent / "results" / "engine.csv"
KEYS = ("kind", "name", "to_usual", "difference", "alpha", "seconds", "steps", "size", "hardware")
OPTIONS: dict[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16"},
    "compile": {"compile": True},
    "compile and bf16": {"precision": "bf16", "compile": True},
    "fused": {"fused": True},
    "channels_last": {},
}
METHODS = "concat,ogm,agm,mla,gblend,dynamic_gap_lb,dynamic_gap_release_lb"


def run_of(size: int, *, channels_last: bool = False, **options: Any) -> Run:
    torch.manual_seed(0)
    images = {"audio": (1, size, size), "video": (3, size, size)}
    encoders = {m: ResNet18(s[0]).configure(s, channels_last=channels_last) for m, s in images.items()}
    model = MultimodalModel(encoders, Concat({m: e.out_dim for m, e in encoders.items()}, CLASSES))
    training = Training(optimizer="sgd", lr=1e-3, momentum=0.9, batch_size=BATCH, epochs=9, **options)
    run = Run(model, Strategy(), train=batches(2, size, 1), training=training)
    run.start_epoch()
    return run


def option_row(name: str, size: int, steps: int) -> dict[str, Any]:
    usual, other = run_of(size), run_of(size, channels_last=name == "channels_last", **OPTIONS[name])
    data = batches(2, size, 1)
    features = [r.forward(data[0], mode="eval").features for r in (usual, other)]
    a, b = ({m: z.detach() for m, z in f.items()} for f in features)
    apart = max(float((a[m] - b[m]).abs().max() / a[m].abs().max()) for m in a)
    took = [spent(other, data[0]), spent(usual, data[0])]
    pairs = [(spent(usual, data[i % 2]), spent(other, data[i % 2])) for i in range(-2, steps)][2:]
    return {
        "kind": "option",
        "name": name,
        "to_usual": round(statistics.median(o / u for u, o in pairs), 3),
        "difference": f"{apart:.1e}",
        "seconds": round(took[0], 1),
        "steps": steps,
        "size": size,
    }


def spent(run: Run, batch: Any) -> float:
    start = time.process_time()
    run.step(batch)
    return time.process_time() - start


def compiled_row(catalogue: Catalogue, name: str) -> dict[str, Any]:
    method = resolve_method(catalogue, name, Settings(catalogue, ()))
    head = catalogue.get("heads", method.head).load()
    task, runs, took = make_task(), [], 0.0
    for compiled in (False, True):
        model = build_model(task, head=lambda dims, n: head(dims, n, **method.head_params))
        runs.append(build_run(task, build_strategy(catalogue, method.parts), model, compile=compiled))
        start = time.monotonic()
        train(runs[-1], 2)
        took = time.monotonic() - start
    before, after = (weights(r.model) for r in runs)
    alphas = [getattr(r.strategy, "current", None) for r in runs]
    return {
        "kind": "compiled",
        "name": name,
        "seconds": round(took, 1),
        "difference": f"{max(float((before[k] - after[k]).abs().max()) for k in before):.1e}",
        "alpha": "" if alphas[0] is None else f"{abs(alphas[0] - alphas[1]):.1e}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--options", default=",".join(OPTIONS))
    parser.add_argument("--methods", default=METHODS)
    given = parser.parse_args()
    catalogue = Catalogue(read_entries(built_in_path(), BUILT_IN))
    rows = []
    for name in filter(None, given.options.split(",")):
        rows.append(option_row(name, given.size, given.steps))
        print(rows[-1], flush=True)
    for name in filter(None, given.methods.split(",")):
        rows.append(compiled_row(catalogue, name))
        print(rows[-1], flush=True)
    hardware = f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread"
    text = io.StringIO()
    writer = csv.DictWriter(text, KEYS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "hardware": hardware} for row in rows)
    write_bytes(RESULTS, text.getvalue().encode())


if __name__ == "__main__":
    main()

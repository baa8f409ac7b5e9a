"""What a step of each method costs, against the forwards and backwards that it declares.

    python benchmarks/step_cost.py                        # every method: writes results/step_cost.csv
    python benchmarks/step_cost.py --methods greedy,ogm_ge --size 224 --pairs 8

Two ResNet18 at batch 16 on generated images (1xSxS and 3xSxS), in the middle of a run. Single steps of a method and of
plain training with the same head, on the same batches, alternate in one process and take turns in who comes first;
processor time is what is counted: set OMP_NUM_THREADS=1. Rows of other methods and sizes stay in the file.

forwards, backwards: what a step of the method counts. seconds: the median of a plain step. to_plain: the median ratio over
all pairs of steps. declared: what the counted passes should cost, a plain step and the extra passes, each at the time
that a forward or a backward of plain training takes. over: how far the method is above that, in per cent: what it does
beside passes over the model. low, high: the 95 % interval of `over` for a median, from order statistics of the pairs.
hooks: the time in the method's hooks, passes over the model that they make left out, in per cent of a plain step; the
median. It is measured within a step, not as a difference of two, and so hardly feels other work on the machine; it
leaves out what the method's terms add to the backward from the logits and features to the head.

ends_forwards, ends_backwards, ends_steps: what is done before and after the steps of one epoch (prototypes, scores on the
slice of one batch, a solve, copies that are trained), in passes and in the time of plain steps; no part of `over`.
"""

from __future__ import annotations

import argparse
import csv
import io
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from mmzoo import Batch, Encoder, MultimodalModel, Run
from mmzoo.benchmark.execution.building import build_strategy
from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.config.spec import Method
from mmzoo.errors import MmzooError
from mmzoo.io.files import write_bytes
from mmzoo.registry import BUILT_IN, Catalogue, built_in_path, read_entries
from mmzoo.training.composition import Wrapper
from mmzoo.training.config import Training
from mmzoo.training.strategy import Strategy

RESULTS = Path(__file__).resolve().parent / "results" / "step_cost.csv"
BATCH, CLASSES = 16, 6
KEYS = (
    "method",
    "head",
    "size",
    "forwards",
    "backwards",
    "seconds",
    "to_plain",
    "declared",
    "over",
    "low",
    "high",
    "hooks",
    "pairs",
    "ends_forwards",
    "ends_backwards",
    "ends_steps",
    "note",
    "hardware",
)


class ResNet18(Encoder):
    """timm's ResNet18, its four stages open to heads that act between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.net = timm.create_model("resnet18", in_chans=channels, num_classes=0)
        self.out_dim = self.net.num_features
        self.n_stages = 4
        self.stage_dims = (64, 128, 256, 512)

    def begin(self, x: Tensor) -> Tensor:
        return self.net.maxpool(self.net.act1(self.net.bn1(self.net.conv1(x))))

    def run_stage(self, stage: int, state: Tensor) -> Tensor:
        return getattr(self.net, f"layer{stage + 1}")(state)

    def finish(self, state: Tensor) -> Tensor:
        return state.mean((2, 3))


def batches(n: int, size: int, seed: int) -> list[Batch]:
    g = torch.Generator().manual_seed(seed)
    shapes = {"audio": (1, size, size), "video": (3, size, size)}
    return [
        Batch(
            {m: torch.randn((BATCH, *s), generator=g) for m, s in shapes.items()},
            torch.randint(CLASSES, (BATCH,), generator=g),
            torch.arange(BATCH) + i * BATCH,
        )
        for i in range(n)
    ]


def run_of(catalogue: Catalogue, method: Method, size: int) -> Run:
    """A run in its 20th epoch of 40, each of two batches: after what methods do at first, before what they do last."""
    torch.manual_seed(0)
    head = catalogue.get("heads", method.head).load()
    encoders = head.readout({"audio": ResNet18(1), "video": ResNet18(3)}, **method.head_params)
    model = MultimodalModel(encoders, head({m: e.out_dim for m, e in encoders.items()}, CLASSES, **method.head_params))
    training = Training(optimizer="sgd", lr=1e-3, momentum=0.9, weight_decay=1e-4, batch_size=BATCH, epochs=40)
    timed = Timed(build_strategy(catalogue, method.parts))
    run = Run(model, timed, train=batches(2, size, 1), slice=batches(1, size, 2), training=training)
    timed.watch(run)
    run.epoch = 20
    return run


def spent(run: Run, do: Callable[[], Any]) -> tuple[float, float, float]:
    """Seconds, forwards and backwards of a call."""
    before = (run.cost.forward, run.cost.backward)
    start = time.process_time()
    do()
    return time.process_time() - start, run.cost.forward - before[0], run.cost.backward - before[1]


class Timed(Wrapper):
    """Adds up the time that a strategy's hooks take, without what they spend in passes over the model."""

    def __init__(self, inner: Strategy) -> None:
        super().__init__(inner)
        self.hooks = self.passes = 0.0

    def watch(self, run: Run) -> None:
        for name in ("forward", "coalitions", "backward", "teacher_outputs", "term_grads"):
            setattr(run, name, partial(self._pass, getattr(run, name)))

    def _pass(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        start, inner = time.process_time(), self.passes
        result = call(*arguments, **options)
        self.passes = inner + time.process_time() - start
        return result

    def timed(self, name: str, *arguments: Any) -> Any:
        start, passes = time.process_time(), self.passes
        result = getattr(self.inner, name)(*arguments)
        self.hooks += time.process_time() - start - (self.passes - passes)
        return result


def _hook(name: str) -> Any:
    return lambda self, *arguments: self.timed(name, *arguments)


for _name in ("plan", "features", "outputs", "losses", "backward", "gradients", "updated"):
    setattr(Timed, _name, _hook(_name))


def interval(values: list[float], level: float = 0.95) -> tuple[float, float]:
    """The interval between order statistics that holds the median with at least this probability."""
    ordered, n = sorted(values), len(values)
    k, below = 0, 0.5**n
    while below + math.comb(n, k + 1) * 0.5**n <= (1 - level) / 2:
        k += 1
        below += math.comb(n, k) * 0.5**n
    return ordered[k], ordered[n - 1 - k]


def plain_of(catalogue: Catalogue, method: Method) -> Method:
    """Plain training with the head of a method."""
    same = resolve_method(catalogue, f"plain@{method.head}", Settings(catalogue, ()))
    return replace(same, head_params=method.head_params)


def measure(catalogue: Catalogue, name: str, size: int, pairs: int) -> dict[str, Any]:
    """One row; where a method has no step to be timed, the reason."""
    method = resolve_method(catalogue, name, Settings(catalogue, ()))
    row: dict[str, Any] = {"method": name, "head": method.head, "size": size}
    strategy = build_strategy(catalogue, method.parts)
    if not strategy.cost["backward"]:
        return {**row, "note": "no step of its own: it puts the unimodal runs together"}
    if type(strategy) is type(build_strategy(catalogue, plain_of(catalogue, method).parts)) and name != "concat":
        return {**row, "note": "plain training itself, under this head: see concat for what the measurement is worth"}
    try:
        plain = run_of(catalogue, plain_of(catalogue, method), size)
        other = run_of(catalogue, method, size)
    except MmzooError as error:
        return {**row, "note": str(error)}
    plain.start_epoch()
    began = spent(other, other.start_epoch)
    data = batches(2, size, 1)
    for batch in data:  # warm up: memory, momentum, teachers
        plain.step(batch), other.step(batch)
    taken, times, hooks = [], [], []
    timed: Any = other.strategy
    for i in range(pairs):
        batch = data[i % 2]
        order = (plain, other) if i % 4 < 2 else (other, plain)
        before = timed.hooks
        cost = {run: spent(run, partial(run.step, batch)) for run in order}
        hooks.append((timed.hooks - before) / cost[plain][0])
        taken.append((cost[plain], cost[other]))
        times.append(spent(plain, partial(plain.forward, batch, mode="train"))[0])
    ended = spent(other, other.end_epoch)
    base = statistics.median(p[0] for p, _ in taken)
    forward = min(statistics.median(times) / base, 0.5)
    forwards, backwards = (sum(o[i] for _, o in taken) / pairs for i in (1, 2))
    declared = 1 + (forwards - 1) * forward + (backwards - 1) * (1 - forward)
    ratios = [o[0] / p[0] for p, o in taken]
    over = [round(100 * (r / declared - 1), 1) for r in (statistics.median(ratios), *interval(ratios))]
    return {
        **row,
        "forwards": round(forwards, 3),
        "backwards": round(backwards, 3),
        "seconds": round(base, 4),
        "to_plain": round(statistics.median(ratios), 3),
        "declared": round(declared, 3),
        "over": over[0],
        "low": over[1],
        "high": over[2],
        "hooks": round(100 * statistics.median(hooks), 2),
        "pairs": pairs,
        "ends_forwards": round(began[1] + ended[1], 2),
        "ends_backwards": round(began[2] + ended[2], 2),
        "ends_steps": round((began[0] + ended[0]) / base, 2),
        "note": "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", help="names separated by commas (default: all)")
    parser.add_argument("--size", type=int, default=64, help="height and width of the images")
    parser.add_argument("--pairs", type=int, default=24, help="how many pairs of steps are timed, at least 6")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    catalogue = Catalogue(read_entries(built_in_path(), BUILT_IN))
    names = (
        given.methods.split(",")
        if given.methods
        else [e.name for e in catalogue.entries("methods") if not e.extra.get("each_modality")]
    )
    where = (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        row = {**measure(catalogue, name, given.size, given.pairs), "hardware": where}
        print(row, flush=True)
        write(given.out, row)


def write(path: Path, row: dict[str, Any]) -> None:
    """Put a row into the file in place of that of the same method and size."""
    rows = {}
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            rows = {(r["method"], int(r["size"])): r for r in csv.DictReader(file)}
    rows[row["method"], row["size"]] = row
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, KEYS, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows[k] for k in sorted(rows))
    write_bytes(path, text.getvalue().encode())


if __name__ == "__main__":
    main()

"""What a step of each method costs, against the forwards and backwards that it declares.

    python benchmarks/step_cost.py                        # every method: writes results/step_cost.csv
    python benchmarks/step_cost.py --methods ogm,pmr --size 64

Two ResNet18 at batch 16 on generated images (1xSxS and 3xSxS). Epochs of a method and of plain training with the same
head alternate in one process, and processor time is what is counted, which other work on the machine hardly touches:
set OMP_NUM_THREADS=1. `forwards` and `backwards` are what the run counted, a batch; `seconds` the
median time of an epoch over its batches; `to_plain` their ratio. `declared` is what the counted passes should cost: a plain step
plus the extra forwards and backwards, each at the time that a forward or a backward of plain training takes. `over` is
how far the method is above that, in per cent: what it does beside passes over the model.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from mmzoo import Batch, Encoder, MultimodalModel, Run
from mmzoo.bench.runner import build_strategy
from mmzoo.catalogue import BUILT_IN, Catalogue, built_in_path, read_entries
from mmzoo.config import Method, Settings, resolve_method
from mmzoo.errors import MmzooError
from mmzoo.training import Training

RESULTS = Path(__file__).resolve().parent / "results" / "step_cost.csv"
BATCH, CLASSES = 16, 6


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
        Batch({m: torch.randn((BATCH, *s), generator=g) for m, s in shapes.items()},
              torch.randint(CLASSES, (BATCH,), generator=g), torch.arange(BATCH) + i * BATCH)
        for i in range(n)
    ]  # fmt: skip


def run_of(catalogue: Catalogue, method: Method, n_batches: int, size: int) -> Run:
    torch.manual_seed(0)
    encoders = {"audio": ResNet18(1), "video": ResNet18(3)}
    head = catalogue.get("heads", method.head).load()
    model = MultimodalModel(encoders, head({m: e.out_dim for m, e in encoders.items()}, CLASSES, **method.head_params))
    training = Training(optimizer="sgd", lr=1e-3, momentum=0.9, weight_decay=1e-4, batch_size=BATCH, epochs=2)
    return Run(model, build_strategy(catalogue, method.parts), train=batches(n_batches, size, 1),
               slice=batches(1, size, 2), training=training)  # fmt: skip


def one_epoch(run: Run) -> tuple[float, float, float]:
    """Seconds, forwards and backwards of the steps of an epoch and of what is done around it."""
    before = (run.cost.forward, run.cost.backward)
    start = time.process_time()
    run.train_epoch()
    run.end_epoch()
    seconds = time.process_time() - start
    run.epoch = 0  # always the same epoch, whatever a schedule does later
    return seconds, run.cost.forward - before[0], run.cost.backward - before[1]


def measure(catalogue: Catalogue, name: str, n_batches: int, size: int, pairs: int) -> dict[str, Any]:
    """One row; where a method cannot train these encoders, the reason."""
    method = resolve_method(catalogue, name, Settings(catalogue, ()))
    row: dict[str, Any] = {"method": name, "head": method.head}
    try:
        plain = run_of(
            catalogue, resolve_method(catalogue, f"plain@{method.head}", Settings(catalogue, ())), n_batches, size
        )
        other = run_of(catalogue, method, n_batches, size)
    except MmzooError as error:
        return {**row, "note": str(error)}
    one_epoch(plain), one_epoch(other)  # warm up
    taken = [(one_epoch(plain), one_epoch(other)) for _ in range(pairs)]
    base = statistics.median(p[0] for p, _ in taken) / n_batches
    ratio = statistics.median(o[0] / p[0] for p, o in taken)
    batch = batches(1, size, 3)[0]
    times = []
    for _ in range(2 * pairs):
        start = time.process_time()
        plain.forward(batch, mode="train")
        times.append(time.process_time() - start)
    forward = min(statistics.median(times) / base, 0.5)
    forwards, backwards = (sum(o[i] for _, o in taken) / pairs / n_batches for i in (1, 2))
    declared = 1 + (forwards - 1) * forward + (backwards - 1) * (1 - forward)
    return {**row, "forwards": round(forwards, 3), "backwards": round(backwards, 3), "seconds": round(ratio * base, 4),
            "to_plain": round(ratio, 3), "declared": round(declared, 3),
            "over": round(100 * (ratio / declared - 1), 1), "note": ""}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", help="names separated by commas (default: all)")
    parser.add_argument("--size", type=int, default=64, help="height and width of the images")
    parser.add_argument("--batches", type=int, default=4, help="batches of an epoch")
    parser.add_argument("--pairs", type=int, default=5, help="how many epochs of each kind are timed")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    catalogue = Catalogue(read_entries(built_in_path(), BUILT_IN))
    names = given.methods.split(",") if given.methods else [
        e.name for e in catalogue.entries("methods") if not e.extra.get("each_modality")
    ]  # fmt: skip
    where = (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    rows = []
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        row = {**measure(catalogue, name, given.batches, given.size, given.pairs), "hardware": where}
        rows.append(row)
        print(row, flush=True)
        with given.out.open("w", encoding="utf-8", newline="") as file:
            keys = [
                "method",
                "head",
                "forwards",
                "backwards",
                "seconds",
                "to_plain",
                "declared",
                "over",
                "note",
                "hardware",
            ]
            writer = csv.DictWriter(file, keys, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()

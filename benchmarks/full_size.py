"""One epoch of every row of Table 1 in the published shapes, with random weights and random inputs:

    python benchmarks/full_size.py --datasets cremad,sarcasm --items 64 --out benchmarks/results/full_size.csv

It shows that nothing is refused that the paper ran, and what a step costs. A row has seconds per step, the peak of memory, and from
the published numbers of samples and epochs the hours that one seed of it takes on this device. Encoders are built from their
configurations: nothing is downloaded.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from mmzoo.benchmark.execution.building import Kit
from mmzoo.benchmark.paper.printed import suite_file
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.benchmark.planning.planned import Planned
from mmzoo.config.spec import BenchSpec
from mmzoo.config.suites import read_suite
from mmzoo.data.loading.datamodule import DataModule
from mmzoo.errors import MmzooError
from mmzoo.registry import BUILT_IN, Catalogue, built_in_path, read_entries

#: data set -> training samples, classes, and shape and kind of each modality, as published
PUBLISHED: Mapping[str, tuple[int, int, Mapping[str, tuple[str, tuple[int, ...]]]]] = {
    "cremad": (6698, 6, {"audio": ("spectrogram", (257, 299)), "video": ("video", (3, 3, 224, 224))}),
    "kinetics_sounds": (15000, 31, {"audio": ("spectrogram", (257, 1004)), "video": ("video", (3, 3, 224, 224))}),
    "sarcasm": (19816, 2, {"image": ("image", (3, 224, 224)), "text": ("text", (128,))}),
    "twitter2015": (3179, 3, {"image": ("image", (3, 224, 224)), "text": ("text", (128,))}),
}
_SCRATCH = (("encoder.image.weights", "none"), ("encoder.text.model", "bert"), ("encoder.text.weights", "none"))
_VOCABULARY = 30522


def made_up(name: str, items: int) -> DataModule:
    """Random inputs in the published shapes; a quarter of the items each for holdout, slice and test, so small they are."""
    _, n_classes, modalities = PUBLISHED[name]
    draw = torch.Generator().manual_seed(0)
    inputs: dict[str, Any] = {}
    for m, (kind, shape) in modalities.items():
        if kind == "text":
            ids = torch.randint(_VOCABULARY, (items, *shape), generator=draw)
            inputs[m] = {"ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool)}
        else:
            inputs[m] = torch.randn(items, *shape, generator=draw)
    rows = list(range(items))
    few = max(n_classes, items // 8)
    splits = {"slice": rows[:few], "holdout": rows[few : 2 * few], "test": rows[:few], "train": rows[2 * few :]}
    return DataModule(
        name,
        inputs,
        torch.arange(items) % n_classes,
        n_classes,
        splits,
        "made up",
        "made up",
        kinds={m: kind for m, (kind, _) in modalities.items()},
        vocabulary={m: _VOCABULARY for m, (kind, _) in modalities.items() if kind == "text"},
    )


def runs_of(name: str, catalogue: Catalogue) -> tuple[tuple[Planned, ...], tuple[Any, ...]]:
    fields = read_suite(suite_file("table1"), catalogue)
    used = _SCRATCH if "text" in PUBLISHED[name][2] else ()
    bench = BenchSpec(**{**fields, "datasets": (name,), "seeds": (0,), "settings": used})
    plan = make_plan(bench, catalogue, stores=False)
    return plan.runs, plan.refused


def measured(planned: Planned, data: DataModule, catalogue: Catalogue, device: str, batch: int) -> dict[str, Any]:
    """One epoch of a run."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    training = planned.spec.training.replace(epochs=1, batch_size=batch)
    spec = dataclasses.replace(planned.spec, training=training)
    run = Kit(catalogue, spec, data, device).run()
    start = time.monotonic()
    run.train_epoch()
    run.end_epoch(run.training_loss())
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    seconds = (time.monotonic() - start) / max(1, run.global_step)
    peak = (
        torch.cuda.max_memory_allocated(device)
        if device.startswith("cuda")
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    steps = math.ceil(PUBLISHED[data.name][0] / batch) * planned.spec.training.epochs
    return {
        "steps": run.global_step,
        "seconds_per_step": round(seconds, 3),
        "peak_gb": round(peak / 1e9, 2),
        "hours_per_seed": round(seconds * steps / 3600, 2),
        "parameters": sum(p.numel() for p in run.model.parameters()),
    }


def rows(names: list[str], items: int, device: str, batch: int, only: set[str]) -> Iterator[dict[str, Any]]:
    catalogue = Catalogue(read_entries(built_in_path(), BUILT_IN))
    for name in names:
        data = made_up(name, items)
        runs, refused = runs_of(name, catalogue)
        for each in refused:
            yield {"dataset": name, "method": each.method, "status": f"refused: {each.reason}"}
        for planned in runs:
            if only and planned.method not in only:
                continue
            row: dict[str, Any] = {
                "dataset": name,
                "method": planned.label,
                "device": device,
                "batch": batch,
                "items": items,
            }
            try:
                yield {**row, "status": "ok", **measured(planned, data, catalogue, device, batch)}
            except (MmzooError, RuntimeError) as error:
                yield {**row, "status": f"{type(error).__name__}: {error}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", default="cremad,sarcasm")
    parser.add_argument("--items", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16, help="items of a step; the paper has 256 and 128")
    parser.add_argument("--methods", default="", help="only these")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("full_size.csv"))
    given = parser.parse_args()
    only = set(filter(None, given.methods.split(",")))
    names = (
        "dataset",
        "method",
        "status",
        "device",
        "batch",
        "items",
        "steps",
        "seconds_per_step",
        "peak_gb",
        "hours_per_seed",
        "parameters",
    )
    with given.out.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        for row in rows(given.datasets.split(","), given.items, given.device, given.batch, only):
            writer.writerow(row)
            file.flush()
            print(" ".join(map(str, row.values())), file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

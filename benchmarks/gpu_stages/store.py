"""An epoch from arrays of CREMA-D's shape on the disk: rows held on the device, and rows streamed to it.

6,698 items of a spectrogram of 257x299 (float16) and three frames of 224x224 (uint8), 605 kB each. `reads` is the loader
alone, with the transforms on the device; `trains` has the steps of two ResNet18 too (bf16, channels_last, fused). `cold` has
dropped the files from the system's cache before. The loader itself decides to hold rows where the device has room; for the
rows that are streamed that room is set to none.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from benchmarks.gpu_stages.machine import peak_gib, tidy, wait
from benchmarks.gpu_stages.rows import At, Row
from mmzoo import Batch, MultimodalModel, Run, Strategy
from mmzoo.core.encoder import InputSpec
from mmzoo.data.loading import datamodule
from mmzoo.data.loading.columns import Mapped
from mmzoo.data.loading.datamodule import DataModule
from mmzoo.data.loading.transforms import transform_for
from mmzoo.encoders.backbones import ResNet18
from mmzoo.heads.concat import Concat
from mmzoo.training.config import Training

CLASSES = 6
#: distinct items, which the arrays repeat
DISTINCT = 64


@dataclasses.dataclass(frozen=True)
class Size:
    """How large it all is."""

    items: int
    bins: tuple[int, int]
    side: int
    batches: tuple[int, ...]


FULL = Size(6698, (257, 299), 224, (64, 256))
SMALL = Size(8, (32, 40), 32, (4,))


def run(at: At) -> None:
    size = SMALL if at.small else FULL
    row: Row = {"kind": "written", "items": size.items}
    at.tried(15.0, row, lambda: write(at.scratch, size))
    for what in ("reads", "trains"):
        for batch in size.batches:
            for how in (*["streamed, cold"] * (batch == size.batches[0]), "streamed", "held"):
                row = {"kind": "epoch", "what": what, "rows": how, "batch": batch, "items": size.items}
                at.tried(3.0, row, lambda r=row: epoch(at, size, r))  # type: ignore[misc]
    at.tried(2.0, {"kind": "same batches", "batch": size.batches[0]}, lambda: same(at, size))


# ---------------------------------------------------------------------- the arrays
def _files(folder: Path) -> dict[str, Path]:
    return {m: folder / f"{m}.npy" for m in ("audio", "video")}


def write(folder: Path, size: Size) -> Row:
    """Make the arrays."""
    start, draw = time.monotonic(), np.random.default_rng(0)
    few = {
        "audio": draw.standard_normal((DISTINCT, *size.bins), np.float32).astype(np.float16),
        "video": draw.integers(0, 256, (DISTINCT, 3, size.side, size.side, 3), np.uint8),
    }
    total = 0
    for m, path in _files(folder).items():
        shape = (size.items, *few[m].shape[1:])
        whole = np.lib.format.open_memmap(path, "w+", few[m].dtype, shape)
        for at in range(0, size.items, DISTINCT):
            whole[at : at + DISTINCT] = few[m][: size.items - at]
        whole.flush()
        total += whole.nbytes
    return {
        "bytes_an_item": total // size.items,
        "gb": round(total / 1e9, 2),
        "seconds": round(time.monotonic() - start, 2),
    }


def opened(folder: Path, size: Size) -> DataModule:
    """The arrays as a data set, mapped anew."""
    rows = np.arange(size.items)
    arrays = {m: np.load(path, mmap_mode="r") for m, path in _files(folder).items()}
    kinds = {"audio": "spectrogram", "video": "video"}
    return DataModule(
        "crema_shape",
        {m: Mapped({"": a}, rows) for m, a in arrays.items()},
        torch.arange(size.items) % CLASSES,
        CLASSES,
        {"train": rows.tolist(), "slice": [], "holdout": [], "test": []},
        "made up",
        "made up",
        kinds=kinds,
        transforms={m: transform_for(kinds[m], {"": a.shape[1:]}) for m, a in arrays.items()},
    )


def forget(folder: Path) -> None:
    """Drop the files from the system's cache, which takes pages that nobody maps."""
    gc.collect()
    for path in _files(folder).values():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


# ---------------------------------------------------------------------- an epoch
def loader_of(at: At, size: Size, held: bool, batch: int) -> Any:
    data = opened(at.scratch, size)
    if held and not at.cuda:  # on a CPU the loader never holds them by itself
        data = dataclasses.replace(data, inputs={m: x.on(torch.device("cpu")) for m, x in data.inputs.items()})
    with mock.patch.object(datamodule, "RESIDENT_SHARE", datamodule.RESIDENT_SHARE if held else 0.0):
        return data.loader("train", batch_size=batch, device=at.device)


def epoch(at: At, size: Size, row: Row) -> Row:
    """Seconds of an epoch; of rows that are held, those of bringing them there apart."""
    tidy(at.device)
    if "cold" in row["rows"]:
        forget(at.scratch)
    start = time.perf_counter()
    loader = loader_of(at, size, row["rows"] == "held", row["batch"])
    wait(at.device)
    brought = time.perf_counter() - start
    if row["what"] == "reads":
        seconds, items = _timed(at, loader.batches(torch.Generator().manual_seed(0)))
    else:
        trained = run_of(at, size, loader)
        next(iter(_stepping(trained)))  # the first step makes handles and plans
        seconds, items = _timed(at, _stepping(trained))
    return {
        "seconds": round(seconds, 3),
        "items_a_second": round(items / seconds, 1),
        "seconds_before": round(brought, 2),
        "peak_gib": peak_gib(at.device),
    }


def _timed(at: At, batches: Iterator[Batch]) -> tuple[float, int]:
    start, items = time.perf_counter(), 0
    for batch in batches:
        items += len(batch)
    wait(at.device)
    return time.perf_counter() - start, items


def run_of(at: At, size: Size, loader: Any) -> Run:
    torch.manual_seed(0)
    specs = {"audio": InputSpec("spectrogram", size.bins), "video": InputSpec("video", (3, 3, size.side, size.side))}
    encoders = {m: ResNet18(s).configure(s, channels_last=True) for m, s in specs.items()}
    model = MultimodalModel(encoders, Concat({m: e.out_dim for m, e in encoders.items()}, CLASSES))
    training = Training(precision="bf16", fused=True, batch_size=64, epochs=9)
    return Run(model, Strategy(), train=loader, training=training, device=at.device)


def _stepping(run: Run) -> Iterator[Batch]:
    """The batches of an epoch, a step taken on each."""
    run.start_epoch()
    for batch in run.epoch_batches():
        run.step(batch)
        yield batch


def same(at: At, size: Size) -> Row:
    """Whether rows that are held make the batches of those that are streamed."""
    found = []
    for held in (True, False):
        loader = loader_of(at, size, held, size.batches[0])
        found.append([b.to("cpu") for b, _ in zip(loader.batches(torch.Generator().manual_seed(0)), range(3))])
    for a, b in zip(*found):
        if not all(torch.equal(a.inputs[m], b.inputs[m]) for m in a.inputs) or not torch.equal(a.target, b.target):
            raise ValueError("a batch of held rows differs from that of streamed ones")
    return {"equal": True}

"""Eight small runs on one GPU at the same time, and memory that runs out, both through `mmzoo bench`.

`packed` lets the processes share the GPU by measured memory; `one by one` trains the same eight seeds in one process. `room for
two` fills the GPU beforehand, so that about two of these runs fit: the others wait, and none fails. `out of memory` allows
the process less than the whole batches of a run take: the row says by how much the batches were cut. On a CPU the encoders
refuse large batches instead.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from typing import Any
from unittest import mock

import torch

from benchmarks.gpu_stages.machine import tidy
from benchmarks.gpu_stages.rows import At, Row
from mmzoo import MultimodalModel, bench
from mmzoo.benchmark.execution.packing import needed

RUNS = 8
#: settings of the run whose memory runs out: it is its batch that takes it
WIDE = {"mlp.hidden": [16384], "train.batch_size": 1024}
FEW = 100


def run(at: At) -> None:
    few = ["--seeds", "2" if at.small else str(RUNS), "--epochs", "1" if at.small else "40"]
    packed = at.tried(10.0, {"kind": "bench", "what": "packed"}, lambda: benched(at, "packed", few))
    at.tried(
        10.0,
        {"kind": "bench", "what": "one by one"},
        lambda: _beside(benched(at, "alone", [*few, "--workers", "1"]), packed),
    )
    if at.cuda:
        at.tried(15.0, {"kind": "bench", "what": "room for two"}, lambda: crowded(at, few))
    at.tried(5.0, {"kind": "out of memory"}, lambda: out_of_memory(at))


# ---------------------------------------------------------------------- packing
def benched(at: At, name: str, options: list[str]) -> Row:
    """A bench of one method on the bundled data in processes of its own, and what its rows say."""
    out, start = at.scratch / name, time.monotonic()
    command = [sys.executable, "-m", "mmzoo", "bench", "--method", "concat", "--datasets", "mfeat", "--no-references"]
    command += ["--device", at.device, "--out", str(out), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, at.left()))
    if done.returncode:
        raise RuntimeError(f"mmzoo bench ended with code {done.returncode}: {done.stderr.strip()[-200:]}")
    rows = [json.loads(path.read_text()) for path in sorted(out.glob("runs/*/result.json"))]
    return {
        "runs": len(rows),
        "statuses": ", ".join(f"{n} {status}" for status, n in Counter(r["status"] for r in rows).items()),
        "seconds": round(time.monotonic() - start, 1),
        "seconds_of_runs": round(sum(r["timing"]["seconds_total"] for r in rows), 1),
        "acc": round(sum(r["metrics"]["acc"] for r in rows) / len(rows), 4),
        "peak_mib": max((r["environment"].get("peak_memory", 0) for r in rows), default=0) >> 20,
        "ran_out": sum("beside other runs" in p.read_text() for p in out.glob("runs/*/log.txt")),
    }


def _beside(row: Row, packed: Row) -> Row:
    return {**row, "to_packed": round(row["seconds"] / packed["seconds"], 2)} if "seconds" in packed else row


def crowded(at: At, options: list[str]) -> Row:
    """The same runs beside a tensor that leaves room for two and a half of them."""
    peak = max(
        json.loads(p.read_text())["environment"]["peak_memory"]
        for p in (at.scratch / "packed").glob("runs/*/result.json")
    )
    free, _ = torch.cuda.mem_get_info(at.device)
    ballast = torch.empty(max(0, free - int(2.5 * needed(peak))), dtype=torch.uint8, device=at.device)
    try:
        return {**benched(at, "crowded", options), "room_mib": int(2.5 * needed(peak)) >> 20}
    finally:
        del ballast
        tidy(at.device)


# ---------------------------------------------------------------------- memory
def out_of_memory(at: At) -> Row:
    """A run with less memory than its whole batches take ends, in smaller ones, and the next run starts with those."""
    given: dict[str, Any] = {
        "settings": WIDE if at.cuda else {"train.batch_size": 1024},
        "epochs": 1,
        "references": False,
        "device": at.device,
    }
    whole, part = ({}, {}) if not at.cuda else (_peak(at, "whole", given, None), _peak(at, "part", given, FEW))
    with _less(at, (whole.get("peak", 0) + part.get("peak", 0)) // 2):
        rows = bench("concat", seeds=2, out=at.scratch / "memory", **given)
    for row in rows:
        if row["status"] != "ok" or not (row["micro_batch"] or 0) < WIDE["train.batch_size"] or not row["micro_batch"]:
            raise RuntimeError(f"status {row['status']}, micro_batch {row['micro_batch']}: {row.get('reason')}")
    return {
        "whole_mib": whole.get("peak", 0) >> 20 or None,
        "micro_batch": ", ".join(str(r["micro_batch"]) for r in rows),
        "acc": round(rows[0]["metrics"]["acc"], 4),
        "warned": rows[0]["warnings"] != {},
    }


def _peak(at: At, name: str, given: dict[str, Any], micro: int | None) -> dict[str, int]:
    """The bytes that a run takes which nothing limits."""
    settings = given["settings"] | ({} if micro is None else {"train.micro_batch": micro})
    (row,) = bench("concat", seeds=1, out=at.scratch / name, **{**given, "settings": settings})
    tidy(at.device)
    return {"peak": int(row["environment"]["peak_memory"])}


class _less:
    """In a block, this process may take so many bytes of the GPU; on a CPU, encoders take so many samples of training at once."""

    def __init__(self, at: At, size: int) -> None:
        self._at, self._size = at, size

    def __enter__(self) -> None:
        if self._at.cuda:
            tidy(self._at.device)
            total = torch.cuda.get_device_properties(self._at.device).total_memory
            torch.cuda.set_per_process_memory_fraction(self._size / total, self._at.device)
            return
        real: Any = MultimodalModel.encode

        def encode(model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
            if model.training and max(len(x) for x in inputs.values()) > 300:
                raise torch.OutOfMemoryError("simulated: more than 300 samples at once")
            return real(model, inputs, *arguments, **options)

        self._patch = mock.patch.object(MultimodalModel, "encode", encode)
        self._patch.start()

    def __exit__(self, *error: Any) -> None:
        if self._at.cuda:
            torch.cuda.set_per_process_memory_fraction(1.0, self._at.device)
        else:
            self._patch.stop()

"""The device that a stage measures: its name, its clock, its memory, and what makes the host wait for it."""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import os
import platform
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

#: what torch says where an operation waits for the device, with `set_sync_debug_mode("warn")`
WAITED = "called a synchronizing"
#: kinds of the profiler's events that occupy the device
ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
#: calls of CUDA that wait for it
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
MARK = "mmzoo: steps"


def hardware(device: str) -> str:
    """The device with the versions that numbers depend on; no name of a host."""
    versions = f"torch {torch.__version__}, python {platform.python_version()}"
    if not device.startswith("cuda"):
        return f"{platform.machine()} CPU, {torch.get_num_threads()} of {os.cpu_count()} cores, {versions}"
    facts = torch.cuda.get_device_properties(device)
    return (
        f"{facts.name} ({facts.total_memory / 2**30:.0f} GiB), driver {_driver()}, CUDA {torch.version.cuda}, "
        f"cuDNN {torch.backends.cudnn.version()}, {os.cpu_count()} cores, {versions}"
    )


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "unknown"
    asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=20)
    return (done.stdout.split() or ["unknown"])[0]


def wait(device: str) -> None:
    """Until the device has done all that it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def tidy(device: str) -> None:
    """Give memory back, and let the peak be that of what follows."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: str) -> float:
    """The most memory that tensors took since `tidy`; on a CPU the most of the process since its start."""
    if device.startswith("cuda"):
        return round(torch.cuda.max_memory_allocated(device) / 2**30, 3)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)


def seconds_of(step: Callable[[], Any], device: str, steps: int, rounds: int = 3) -> float:
    """Seconds of a step: the median over rounds of so many, the device waited for at the end of each."""
    taken = []
    for _ in range(rounds):
        wait(device)
        start = time.perf_counter()
        for _ in range(steps):
            step()
        wait(device)
        taken.append((time.perf_counter() - start) / steps)
    return statistics.median(taken)


@contextlib.contextmanager
def workers(n: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of single-threaded processes. The end of the block cancels waiting tasks and kills the processes."""
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(n, mp_context=spawn, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list((getattr(pool, "_processes", None) or {}).values()):
            process.kill()


# ---------------------------------------------------------------------- what the host waits for
@contextlib.contextmanager
def waits(device: str) -> Iterator[list[str]]:
    """The places in a block at which the host waits for a GPU, `file.py:line`, one entry each time."""
    found: list[str] = []
    if not device.startswith("cuda"):
        yield found
        return
    torch.cuda.synchronize(device)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found += [f"{Path(w.filename).name}:{w.lineno}" for w in noted if WAITED in str(w.message)]


def listed(places: Sequence[str]) -> str:
    """Each place once, with how often."""
    return ", ".join(f"{place} x{places.count(place)}" for place in dict.fromkeys(places))


# ---------------------------------------------------------------------- the profiler
def profiled(step: Callable[[], Any], device: str, steps: int) -> dict[str, float]:
    """Of some steps on a GPU, each: milliseconds in which it is at work (`device_ms`), kernels, and how often and how long
    the host waits for it. On a CPU nothing."""
    if not device.startswith("cuda"):
        return {}
    from torch.profiler import ProfilerActivity, profile, record_function

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as made:
        with record_function(MARK):
            for _ in range(steps):
                step()
        torch.cuda.synchronize(device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        made.export_chrome_trace(str(path))
        return summed(json.loads(path.read_text())["traceEvents"], steps)


def summed(events: Sequence[dict[str, Any]], steps: int) -> dict[str, float]:
    """The same of the events of a trace, whose times are microseconds."""
    timed = [e for e in events if e.get("ph") == "X" and "ts" in e]
    marks = [e for e in timed if e["name"] == MARK and e.get("cat") == "user_annotation"]
    begin, end = (marks[0]["ts"], marks[0]["ts"] + marks[0]["dur"]) if marks else (float("-inf"), float("inf"))
    at_work = [e for e in timed if e.get("cat") in ON_DEVICE]
    waited = [e for e in timed if e.get("cat") == "cuda_runtime" and e["name"] in WAITS and begin <= e["ts"] <= end]
    return {
        "device_ms": round(union([(e["ts"], e["ts"] + e["dur"]) for e in at_work]) / steps / 1e3, 4),
        "kernels": round(sum(e["cat"] == "kernel" for e in at_work) / steps, 1),
        "profiler_waits": round(len(waited) / steps, 2),
        "profiler_waits_ms": round(sum(e["dur"] for e in waited) / steps / 1e3, 4),
    }


def union(spans: Sequence[tuple[float, float]]) -> float:
    """The time that any of some spans covers."""
    covered, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered

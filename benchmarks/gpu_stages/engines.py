"""Seconds of a step: two ResNet18 at batch 64 and 256, ResNet50 with BERT-base at batch 128, under every engine and method.

Plain training (`concat`) under each engine; the hand-written loop plain, compiled and as one CUDA graph; the main methods
under the compiled engine and with graphed encoders. `to_loop` is the throughput relative to that of the compiled loop of the same
workload: at 1 as fast. `busy` is the time in which the device is at work (profiler) over the time of a step (without it).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.gpu_stages.machine import listed, peak_gib, profiled, seconds_of, tidy, wait, waits, workers
from benchmarks.gpu_stages.rows import At, Row, told
from benchmarks.gpu_stages.workloads import (
    Engine,
    Workload,
    graphed_loop,
    loop_of,
    run_of,
    tf32_of,
    workloads,
)
from mmzoo import Batch, Run

_ALL = {"precision": "bf16", "fused": True}
ENGINES = (
    Engine("fp32"),
    Engine("tf32", {"tf32": True}),
    Engine("bf16", {"precision": "bf16", "tf32": True}),
    Engine("bf16, channels_last", {"precision": "bf16", "tf32": True}, channels_last=True),
    Engine("bf16, channels_last, fused", {**_ALL, "tf32": True}, channels_last=True),
    Engine("tf32, compiled", {"tf32": True, "compile": True}),
)
BEST = Engine("bf16, channels_last, fused, compiled", {**_ALL, "tf32": True, "compile": True}, channels_last=True)
GRAPHS = Engine("bf16, channels_last, fused, encoders graphed", {**_ALL, "tf32": True}, channels_last=True, graphs=True)
METHODS = ("concat", "ogm", "ogm_ge", "pmr", "agm", "mla", "dynamic_gap", "dynamic_gap_lb")
SMALL = ("concat", "ogm")
LOOP = "loop by hand"
#: how far updates of a run with graphed encoders may be from those of one without, relative to their size
SAME_UPDATE = 0.1
#: about the seconds of a row that compiles, and of one that does not
COMPILING, PLAIN = 30.0, 10.0
NO_GRAPHS = "CUDA graphs want a GPU"


def run(at: At) -> None:
    works = workloads(at.small)
    if at.cuda:
        compile_ahead(at, works)
    base = {work.name: loops(at, work) for work in works}
    for i, work in enumerate(works):
        for method in SMALL if at.small else METHODS if i == 0 else METHODS[:2]:
            step_row(at, work, BEST, method, base[work.name])
    for work in works:
        for engine in ENGINES:
            step_row(at, work, engine, "concat", base[work.name])
    for name in METHODS if at.cuda else METHODS[:1]:
        graphs_row(at, works[0], name, base[works[0].name])
    capture_row(at, works[0])


def _here(engine: Engine, at: At) -> Engine:
    """The part of an engine that the device supports. A CPU leaves out torch.compile, whose code generator takes minutes there."""
    if at.cuda:
        return engine
    options = {k: v for k, v in engine.options.items() if k not in ("tf32", "compile")}
    return replace(engine, options=options)


# ---------------------------------------------------------------------- compiling
def compile_ahead(at: At, works: list[Workload]) -> None:
    """Compile every graph once in processes of their own, at the same time: torch keeps what comes of it in files."""
    jobs = [(i, hand) for i in range(len(works)) for hand in (True, False)]
    with workers(len(jobs)) as pool:
        todo = [(i, hand, pool.submit(compile_one, i, hand, at.device)) for i, hand in jobs]
        for i, hand, done in todo:
            row: Row = {"kind": "compiled ahead", "workload": works[i].name, "method": LOOP if hand else "concat"}
            at.tried(0.0, row, lambda d=done: {"seconds": round(d.result(max(1.0, at.left() - 60)), 1)})  # type: ignore[misc]


def compile_one(number: int, hand: bool, device: str) -> float:
    """Seconds until two steps are done, in a process of its own."""
    work = workloads(small=False)[number]
    start = time.monotonic()
    with tf32_of(BEST, device):
        step = loop_of(work, BEST, device) if hand else run_of(work, BEST, "concat", device).step
        for batch in work.batches(device):
            step(batch)
        wait(device)
    return time.monotonic() - start


# ---------------------------------------------------------------------- rows
def loops(at: At, work: Workload) -> float | None:
    """Rows of the loops by hand. Returns the seconds of a compiled step; None where there is none."""
    row: Row = {"kind": "step", "workload": work.name, "method": LOOP}

    def plain(engine: Engine) -> Row:
        tidy(at.device)
        step = loop_of(work, engine, at.device)
        with tf32_of(engine, at.device):
            return stepped(step, work.batches(at.device), at)

    def graphed() -> Row:
        tidy(at.device)
        engine = ENGINES[-2]
        (batch,) = work.batches(at.device, 1)
        with tf32_of(engine, at.device):
            replay = graphed_loop(loop_of(work, engine, at.device), batch)
            return stepped(lambda _: replay(), [batch], at)

    best = at.tried(COMPILING, {**row, "engine": BEST.name}, partial(plain, _here(BEST, at)))
    seconds = best.get("seconds")
    for engine in (ENGINES[0], ENGINES[-2]):
        row["engine"] = engine.name
        at.tried(PLAIN, row, lambda e=engine: _to(seconds, plain(_here(e, at))))  # type: ignore[misc]
    row["engine"] = f"{ENGINES[-2].name}, whole step graphed"
    if at.cuda:
        at.tried(PLAIN, row, lambda: _to(seconds, graphed()))
    else:
        at.add({**row, "status": "not here", "why": NO_GRAPHS})
    return seconds


def step_row(at: At, work: Workload, engine: Engine, method: str, base: float | None) -> None:
    """A row of a method through `Run.step`."""

    def measure() -> Row:
        tidy(at.device)
        here = _here(engine, at)
        with tf32_of(here, at.device):
            run = run_of(work, here, method, at.device)
            return _to(base, stepped(run.step, work.batches(at.device), at))

    compiled = bool(engine.options.get("compile"))
    row = {"kind": "step", "workload": work.name, "method": method, "engine": engine.name}
    at.tried(COMPILING if compiled else PLAIN, row, measure)


def graphs_row(at: At, work: Workload, method: str, base: float | None) -> None:
    """A row of a method whose encoders are CUDA graphs, where that leaves its updates what they are."""
    row = {"kind": "step", "workload": work.name, "method": method, "engine": GRAPHS.name}
    if not at.cuda:
        at.add({**row, "status": "not here", "why": NO_GRAPHS})
        return

    def measure() -> Row:
        tidy(at.device)
        batches = work.batches(at.device)
        with tf32_of(GRAPHS, at.device):
            moved = [update(run_of(work, engine, method, at.device), batches) for engine in (ENGINES[-2], GRAPHS)]
            apart = float((moved[0] - moved[1]).norm() / moved[0].norm())
            if not apart < SAME_UPDATE:
                raise ValueError(f"not for this method: its update differs by {apart:.2g} of its size")
            tidy(at.device)
            run = run_of(work, GRAPHS, method, at.device)
            return {"update_apart": round(apart, 4), **_to(base, stepped(run.step, batches, at))}

    at.tried(PLAIN, row, measure)


def update(run: Run, batches: list[Batch]) -> torch.Tensor:
    """(P,) what three steps change of the parameters."""
    before = torch.cat([p.detach().flatten() for p in run.model.parameters()])
    for i in range(3):
        run.step(batches[i % len(batches)])
    return torch.cat([p.detach().flatten() for p in run.model.parameters()]) - before


def capture_row(at: At, work: Workload) -> None:
    """Whether a whole `Run.step` can be captured, tried in a process of its own, which a failure may leave unusable."""
    row = {"kind": "capture", "workload": work.name, "method": "concat", "engine": "a whole Run.step as one CUDA graph"}
    if not at.cuda:
        at.add({**row, "status": "not here", "why": NO_GRAPHS})
        return
    with workers(1) as pool:
        at.tried(PLAIN, row, lambda: {"why": pool.submit(capture, at.device).result(max(1.0, at.left()))})


def capture(device: str) -> str:
    work = workloads(small=False)[0]
    run = run_of(work, ENGINES[-2], "concat", device)
    (batch,) = work.batches(device, 1)
    try:
        graphed_loop(run.step, batch)
    except Exception as error:
        return f"cannot: {told(error)}"
    return "can"


def _to(base: float | None, row: Row) -> Row:
    """The row with its throughput relative to the compiled loop."""
    return row if base is None else {**row, "to_loop": round(base / row["seconds"], 3)}


def stepped(step: Callable[[Batch], Any], batches: list[Batch], at: At) -> Row:
    """Seconds of a step, samples a second, busy share, peak memory, and what the host waits for in a step."""
    count = itertools.count()

    def one() -> None:
        step(batches[next(count) % len(batches)])

    start = time.monotonic()
    one()
    wait(at.device)
    first = time.monotonic() - start
    for _ in range(0 if at.small else 4):
        one()
    about = seconds_of(one, at.device, 1, 1)
    steps = 1 if at.small else max(3, min(50, round(0.7 / about)))
    seconds = seconds_of(one, at.device, steps)
    with waits(at.device) as places:
        one(), one()
    seen = profiled(one, at.device, 3)
    row: Row = {
        "seconds": round(seconds, 6),
        "samples_a_second": round(len(batches[0]) / seconds, 1),
        "first_step": round(first, 1),
        "peak_gib": peak_gib(at.device),
    }
    if at.cuda:
        row |= {"busy": round(seen["device_ms"] / 1e3 / seconds, 3), "waits": len(places) / 2, **seen}
        row["where"] = listed(places) or None
    return row

"""Every registered method on the device: that it trains as on the CPU, what its steps wait for, and the contract checks.

Of each method first the epochs of `check_other_device`, in float64, on both devices; then the waits of its steps in their
second epoch, with every sample complete, by torch's own warnings and by the profiler. Then the contract checks of `mmzoo check`
with models and batches on the device, the main methods first, as far as the time of the stage goes. On a CPU the mock device
of `mmzoo.testing.harness.fake_device` stands in: it notes what reads values of it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from concurrent.futures import as_completed
from typing import Any

import torch

from benchmarks.gpu_stages.machine import listed, profiled, waits, workers
from benchmarks.gpu_stages.rows import At, Row, told
from mmzoo import Run
from mmzoo.errors import Incompatible
from mmzoo.registry.plugins import catalogue
from mmzoo.testing.checks.device import trained
from mmzoo.testing.checks.processes import shared_task
from mmzoo.testing.harness import fake_device
from mmzoo.testing.harness.cases import StrategyCase
from mmzoo.testing.harness.observing import difference
from mmzoo.testing.harness.report import CHECKS, run_check
from mmzoo.testing.harness.tasks import placed
from mmzoo.testing.targets import find
from mmzoo.training.config import Training

MAIN = ("concat", "ogm", "ogm_ge", "pmr", "agm", "mla", "gblend", "dynamic_gap", "dynamic_gap_lb")
SMALL = ("concat", "ogm", "dynamic_gap_lb")
#: float64 on two devices: sums in another order, over two epochs
APART = 1e-7
#: have processes of their own, on the CPU
HOST = ("check_processes", "check_other_device")
#: reads tensors back from a file, which the mock device has on the CPU
SAVED = ("check_state",)
WORKERS = 12


def run(at: At) -> None:
    names = [e.name for e in catalogue().entries("methods")]
    names = [*MAIN, *(n for n in names if n not in MAIN)]
    if not at.cuda:  # a process that had the mock device keeps it: this one has no other work
        for name in SMALL if at.small else names:
            at.add(method_row(name, at.device) if at.left() > 3 else _left("method", name))
        for name in SMALL[1:2] if at.small else names:
            at.tried(5.0, {"kind": "checks", "method": name}, lambda n=name: checks_row(n, at.device))
        return
    with workers(min(WORKERS, os.cpu_count() or 1)) as pool:
        todo = {pool.submit(method_row, n, at.device): ("method", n) for n in names}
        todo |= {pool.submit(checks_row, n, at.device): ("checks", n) for n in names}
        with contextlib.suppress(TimeoutError):
            for done in as_completed(list(todo), timeout=max(1.0, at.left())):
                at.add(_of(done, *todo.pop(done)))
        for kind, name in todo.values():
            at.add(_left(kind, name))


def _left(kind: str, name: str) -> Row:
    return {"kind": kind, "method": name, "status": "not reached", "why": "the time of the stage was over"}


def _of(done: Any, kind: str, name: str) -> Row:
    try:
        return dict(done.result())
    except Exception as error:  # the process died
        return {"kind": kind, "method": name, "status": "failed", "why": told(error)}


def case_of(name: str) -> StrategyCase:
    (target,) = find(catalogue(), f"methods/{name}")
    case: StrategyCase = target.case()
    case.draws = 2
    return case


@contextlib.contextmanager
def _on(device: str) -> Iterator[torch.device]:
    """The device of that name; for the CPU the mock device."""
    if device.startswith("cuda"):
        yield torch.device(device)
    else:
        with fake_device.device() as there:
            yield there


# ---------------------------------------------------------------------- as on the CPU
def method_row(name: str, device: str) -> Row:
    """Whether a method trains as on the CPU, and the waits of its steps."""
    row: Row = {"kind": "method", "method": name}
    try:
        case = case_of(name)
        with _on(device) as there:
            gap = _gap(case, there)
            row |= {"status": "failed" if gap else "ok", "why": gap or None, **_waits(case, there, device)}
    except Incompatible as refused:
        return {**row, "status": "refused", "why": str(refused)}
    except (fake_device.TwoDevices, Exception) as error:
        return {**row, "status": "failed", "why": told(error)}
    return row


def _gap(case: StrategyCase, there: torch.device) -> str:
    """How the weights after an epoch or two differ from those of the CPU; empty where they do not."""
    for incomplete in (False, True):
        away = fake_device.values({k: t.cpu() for k, t in trained(case, incomplete, there).items()})
        if gap := difference(trained(case, incomplete, "cpu"), away, APART):
            return gap + (", with missing modalities" if incomplete else "")
    return ""


def _waits(case: StrategyCase, there: torch.device, device: str) -> Row:
    """What the steps of the second epoch wait for, or read of the mock device."""
    task = shared_task(case, False)
    run = Run(
        case.model(task, norm=True),
        case.new(),
        train=task.loader("train"),
        slice=task.loader("slice") if "slice" in case.first.requires else None,
        device=there,
        training=Training(optimizer="adamw", clip=1.0, batch_size=task.batch_size, epochs=4),
    )
    run.train_epoch()
    run.end_epoch()
    run.start_epoch()
    batches = [b.to(there) for b in run.epoch_batches()]
    with fake_device.reads() as reads, waits(device) as places:
        for batch in batches:
            run.step(batch)
    found = [*places, *reads]
    row: Row = {"steps": len(batches), "waits": len(found), "where": listed(found) or None}
    if device.startswith("cuda"):
        seen = profiled(lambda: run.step(batches[0]), device, 3)
        row |= {k: seen[k] for k in ("profiler_waits", "profiler_waits_ms", "kernels")}
    return row


# ---------------------------------------------------------------------- the checks
def checks_row(name: str, device: str) -> Row:
    """How many of the contract checks hold on the device, and the first line of what those that do not have seen."""
    row: Row = {"kind": "checks", "method": name}
    left_out = HOST if device.startswith("cuda") else (*HOST, *SAVED)
    counts: dict[str, int] = dict.fromkeys(("passed", "skipped", "expected"), 0)
    failed = []
    try:
        case = case_of(name)
        expected = getattr(case.first, "expected_failures", {})
        with _on(device) as there, placed(there):
            for check, call in CHECKS["strategy"].items():
                if check in left_out:
                    continue
                result = run_check(check, call, case, expected.get(check))
                counts[result.status] = counts.get(result.status, 0) + 1
                if result.status == "failed":
                    seen = next((x for x in result.reason.splitlines() if x.startswith("seen:")), result.reason)
                    failed.append(f"{check.removeprefix('check_')}: {seen[:160]}")
    except Incompatible as refused:
        return {**row, "status": "refused", "why": str(refused)}
    except (fake_device.TwoDevices, Exception) as error:
        return {**row, "status": "failed", "why": told(error)}
    return {**row, "status": "failed" if failed else "ok", **counts, "why": "; ".join(failed) or None}

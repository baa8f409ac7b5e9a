"""The loop of a worker: claim a run, do it, take the next. All launchers run it, in as many processes as they like.

No torch at import.
"""

from __future__ import annotations

import math
import os
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mmzoo.benchmark.execution.packing import Card, CudaGauge, Unshared
from mmzoo.benchmark.planning.planned import Planned, planned_runs
from mmzoo.benchmark.results.leases import Claimed
from mmzoo.benchmark.results.store import Store
from mmzoo.errors import MmzooError
from mmzoo.registry import Catalogue

#: seconds between two looks at runs that others are at: at first, and at most
PAUSE = (0.05, 2.0)


@dataclass(frozen=True)
class Order:
    """What one bench wants done. before: the rows of these runs that were there before it (failed, or without the
    weights that are wanted), as `Store.stamp` has them: such a run is tried again, once. small_only: on a CPU, leave models
    that train on all cores to another worker. packed: on a GPU, start runs beside those of others by measured memory."""

    runs: tuple[Planned, ...]
    device: str = "auto"
    checkpoint_every: float = 30.0
    bench: str = field(default_factory=lambda: secrets.token_hex(8))
    before: dict[str, int] = field(default_factory=dict)
    small_only: bool = False
    packed: bool = False

    @classmethod
    def of(cls, runs: Sequence[Planned], store: Store, *, device: str, checkpoint_every: float) -> Order:
        """A new order, noted in the folders of its runs."""
        every = {t.spec.run_id: t for p in runs for t in p.teachers} | {p.spec.run_id: p for p in runs}
        for run_id, planned in every.items():
            store.note_planned(run_id, planned.as_dict())
        stamps = {run_id: stamp for run_id in every if (stamp := store.stamp(run_id)) is not None}
        return cls(tuple(runs), device, checkpoint_every, before=stamps)

    def as_dict(self) -> dict[str, Any]:
        return {
            "runs": [p.spec.run_id for p in self.runs],
            "device": self.device,
            "bench": self.bench,
            "checkpoint_every": self.checkpoint_every,
            "before": self.before,
            "small_only": self.small_only,
            "packed": self.packed,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any], store: Store) -> Order:
        return cls(**{**values, "runs": planned_runs(store, values["runs"])})

    def settled(self, planned: Planned, store: Store) -> dict[str, Any] | None:
        """The row that this bench is content with: a final one, or one that failed since it began."""
        run_id = planned.spec.run_id
        stamp = store.stamp(run_id)
        if stamp is None:
            return None
        row = store.finished(run_id, weights=planned.keep, peers=planned.peers)
        if row is None and stamp != self.before.get(run_id):
            row = store.row(run_id)
        return row


@dataclass
class Progress:
    """What is told of the work while it goes on; here nothing. unsaved: run -> why its row could not be kept."""

    unsaved: dict[str, str] = field(default_factory=dict)

    def epoch(self, planned: Planned, done: int) -> None:
        """A run is at work, and so many of its epochs are done."""

    def settled(self, planned: Planned, row: dict[str, Any]) -> None:
        """A run has its row."""


def work(order: Order, store: Store, catalogue: Catalogue, progress: Progress | None = None) -> dict[str, str]:
    """Do the runs of an order that nobody else does, until all have their rows.

    Returns, by run, why its row could not be kept. Raises MmzooError when the store cannot be written to any more.
    """
    from mmzoo.benchmark.execution import runner
    from mmzoo.benchmark.execution.building import is_small
    from mmzoo.benchmark.execution.device import check_device

    progress = Progress() if progress is None else progress
    device = check_device(order.device)
    on_gpu = device.startswith("cuda")
    card = Card(store, CudaGauge(device)) if order.packed and on_gpu else Unshared()
    small_only = order.small_only and not on_gpu
    shared: dict[str, Any] = {
        "device": device,
        "checkpoint_every": order.checkpoint_every,
        "bench": order.bench,
    }
    waiting = {p.spec.run_id: p for p in order.runs}
    others: set[str] = set()
    pause = PAUSE[0]
    while waiting.keys() - others:
        before = len(waiting)
        store.check_there()
        for run_id, planned in list(waiting.items()):
            if row := order.settled(planned, store):
                del waiting[run_id]
                progress.settled(planned, row)
                continue
            if any(t.spec.run_id in waiting for t in planned.teachers):
                continue
            if small_only and (run_id in others or not is_small(planned, catalogue)):
                others.add(run_id)
                continue
            try:
                with (card if planned.spec.floor is None else Unshared()).seat(planned):  # a floor needs no card
                    told = partial(_epoch, progress, card, planned)
                    row = runner.run_one(planned, catalogue, store, on_epoch=told, crowded=card.crowded, **shared)
                progress.settled(planned, row)
            except Claimed:
                continue
            except MmzooError as error:
                progress.unsaved[run_id] = str(error)
                store.prepare()
            del waiting[run_id]
        pause = PAUSE[0] if len(waiting) < before else min(2 * pause, PAUSE[1])
        if len(waiting) == before:
            time.sleep(pause)
    return progress.unsaved


def _epoch(progress: Progress, card: Unshared, planned: Planned, done: int, of: int) -> None:
    card.epoch_done()
    progress.epoch(planned, done)


def work_on(root: str, values: dict[str, Any]) -> dict[str, str]:
    """`work` on an order as plain data, for a process somewhere else."""
    from mmzoo.registry.plugins import catalogue

    store = Store(Path(root))
    store.anchor()
    return work(Order.from_dict(values, store), store, catalogue())


def watch(
    order: Order,
    store: Store,
    progress: Progress,
    at_work: Callable[[], bool],
    look: Callable[[], None] = lambda: None,
    *,
    linger: float = math.inf,
) -> None:
    """Tell of the work of others, as the store shows it, until they have ended. look: what to do between two looks. linger:
    seconds that they have for it once every row is there."""
    waiting = {p.spec.run_id: p for p in order.runs}
    all_there: float | None = None
    while True:
        over, began = not at_work(), time.monotonic()
        for run_id, planned in list(waiting.items()):
            if row := order.settled(planned, store):
                del waiting[run_id]
                progress.settled(planned, row)
        for planned, epoch in store_epochs(waiting.values(), store):
            progress.epoch(planned, epoch)
        if not waiting and all_there is None:
            all_there = time.monotonic()
        if over or (all_there is not None and time.monotonic() - all_there > linger):
            return
        look()
        # A look at thousands of runs on a slow disk must not become the work itself.
        time.sleep(min(max(0.1, 20 * (time.monotonic() - began)), 5.0))


def store_epochs(runs: Iterable[Planned], store: Store) -> list[tuple[Planned, int]]:
    """The runs that somebody is at, and how far."""
    from mmzoo.benchmark.results.leases import read_claim

    found = ((p, read_claim(store.folder(p.spec.run_id))) for p in runs)
    return [(p, held.epoch) for p, held in found if held is not None and held.alive]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

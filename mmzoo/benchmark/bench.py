"""The one way to run a benchmark: `run_bench`, under both the command and `mmzoo.bench`. No torch at import."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mmzoo.benchmark.planning.data_defaults import make_missing, to_make
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.benchmark.planning.planned import Plan, Planned, to_do
from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.scheduling.launchers import check, launch
from mmzoo.benchmark.scheduling.launchers.local import gpu_likely
from mmzoo.benchmark.scheduling.worker_loop import Order, Progress
from mmzoo.benchmark.tune import check_tuning, tuned_plan
from mmzoo.config.spec import BenchSpec
from mmzoo.errors import BadValue
from mmzoo.registry import ENCODER_OPTIONS
from mmzoo.registry.plugins import catalogue
from mmzoo.trackers.base import check_trackers

if TYPE_CHECKING:
    from mmzoo.data.preparing.prepare import Prepared
    from mmzoo.data.preparing.prepare import Progress as Preparing


@dataclass(frozen=True)
class Execution:
    """How a benchmark is carried out. Nothing here changes a number.

    Args:
        device: "auto", "cpu", "cuda", "cuda:1" ...
        launcher: One of `mmzoo.benchmark.scheduling.launchers.LAUNCHERS`.
        options: Options of the launcher.
        workers: Number of runs at a time; None for as many as the launcher finds right.
        checkpoint_every: Seconds between two checkpoints of a run.
        apart: Whether third-party code runs in processes of its own.
        command: The command that asked for the benchmark, for the report.
    """

    device: str = "auto"
    launcher: str = "local"
    options: Mapping[str, Any] = field(default_factory=dict)
    workers: int | None = 1
    checkpoint_every: float = 30.0
    apart: bool = False
    command: str = ""

    def check(self) -> None:
        """Raise BadValue or UnknownName for what cannot work here. Imports torch only where a GPU is named."""
        if not 0 <= self.checkpoint_every < math.inf:
            raise BadValue(f"--checkpoint-every must be a number of seconds from 0, not {self.checkpoint_every}.")
        if self.workers is not None and self.workers < 1:
            raise BadValue(f"workers must be a whole number from 1, not {self.workers}.")
        check(self.launcher, self.options)
        if self.launcher == "local" and self.device not in ("auto", "cpu"):
            from mmzoo.benchmark.execution.device import check_device

            check_device(self.device)

    @property
    def planned_device(self) -> str:
        """Where runs are trained, as far as is known without torch; "auto" where it is not."""
        return "cpu" if self.device == "auto" and self.launcher == "local" and not gpu_likely() else self.device


class Events:
    """What a listener learns of a benchmark, in this order. This one ignores all of it; override what you need."""

    def preparing(self) -> AbstractContextManager[Preparing]:
        """A data set is about to be prepared. Returns a context that gives the listener of its steps."""
        from mmzoo.data.preparing.prepare import Progress as Preparing

        return contextlib.nullcontext(Preparing())

    def prepared(self, made: Prepared) -> None:
        """A data set was prepared that was not there before."""

    def tuning(self, plan: Plan, trials: int) -> None:
        """Each configuration of the plan is about to be tuned."""

    def trial(self, planned: Planned, number: int, trial: Mapping[str, Any]) -> None:
        """A trial of tuning has ended; number counts from 0."""

    def planned(self, plan: Plan, missing: Sequence[Planned], store: Store) -> None:
        """The plan is final, and nothing is trained yet. An exception raised here stops the benchmark.

        Args:
            plan: All runs.
            missing: Those of them that are not in the store.
            store: The results folder.
        """

    def progress(self, runs: Sequence[Planned]) -> AbstractContextManager[Progress]:
        """Runs are about to be trained. Returns a context that gives the listener of their epochs and rows."""
        return contextlib.nullcontext(Progress())

    def stressing(self, row: Mapping[str, Any], number: int, of: int) -> None:
        """A trained model is about to be scored under stress; number counts from 0."""


@dataclass(frozen=True)
class Finished:
    """A benchmark that has ended.

    Args:
        plan: Its runs, and what it could not run.
        failed: run id -> reason, of the runs that failed in this benchmark, or could not be scored under stress.
        unsaved: run id -> reason, of the runs whose row could not be written.
    """

    plan: Plan
    failed: Mapping[str, str] = field(default_factory=dict)
    unsaved: Mapping[str, str] = field(default_factory=dict)


def run_bench(
    spec: BenchSpec, store: Store, events: Events | None = None, execution: Execution | None = None
) -> Finished:
    """Plan a benchmark, prepare its data, tune it where asked, and train the runs that the store lacks.

    Args:
        spec: The benchmark.
        store: The results folder. Runs that are in it are not trained again.
        events: A listener.
        execution: How it is carried out; the default is this process.

    Returns:
        The plan and the runs that failed. A run that fails does not stop the others.

    Raises:
        MmzooError: The benchmark is faulty, or nothing can be written any more.
    """
    events, execution = events or Events(), execution or Execution()
    execution.check()
    plan = prepared_plan(spec, store, execution, events)
    if spec.tune is not None:
        plan = tune(plan, store, spec.tune, execution.device, events)
    missing = to_do(plan, store)
    check_encoders(missing, plan, all_of_them=True)
    events.planned(plan, missing, store)
    store.note_bench(plan.asked(), command=execution.command)
    failed, unsaved = _train(missing, store, execution, events) if missing else ({}, {})
    return Finished(plan, {**failed, **_stress(plan, store, execution, events)}, unsaved)


def _train(
    missing: Sequence[Planned], store: Store, execution: Execution, events: Events
) -> tuple[dict[str, str], Mapping[str, str]]:
    """Train runs. Returns run id -> reason for those that failed, and for those whose row could not be written."""
    order = Order.of(missing, store, device=execution.device, checkpoint_every=execution.checkpoint_every)
    with events.progress(missing) as progress:
        launch(
            order,
            store,
            progress,
            launcher=execution.launcher,
            workers=execution.workers,
            options=execution.options,
            apart=execution.apart,
        )
    rows = [store.row(p.spec.run_id) for p in missing]
    failed = {row["run_id"]: row["reason"] for row in rows if row is not None and row["status"] == "failed"}
    return failed, progress.unsaved


def _stress(plan: Plan, store: Store, execution: Execution, events: Events) -> dict[str, str]:
    """Score the trained models under the stress that was asked for. Returns run id -> reason for those that could not be."""
    if not plan.bench.stress:
        return {}
    from mmzoo.benchmark.stress import stress_runs

    rows = [row for p in plan.runs if (row := store.row(p.spec.run_id)) is not None]
    return stress_runs(rows, store, plan.bench.stress, device=execution.device, on_run=events.stressing)


def prepared_plan(spec: BenchSpec, store: Store, execution: Execution, events: Events) -> Plan:
    """The plan of a benchmark, after the store was made writable and missing data was prepared.

    Only data that needs no decision of the user is prepared: synthetic sets, and sets whose files are in a known place.
    Faults of the plan are raised before anything is written.
    """
    found = catalogue()
    check_trackers(found, spec.track)
    # What is wrong with a plan is wrong for each seed alike.
    make_plan(replace(spec, seeds=spec.seeds[:1]), found, stores=False, device=execution.planned_device)
    store.prepare()
    make_missing(spec, found, events.preparing, events.prepared)
    return make_plan(spec, found, device=execution.planned_device)


def dry_plan(spec: BenchSpec, execution: Execution) -> tuple[Plan, list[str]]:
    """The plan of a benchmark that is only looked at, and the data sets that would be prepared first."""
    found = catalogue()
    check_trackers(found, spec.track)
    unmade = to_make(spec.datasets, found, spec.settings)
    plan = make_plan(spec, found, stores=not unmade, device=execution.planned_device)
    check_encoders(plan.runs, plan, all_of_them=False)
    return plan, unmade


def check_encoders(runs: Sequence[Planned], plan: Plan, *, all_of_them: bool) -> None:
    """Raise MmzooError for an encoder that cannot be built, or that gives one feature for all inputs.

    Args:
        runs: Those of the plan whose encoders are looked at.
        all_of_them: Otherwise only those that read files or are given an option, and torch is not loaded for others.
    """
    found = catalogue()
    used = {(name, tuple(params)) for p in runs for name, params in p.spec.encoders.values()}
    entries = [(found.get("encoders", name), given) for name, given in used]
    if (all_of_them and used) or any(e.extra.get("files") or set(given) & set(ENCODER_OPTIONS) for e, given in entries):
        from mmzoo.benchmark.execution import building

        building.check_encoders(runs, plan, found, chosen=not all_of_them)


def tune(plan: Plan, store: Store, trials: int, device: str, events: Events) -> Plan:
    """The plan with the settings that tuning chose. Raises MmzooError where Optuna is not installed."""
    from mmzoo.benchmark.execution.device import check_device

    events.tuning(plan, trials)
    check_tuning()
    check_encoders(plan.runs, plan, all_of_them=True)
    return tuned_plan(plan, catalogue(), store, trials, device=check_device(device), on_trial=events.trial)

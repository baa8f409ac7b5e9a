"""What `mmzoo bench` prints while it runs: text for a person, JSON lines for a program, or nothing. No torch at import."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmzoo.benchmark.bench import Events, Finished
from mmzoo.benchmark.planning.planned import Plan, Planned
from mmzoo.benchmark.results.records import as_settings
from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.scheduling.progress import display
from mmzoo.benchmark.scheduling.timing import told
from mmzoo.benchmark.scheduling.worker_loop import Progress
from mmzoo.cli.bench.plan import count, encoder_sizes_of, plan_lines, time_lines
from mmzoo.cli.data.stores import Bar, tell
from mmzoo.errors import BadValue
from mmzoo.io.streams import wrapped

if TYPE_CHECKING:
    from mmzoo.data.preparing.prepare import Prepared
    from mmzoo.data.preparing.prepare import Progress as Preparing

#: seconds that a bench on data sets of our choice may take without being confirmed
ASK_AFTER = 900.0


@dataclass
class Silent(Events):
    """Prints nothing before the report. The other listeners extend it.

    Args:
        device: Where the time of a few steps is taken.
        confirm: Whether a bench that takes long has to be confirmed.
        started: Whether a run was begun.
    """

    device: str = "auto"
    confirm: bool = False
    started: bool = False

    def planned(self, plan: Plan, missing: Sequence[Planned], store: Store) -> None:
        if self.confirm:
            _ask(time_lines(missing, store, self.device)[0], sys.stdin.isatty())

    @contextlib.contextmanager
    def progress(self, runs: Sequence[Planned]) -> Iterator[Progress]:
        self.started = True
        with self._display(runs) as shown:
            yield shown

    def _display(self, runs: Sequence[Planned]) -> AbstractContextManager[Progress]:
        return display(runs, quiet=True)


@dataclass
class Text(Silent):
    """Prints the plan, the expected time, and the progress of the runs: live on a terminal, else a line for each."""

    def preparing(self) -> AbstractContextManager[Preparing]:
        return Bar()

    def prepared(self, made: Prepared) -> None:
        tell(made)

    def tuning(self, plan: Plan, trials: int) -> None:
        print(tuning_line(plan, trials), flush=True)
        self._trials = trials

    def trial(self, planned: Planned, number: int, trial: Mapping[str, Any]) -> None:
        values = as_settings(trial["values"], planned.method, [part.strategy for part in planned.spec.parts])
        score = f"{100 * trial['score']:.1f} %" if trial["status"] == "ok" else trial["status"]
        print(f"  {planned.dataset} {planned.label} [{number + 1}/{self._trials}] {values}: {score}", flush=True)

    def planned(self, plan: Plan, missing: Sequence[Planned], store: Store) -> None:
        for line in plan_lines(plan, len(missing), store, encoder_sizes_of(plan)):
            print(wrapped(line))
        sys.stdout.flush()
        seconds, lines = time_lines(missing, store, self.device)
        for line in lines:
            print(wrapped(line))
        sys.stdout.flush()
        if self.confirm:
            _ask(seconds, sys.stdin.isatty())

    @contextlib.contextmanager
    def progress(self, runs: Sequence[Planned]) -> Iterator[Progress]:
        began = time.monotonic()
        with super().progress(runs) as shown:
            yield shown
        print(f"Done in {time.monotonic() - began:.0f} s.\n")

    def _display(self, runs: Sequence[Planned]) -> AbstractContextManager[Progress]:
        return display(runs)

    def stressing(self, row: Mapping[str, Any], number: int, of: int) -> None:
        print(f"Stress [{number + 1}/{of}] {row['dataset']} {row['label']} seed {row['seed']}", flush=True)


@dataclass
class Lines(Silent):
    """Prints one JSON object a line: event "prepared", "trial", "plan", "run" (see `JsonLines`) and "end"."""

    def prepared(self, made: Prepared) -> None:
        _emit("prepared", dataset=made.store.name, items=len(made.store), folder=str(made.store.folder))

    def trial(self, planned: Planned, number: int, trial: Mapping[str, Any]) -> None:
        _emit("trial", dataset=planned.dataset, method=planned.label, **trial)

    def planned(self, plan: Plan, missing: Sequence[Planned], store: Store) -> None:
        emit_plan(plan, len(missing), store)
        if self.confirm:
            _ask(time_lines(missing, store, self.device)[0], False)

    def _display(self, runs: Sequence[Planned]) -> AbstractContextManager[Progress]:
        return display(runs, as_json=True)

    def stressing(self, row: Mapping[str, Any], number: int, of: int) -> None:
        _emit("stress", run_id=row["run_id"], number=number, of=of)


def emit_plan(plan: Plan, missing: int, store: Store) -> None:
    """Print the plan as one JSON object."""
    facts = plan.asked()
    _emit("plan", runs=len(plan.runs), to_do=missing, seeds=plan.bench.seeds, out=str(store.root), **facts)


def emit_end(done: Finished) -> None:
    """Print the end of a benchmark as one JSON object."""
    _emit("end", runs=len(done.plan.runs), failed=dict(done.failed), unsaved=dict(done.unsaved))


def tuning_line(plan: Plan, trials: int) -> str:
    """What tuning is about to do."""
    configs = {p.spec.config_id for p in plan.runs if p.role not in ("teacher", "floor")}
    return (
        f"Tuning on the validation set: {count(trials, 'trial')} for each of {count(len(configs), 'configuration')}, under a seed "
        "that is not reported"
    )


def _emit(event: str, **facts: Any) -> None:
    print(json.dumps({"event": event, **facts}), flush=True)


def _ask(seconds: float, interactive: bool) -> None:
    """Have a long benchmark confirmed whose data sets the user did not name. Raises BadValue unless it is."""
    if seconds <= ASK_AFTER:
        return
    if not interactive:
        raise BadValue(
            f"this takes {told(seconds)}. Add --yes to continue, or name fewer with --datasets, --baselines or --seeds."
        )
    if input(f"This takes {told(seconds)}. Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        raise BadValue("not started. Name fewer data sets with --datasets, or fewer methods with --baselines.")

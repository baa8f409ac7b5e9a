"""The progress of a benchmark: lines in a log, JSON lines for programs, or nothing. No torch at import."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmzoo.benchmark.planning.planned import Planned
from mmzoo.benchmark.scheduling.worker_loop import Progress


@dataclass
class Shown(Progress):
    """A line for each run that ends. Use as a context.

    Attributes:
        runs: the runs of the benchmark; a teacher that is not among them is not counted.
        failed: run id -> reason, of the runs that failed.
    """

    runs: Sequence[Planned] = ()
    failed: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Shown:
        self._begin()
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to close."""

    def _begin(self) -> None:
        self._total = {p.spec.run_id: p.spec.training.epochs for p in self.runs}
        self._done = dict.fromkeys(self._total, 0)
        self._ended = 0

    def epoch(self, planned: Planned, done: int) -> None:
        if planned.spec.run_id in self._done:
            self._done[planned.spec.run_id] = done

    def settled(self, planned: Planned, row: Mapping[str, Any]) -> None:
        print(self._note(planned, row), flush=True)

    def _note(self, planned: Planned, row: Mapping[str, Any]) -> str:
        """Count a run that has ended. Returns its line."""
        self._ended += 1
        self.epoch(planned, self._total.get(planned.spec.run_id, 0))
        score = row["metrics"].get(row["metrics"].get("main_metric", ""), None)
        outcome = f"{100 * score:.1f} %" if score is not None else f"{row['status']}: {row['reason']}"
        if row["status"] == "failed":
            self.failed[planned.spec.run_id] = row["reason"]
        return f"[{self._ended}/{len(self._total)}] {name_of(planned)}: {outcome}"


class Quiet(Shown):
    """Counts and prints nothing."""

    def settled(self, planned: Planned, row: Mapping[str, Any]) -> None:
        self._note(planned, row)


class JsonLines(Shown):
    """One JSON object per line and run that ends.

    Keys: event ("run"), run, dataset, method, seed, status, metric, score (0 to 1, null without one), reason, done and
    total (numbers of runs).
    """

    def settled(self, planned: Planned, row: Mapping[str, Any]) -> None:
        self._note(planned, row)
        metric = row["metrics"].get("main_metric")
        facts = {
            "event": "run",
            "run": planned.spec.run_id,
            "dataset": planned.dataset,
            "method": planned.label,
            "seed": planned.spec.seed,
            "status": row["status"],
            "metric": metric,
            "score": row["metrics"].get(metric or "", None),
            "reason": row["reason"],
            "done": self._ended,
            "total": len(self._total),
        }
        print(json.dumps(facts), flush=True)


def display(runs: Sequence[Planned], *, quiet: bool = False, as_json: bool = False) -> Shown:
    """What shows the progress of some runs: live on a terminal that can, and otherwise a line per run."""
    if as_json:
        return JsonLines(runs=runs)
    if quiet:
        return Quiet(runs=runs)
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown"):
        from mmzoo.benchmark.scheduling.live import Live

        return Live(runs=runs)
    return Shown(runs=runs)


def name_of(planned: Planned) -> str:
    return f"{planned.dataset} {planned.label} seed {planned.spec.seed}"

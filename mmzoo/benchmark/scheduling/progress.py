"""The progress of a bench on a terminal or in a log. No torch at import."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mmzoo.benchmark.planning.planned import Planned
from mmzoo.benchmark.scheduling.worker_loop import Progress

_FORM = "{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} epochs, {remaining} left {postfix}"


@dataclass
class Shown(Progress):
    """A bar of epochs where there is a terminal, and otherwise a line for each run that ends. Use as a context."""

    runs: Sequence[Planned] = ()
    failed: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> Shown:
        from tqdm import tqdm

        self._total = {p.spec.run_id: p.spec.training.epochs for p in self.runs}
        self._done = dict.fromkeys(self._total, 0)
        self._ended = 0
        self._bar = tqdm(total=sum(self._total.values()), disable=None, dynamic_ncols=True, bar_format=_FORM)
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def epoch(self, planned: Planned, done: int) -> None:
        if planned.spec.run_id in self._done:  # a teacher that was not asked for is not counted
            self._bar.set_postfix_str(_name(planned), refresh=False)
            self._done[planned.spec.run_id] = done
            self._bar.update(sum(self._done.values()) - self._bar.n)

    def settled(self, planned: Planned, row: dict[str, Any]) -> None:
        self._ended += 1
        self.epoch(planned, self._total[planned.spec.run_id])
        score = row["metrics"].get(row["metrics"].get("main_metric", ""), None)
        outcome = f"{100 * score:.1f} %" if score is not None else f"{row['status']}: {row['reason']}"
        if row["status"] == "failed":
            self.failed[planned.spec.run_id] = row["reason"]
        line = f"[{self._ended}/{len(self._total)}] {_name(planned)}: {outcome}"
        if self._bar.disable:
            print(line, flush=True)
        elif row["status"] != "ok":
            self._bar.write(line)


def _name(planned: Planned) -> str:
    return f"{planned.dataset} {planned.label} seed {planned.spec.seed}"

"""The live display of a benchmark on a terminal: counts, time left, the leaderboard so far, which branch lags."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmzoo.benchmark.scheduling.progress import Shown, name_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mmzoo.benchmark.planning.planned import Planned

#: seconds between two draws, and how many running runs are named
INTERVAL, NAMED = 0.5, 6


@dataclass
class Standing:
    """The scores of a method on each data set so far, in %, and how far its weakest branch lags behind the best."""

    scores: dict[str, list[float]] = field(default_factory=dict)
    lags: dict[str, list[float]] = field(default_factory=dict)


class Live(Shown):
    """Draws in place, at the bottom of the terminal; what fails is printed above. Use as a context."""

    def __enter__(self) -> Live:
        from rich.console import Console
        from rich.live import Live as Display

        self._begin()
        self._started = time.monotonic()
        self._running: dict[str, tuple[Planned, int]] = {}
        self._standings: dict[str, Standing] = {}
        self._datasets = list(dict.fromkeys(p.dataset for p in self.runs))
        self._console = Console(highlight=False)
        self._display = Display(
            get_renderable=self._draw, console=self._console, refresh_per_second=1 / INTERVAL, transient=True
        )
        self._display.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._display.stop()

    def epoch(self, planned: Planned, done: int) -> None:
        super().epoch(planned, done)
        self._running[planned.spec.run_id] = (planned, done)

    def settled(self, planned: Planned, row: Mapping[str, Any]) -> None:
        line = self._note(planned, row)
        self._running.pop(planned.spec.run_id, None)
        if row["status"] == "ok":
            self._stand(planned, row)
        else:
            self._console.print(line, markup=False)

    def _stand(self, planned: Planned, row: Mapping[str, Any]) -> None:
        metrics = row["metrics"]
        main = metrics["main_metric"]
        standing = self._standings.setdefault(planned.label, Standing())
        standing.scores.setdefault(planned.dataset, []).append(100 * metrics[main])
        own = {m: scores["own"][main] for m, scores in metrics.get("modalities", {}).items() if "own" in scores}
        if len(own) > 1:
            weakest = min(own, key=lambda m: own[m])
            standing.lags.setdefault(weakest, []).append(100 * (max(own.values()) - own[weakest]))

    # ------------------------------------------------------------------ drawing
    def _draw(self) -> RenderableType:
        from rich.console import Group

        parts: list[RenderableType] = [self._counts(), *self._bars()]
        if self._standings:
            parts.append(self._leaderboard())
        return Group(*parts)

    def _counts(self) -> RenderableType:
        from rich.text import Text

        total, ended, failed = len(self._total), self._ended, len(self.failed)
        parts = [f"{ended}/{total} runs done", f"{len(self._running)} running"]
        if failed:
            parts.append(f"{failed} failed")
        if left := self._left():
            parts.append(f"about {left} left")
        return Text(", ".join(parts), style="bold")

    def _left(self) -> str:
        done, total = sum(self._done.values()), sum(self._total.values())
        seconds = time.monotonic() - self._started
        if not done or seconds < 2:
            return ""
        return duration((total - done) * seconds / done)

    def _bars(self) -> list[RenderableType]:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        done, total = sum(self._done.values()), sum(self._total.values())
        grid = Table.grid(padding=(0, 1))
        grid.add_row(ProgressBar(total=max(total, 1), completed=done, width=40), Text(f"{done}/{total} epochs"))
        for planned, epoch in list(self._running.values())[:NAMED]:
            of = self._total.get(planned.spec.run_id, planned.spec.training.epochs)
            bar = ProgressBar(total=of, completed=epoch, width=40)
            grid.add_row(bar, Text(f"{epoch}/{of} {name_of(planned)}", overflow="ellipsis", no_wrap=True))
        return [grid]

    def _leaderboard(self) -> RenderableType:
        from mmzoo.benchmark.reporting.tables import DASH, Cell, Table
        from mmzoo.benchmark.reporting.terminal import grid

        datasets = [d for d in self._datasets if any(d in s.scores for s in self._standings.values())]
        order = [p.label for p in self.runs]
        table = Table(
            "so far, validation-selected test scores in % (seeds done)",
            ["method", *datasets, "weakest branch"],
            priority=[0, *[1] * len(datasets), 2],
        )
        for label in sorted(self._standings, key=order.index):
            standing = self._standings[label]
            texts = [label]
            for dataset in datasets:
                scores = standing.scores.get(dataset, [])
                texts.append(f"{sum(scores) / len(scores):.1f} ({len(scores)})" if scores else DASH)
            texts.append(_lagging(standing.lags))
            table.body.append([Cell(text) for text in texts])
        return grid(table, self._console.width)


def _lagging(lags: Mapping[str, Sequence[float]]) -> str:
    from mmzoo.benchmark.reporting.tables import DASH

    if not lags:
        return DASH
    worst = max(lags, key=lambda m: sum(lags[m]) / len(lags[m]))
    return f"{worst} -{sum(lags[worst]) / len(lags[worst]):.0f}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, rounded for a reader."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

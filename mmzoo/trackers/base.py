"""Who is told of a run while it trains. No torch at import."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmzoo.errors import BadValue
from mmzoo.registry import Catalogue


class Tracker:
    """Base of trackers: one object a run, made where the run is trained. Each method may be left as it is.

    target: what the user wrote after the colon of `--track NAME:TARGET`, or None. folder: that of the results. run: the
    row as far as it is known before training (run_id, dataset, label, seed, spec ...). What a tracker raises costs a
    warning and the rest of its reports, never the run.
    """

    def __init__(self, target: str | None, folder: Path, run: Mapping[str, Any]) -> None:
        pass

    def epoch(self, record: Mapping[str, Any]) -> None:
        """After every epoch: its number from 0, and under `train` and `holdout` all that was measured."""

    def end(self, row: Mapping[str, Any]) -> None:
        """At the end: the row, whatever its status. Nothing is called after it."""


class Trackers:
    """The trackers of one run. An epoch that is repeated after a kill is told again."""

    def __init__(self, catalogue: Catalogue, wanted: Sequence[str], folder: Path) -> None:
        self._catalogue, self._wanted, self._folder = catalogue, wanted, folder
        self._live: dict[str, Tracker] = {}

    def start(self, run: Mapping[str, Any]) -> None:
        for text in self._wanted:
            name, _, target = text.partition(":")
            build = partial(self._catalogue.get("trackers", name).load(), target or None, self._folder, run)
            if (tracker := self._guarded(text, build)) is not None:
                self._live[text] = tracker

    def epoch(self, record: Mapping[str, Any]) -> None:
        for text, tracker in list(self._live.items()):
            self._guarded(text, partial(tracker.epoch, record))

    def end(self, row: Mapping[str, Any]) -> None:
        for text, tracker in list(self._live.items()):
            self._guarded(text, partial(tracker.end, row))
        self._live = {}

    def _guarded(self, text: str, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            self._live.pop(text, None)
            print(
                f"mmzoo: warning: tracker {text} failed and is told no more of this run: {type(error).__name__}: "
                f"{error}",
                file=sys.stderr,
            )
            return None


def check_trackers(catalogue: Catalogue, wanted: Sequence[str]) -> None:
    """Raise UnknownName, BadValue or MmzooError, before anything is trained, for one that is unknown, named twice or
    not installed."""
    for text in wanted:
        catalogue.get("trackers", text.partition(":")[0]).load()
        if wanted.count(text) > 1:
            raise BadValue(f"tracker {text!r} is given twice: leave one out.")


def scalars(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """Each number of a nested mapping, with the keys that lead to it: `holdout/acc`."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from scalars(value, f"{prefix}/{key}")
        elif isinstance(value, (int, float)):
            yield f"{prefix}/{key}", float(value)

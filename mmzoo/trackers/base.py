"""The base class of experiment trackers, and the trackers of one run. No torch at import."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from mmzoo.errors import BadValue
from mmzoo.registry import Catalogue


class Tracker:
    """Base of trackers: one object per run, created in the process that trains it. Every method is optional.

    An exception in a tracker ends its reports with a warning, never the run.

    Args:
        target: the text after the colon of `--track NAME:TARGET`, or None.
        folder: the results folder.
        run: the row as known before training (run_id, dataset, label, seed, spec ...).
    """

    def __init__(self, target: str | None, folder: Path, run: Mapping[str, Any]) -> None:
        pass

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Called after every epoch with its number, from 0, and under `train` and `holdout` everything measured."""

    def end(self, row: Mapping[str, Any]) -> None:
        """Called last, with the row of the run, whatever its status."""


class Trackers:
    """The trackers of one run. An epoch that is repeated after a kill is reported again.

    Args:
        catalogue: the catalogue.
        wanted: NAME or NAME:TARGET of each.
        folder: the results folder.
    """

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
                f"mmzoo: warning: tracker {text} failed and is disabled for this run: {type(error).__name__}: {error}",
                file=sys.stderr,
            )
            return None


def check_trackers(catalogue: Catalogue, wanted: Sequence[str]) -> None:
    """Check trackers before training.

    Args:
        catalogue: the catalogue.
        wanted: NAME or NAME:TARGET of each.

    Raises:
        UnknownName: there is no such tracker.
        BadValue: one is named twice.
        MmzooError: one is not installed.
    """
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

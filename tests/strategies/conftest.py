"""What a run does, observed or scripted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from mmzoo.api import (
    Run,
)


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(epoch, epochs) of every fork."""
    seen: list[tuple[int, int]] = []
    fork = Run.fork

    def noted(self: Run, strategy: Any = None, *, epochs: int = 0) -> Run:
        seen.append((self.epoch, epochs))
        return fork(self, strategy, epochs=epochs)

    monkeypatch.setattr(Run, "fork", noted)
    return seen


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the scores on the slice follow a script: modality -> value by epoch, the last one again and again."""

    def script(key: str, values: Mapping[str, Sequence[float]]) -> None:
        def metrics(self: Run) -> dict[str, Any]:
            return {"unimodal": {m: {key: v[min(self.epoch, len(v) - 1)]} for m, v in values.items()}}

        monkeypatch.setattr(Run, "_meta_metrics", metrics)

    return script

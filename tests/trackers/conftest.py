"""One run as a tracker is told of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmzoo.trackers.base import Tracker

RUN = {
    "run_id": "ab12",
    "dataset": "mfeat:six",
    "label": "ogm[alpha=0.5]",
    "seed": 3,
    "spec": {"head": "sum", "seed": 3},
}
EPOCHS = [
    {"epoch": i, "train": {"loss/task": 1.0 - i / 4, "clip@x": 1}, "holdout": {"acc": 0.5 + i / 4, "of": {"m": 0.25}}}
    for i in range(2)
]
ROW = {**RUN, "status": "ok", "reason": "", "metrics": {"acc": 0.75, "selected_epoch": 1}}


@pytest.fixture
def tell(tmp_path: Path) -> Callable[..., Path]:
    """Tell a tracker of the run, from its start to its end; the folder of the results."""

    def told(tracker: type[Tracker], target: str | None = None, row: dict[str, Any] = ROW) -> Path:
        made = tracker(target, tmp_path / "results", RUN)
        for record in EPOCHS:
            made.epoch(record)
        made.end(row)
        return tmp_path / "results"

    return told

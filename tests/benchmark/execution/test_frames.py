"""How far a training step is from the call that does a run."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.benchmark.results.store import Store
from mmzoo.config.spec import BenchSpec
from mmzoo.registry.plugins import catalogue
from mmzoo.training import run as training_run

MOST = 6


def test_at_most_six_frames_lie_between_a_run_and_a_training_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    train_pass: Callable[..., Any] = training_run.train_pass

    def watched(*given: Any) -> None:
        seen.append([frame.name for frame in traceback.extract_stack()])
        train_pass(*given)

    monkeypatch.setattr(training_run, "train_pass", watched)
    (planned,) = make_plan(BenchSpec("ogm", seeds=(0,), epochs=1, references=False), catalogue()).runs
    assert run_one(planned, catalogue(), Store(tmp_path))["status"] == "ok"
    between = seen[0][seen[0].index("run_one") + 1 : seen[0].index("watched")]
    assert between[-1] == "step" and len(between) <= MOST, between

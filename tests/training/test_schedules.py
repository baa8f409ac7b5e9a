"""A strategy with a schedule over epochs, from what the documentation of a run names."""

from __future__ import annotations

import re
from typing import Any

import torch

from mmzoo.api import Batch, MultimodalModel, Run, Strategy, Training
from mmzoo.encoders.mlp import MLP
from mmzoo.heads.sum import Sum


class Ramp(Strategy):
    """Reads what a schedule needs."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, ...]] = []

    def epoch_start(self, run: Run) -> None:
        self.seen.append((run.epoch, run.epoch / max(1, run.n_epochs - 1)))

    def updated(self, step: Any, out: Any, terms: Any) -> None:
        run = step.run
        assert run.n_epochs == run.training.epochs and run.batch_in_epoch < run.steps_per_epoch


def a_run() -> Run:
    encoders = {m: MLP((4,)) for m in ("a", "b")}
    model = MultimodalModel(encoders, Sum({m: e.out_dim for m, e in encoders.items()}, n_classes=2))
    data = [Batch({m: torch.zeros(4, 4) for m in encoders}, torch.tensor([0, 1, 0, 1]), torch.arange(4))] * 2
    return Run(model, Ramp(), train=data, training=Training(epochs=3))


def test_a_schedule_over_epochs_is_written_from_what_a_run_names() -> None:
    run = a_run()
    for _ in range(3):
        run.train_epoch()
        run.end_epoch()
    assert run.strategy.seen == [(0, 0.0), (1, 0.5), (2, 1.0)]  # type: ignore[attr-defined]


def test_the_attributes_that_the_documentation_of_a_run_names_are_there() -> None:
    block = (Run.__doc__ or "").partition("Attributes:")[2].partition("Raises:")[0]
    named = [n for line in re.findall(r"^ +((?:\w+, )*\w+):", block, re.MULTILINE) for n in line.split(", ")]
    assert {"epoch", "n_epochs", "steps_per_epoch", "training"} <= {*named, *re.findall(r"`(\w+)`", block)}
    assert all(hasattr(a_run(), name) for name in named)

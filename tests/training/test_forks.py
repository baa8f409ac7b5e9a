"""Strategies that restrict passes compose, and a fork trains at the learning rates of its parent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from mmzoo.api import Pass, Step, Strategy
from mmzoo.testing import check_strategy
from mmzoo.testing.harness.observing import difference, weights
from mmzoo.testing.harness.tasks import build_model, build_run, make_task, train


def test_a_strategy_that_restricts_passes_composes_with_frozen_ones() -> None:
    class EncodersInTurn(Strategy):
        def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
            names = step.run.modalities
            mine = frozenset({names[step.run.global_step % len(names)]})
            return [replace(p, update=mine if p.update is None else mine & p.update) for p in passes]

    check_strategy(EncodersInTurn, draws=2, expected_failures={"check_modality_order": "takes turns in order"})


def test_a_fork_goes_on_at_the_learning_rates_of_its_parent() -> None:
    task = make_task()
    run = build_run(task, Strategy(), build_model(task, norm=True), schedule="step", step_size=1, gamma=0.5)
    train(run, 2)
    run.set_lr_scale("encoder:audio", 0.1)
    fork = run.fork(epochs=1)
    train(run, 1)
    assert difference(weights(fork.model), weights(run.model)) is None

"""Dynamic gap in whole runs: the released form, the tangent, every solver."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import equal, loader, model, run, train, weights
from helpers.resumed_runs import through_disk

from mmzoo.api import (
    Incompatible,
    Run,
    Training,
    Window,
)
from mmzoo.strategies.dynamic_gap import DynamicGap


def test_the_released_form_keeps_its_factor_without_matching() -> None:
    logged = {}
    for form in ("paper", "released"):
        r = run(DynamicGap(schedule="constant", alpha=0.0, form=form))
        r.train_epoch()
        logged[form] = r._logged["loss/task"][0]
    assert float(logged["released"]) == pytest.approx(2 * float(logged["paper"]))


def test_the_tangent_refuses_what_it_does_not_follow() -> None:
    strategy = DynamicGap(schedule="learned", solver="tangent", upper="train")
    with pytest.raises(Incompatible, match="as they are taken: leave out"):
        run(strategy, training=Training(epochs=1, clip=1.0))


@pytest.mark.parametrize("solver", ["gauss_newton", "hessian", "neumann", "identity", "tangent"])
def test_every_solver_moves_alpha_and_resumes_bit_for_bit(solver: str) -> None:
    def fresh(state: Any = None) -> Run:
        strategy = DynamicGap(schedule="learned", solver=solver, iterations=30, damping=0.1)
        return run(strategy, model(norm=True), slice=loader(n=16, seed=1), state=state)

    straight = train(fresh(), 4)
    resumed = train(fresh(through_disk(train(fresh(), 2).state_dict())), 2)
    assert straight.strategy.current != 0.5 and straight.strategy.current == resumed.strategy.current
    assert equal(weights(straight.model), weights(resumed.model))


def test_the_tangent_watches_only_while_its_window_is_open() -> None:
    inner = DynamicGap(schedule="learned", solver="tangent", upper="train")
    r = run(Window(inner, 0, 0), model(norm=True))
    train(r, 3)
    assert inner.learner.tangent is not None and not inner.learner.tangent._state.records

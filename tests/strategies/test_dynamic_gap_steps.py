"""How alpha moves: a fixed linear fall, and a step whose travel depends on nothing but what was asked for."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.errors import BadValue
from mmzoo.registry.plugins import catalogue
from mmzoo.strategies.dynamic_gap import DynamicGap
from mmzoo.strategies.dynamic_gap.learners import Linear, StepRule
from mmzoo.strategies.dynamic_gap.settings import StepSettings
from mmzoo.testing.harness.tasks import build_model, build_run, make_task, train


def moved(values: list[float], **settings: Any) -> list[float]:
    """alpha from 0.8 under these derivatives, one update each."""
    rule, alpha, path = StepRule(StepSettings(**settings)), 0.8, []
    for value in values:
        found: Any = SimpleNamespace(value=value, direction=value)
        alpha = rule(alpha, found, len(values))
        path.append(alpha)
    return path


@pytest.mark.parametrize("size", [1e-9, 1.0, 1e9])
@pytest.mark.parametrize("updates", [5, 30, 400])
def test_a_derivative_that_keeps_its_sign_moves_alpha_by_the_travel(size: float, updates: int) -> None:
    """Whatever its size, and however many updates there are."""
    assert moved([size] * updates, step="rms", travel=0.5)[-1] == pytest.approx(0.3)


def test_a_derivative_without_a_sign_moves_alpha_nowhere_far() -> None:
    assert abs(moved([1.0, -1.0] * 50, step="rms", travel=0.5)[-1] - 0.8) < 0.02


def test_the_first_steps_by_hand() -> None:
    """h / sqrt(mean of squares), the mean decayed by 0.9 and corrected: 1, then -2 over sqrt((0.09 + 0.4) / 0.19)."""
    path = moved([1.0, -2.0], step="rms", travel=0.1, max_change=1.0)
    assert path[0] == pytest.approx(0.8 - 0.05)
    assert path[1] == pytest.approx(path[0] + 0.05 * 2 / ((0.09 + 0.4) / 0.19) ** 0.5)


def test_the_bound_holds_and_a_derivative_of_zero_moves_nothing() -> None:
    assert moved([5.0], step="rms", travel=0.6, max_change=0.1) == [pytest.approx(0.7)]
    assert moved([0.0, 0.0], step="rms") == [0.8, 0.8]


def test_the_old_step_is_what_it_was() -> None:
    assert moved([0.5, -0.2], eta=0.1) == [pytest.approx(0.75), pytest.approx(0.77)]


def test_the_linear_fall_ends_at_zero() -> None:
    run: Any = SimpleNamespace(epoch=0, n_epochs=5)
    path = []
    for run.epoch in range(5):
        path.append(Linear(0.8).epoch_start(run, 0.0))
    assert path == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])
    run.epoch, run.n_epochs = 0, 1
    assert Linear(0.8).epoch_start(run, 0.0) == 0.8


def test_the_running_mean_survives_a_checkpoint() -> None:
    """A run that is resumed after two epochs ends where one that was not does."""
    task = make_task(2)

    def new(state: Any = None) -> Any:
        strategy = DynamicGap(schedule="learned", step="rms", travel=0.5, iterations=30)
        return build_run(task, strategy, build_model(task), state=state)

    straight, first = new(), new()
    train(straight, 4)
    train(first, 2)
    second = new(first.state_dict())
    train(second, 2)
    assert straight.strategy.current == second.strategy.current
    assert straight.strategy.learner.step.seen == second.strategy.learner.step.seen
    assert straight.strategy.learner.step.seen[0] > 0


def parts(text: str, *settings: tuple[str, Any]) -> Any:
    return resolve_method(catalogue(), text, Settings(catalogue(), settings)).parts[0].params


def test_parameters_that_were_added_later_leave_stored_runs_alone() -> None:
    """At their defaults they are not in the spec, given or not; what they are set to otherwise is."""
    assert not {"step", "travel"} & set(parts("dynamic_gap_lb"))
    assert parts("dynamic_gap_lb", ("dynamic_gap_lb.step", "eta")) == parts("dynamic_gap_lb")
    given = parts("dynamic_gap_lb", ("dynamic_gap_lb.step", "rms"))
    assert given["step"] == "rms" and "travel" not in given
    assert json.dumps(given)


def test_the_preset_that_is_like_the_paper() -> None:
    given = parts("dynamic_gap_lb", ("dynamic_gap_lb.preset", "paper_like"))
    assert (given["alpha"], given["step"], given["travel"]) == (0.63, "rms", 0.6)
    assert given["every"] is not None


def test_a_travel_without_its_step_means_nothing() -> None:
    with pytest.raises(BadValue, match="step"):
        parts("dynamic_gap_lb", ("dynamic_gap_lb.travel", 0.4))

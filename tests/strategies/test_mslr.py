"""MSLR: ratios of learning rates by hand, and what their rule promises."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from helpers import model, run, train
from helpers.blended_runs import SLICE, run_with_slice, sliced
from helpers.by_hand import Sgd, Weights, assert_same, gradient, weights_of
from helpers.steps_by_hand import FIXED, features_of, run_of, task_loss, unimodal_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.api import (
    Chain,
    Run,
    Training,
    Window,
)
from mmzoo.heads.sum import Sum
from mmzoo.strategies.mslr import MSLR, grid, ratio
from mmzoo.strategies.ogm import OGM

FEW = settings(FIXED, max_examples=25)
# ---------------------------------------------------------------------- MSLR: the rule
ACCURACY = st.integers(1, 64).map(lambda n: n / 64)


@FEW
@given(st.lists(ACCURACY, max_size=8), ACCURACY, st.integers(1, 6), st.booleans(), st.sampled_from([0.25, 0.5]))
def test_ratios_are_positive_blind_to_scale_and_wait_for_a_full_memory(
    before: list[float], now: float, memory: int, current: bool, scale: float
) -> None:
    found = ratio(before, now, memory, current)
    if len(before) + current < memory:
        assert found is None
        return
    used = [*before, now][-memory:] if current else before[-memory:]
    assert found == pytest.approx(now / np.mean(used)) and found > 0
    assert ratio([scale * a for a in before], scale * now, memory, current) == pytest.approx(found)
    assert ratio([now] * memory, now, memory, current) == 1.0
    assert ratio([0.0] * memory, 0.0, memory, current) == 1.0


@FEW
@given(st.integers(1, 9), st.floats(1, 100))
def test_the_grid_is_symmetric_and_begins_nearest_to_one(points: int, span: float) -> None:
    found = grid(points, span)
    assert len(found) == points and found[0] == pytest.approx(1.0 if points % 2 else span ** (-1 / (points - 1)))
    assert sorted(found) == pytest.approx(sorted(1 / x for x in found))
    assert max(found) == pytest.approx(span if points > 1 else 1.0)


# ---------------------------------------------------------------------- MSLR: steps and runs
def rate_of(name: str, factor: Mapping[str, float], scope: str) -> float:
    for m, c in factor.items():
        if name.startswith(f"encoders.{m}.") or (scope == "branch" and name == f"head.weight.{m}"):
            return c
    return 1.0


def scaled_step(sgd: Sgd, w: Weights, g: Weights, factor: Mapping[str, float], scope: str) -> Weights:
    """w <- w - factor * 0.2 v: the rate is scaled, momentum and weight decay are not."""
    moved = sgd.step(w, g)
    return {k: w[k] + rate_of(k, factor, scope) * (moved[k] - w[k]) for k in w}


@pytest.mark.parametrize("scope", ["branch", "encoder"])
def test_kept_rates_scale_the_update(scope: Any) -> None:
    r, sgd, factors = (
        run_of(MSLR(mode="keep", factors={"a": 0.25, "v": 1.5}, scope=scope)),
        Sgd(),
        {"a": 0.25, "v": 1.5},
    )
    w = weights_of(r.model)
    for _ in range(2):
        r.start_epoch()
        for batch in r.epoch_batches():
            r.step(batch)
            g = gradient(lambda u, batch=batch: task_loss(u, batch), w)
            w = scaled_step(sgd, w, g, factors, scope)
            assert_same(r.model, w)
        r.end_epoch()


@pytest.mark.parametrize(("compound", "current", "period"), [(False, False, 1), (True, True, 2), (True, False, 1)])
def test_dynamic_rates_follow_the_accuracies_on_the_slice(compound: bool, current: bool, period: int) -> None:
    strategy = MSLR(memory=2, compound=compound, include_current=current, period=period, factors={"a": 0.5})
    r, sgd = run_with_slice(strategy, epochs=6), Sgd()
    w, seen, q, used = weights_of(r.model), {"a": [], "v": []}, {"a": 1.0, "v": 1.0}, []
    for epoch in range(6):
        factors = {"a": 0.5 * q["a"], "v": q["v"]}
        used.append(tuple(factors.values()))
        r.start_epoch()
        for batch in r.epoch_batches():
            r.step(batch)
            w = scaled_step(sgd, w, gradient(lambda u, batch=batch: task_loss(u, batch), w), factors, "branch")
            assert_same(r.model, w)
        r.end_epoch()
        own = [(unimodal_of(w, features_of(w, b.inputs)), b.target.numpy()) for b in SLICE]
        for m, past in seen.items():
            now = float(np.mean(np.concatenate([z[m].argmax(1) == y for z, y in own])))
            recent = [*past, now][-2:] if current else past[-2:]
            if len(recent) == 2 and epoch % period == 0:
                q[m] = now / np.mean(recent) * (q[m] if compound else 1.0)
            past.append(now)
    assert len(set(used)) > 1


def test_the_schedule_and_the_factors_multiply_and_every_parameter_has_one_rate() -> None:
    training = Training(lr=0.1, epochs=6, schedule="step", step_size=2, gamma=0.5)
    r = run(MSLR(mode="keep", factors={"a": 0.25}), model(head=Sum), training=training)
    for epoch in range(4):
        train(r, 1)
        rates = {g["name"]: g["lr"] for g in r.optimizer.param_groups}
        base = 0.1 * 0.5 ** (epoch // 2)
        assert rates == pytest.approx({"encoder:a": base / 4, "head:a": base / 4, "encoder:b": base, "head:b": base})
    every = [id(p) for g in r.optimizer.param_groups for p in g["params"]]
    assert sorted(every) == sorted(id(p) for p in r.model.parameters())


def test_compounded_factors_stay_in_bounds_and_others_recover(scripted: Callable[..., None]) -> None:
    scripted("acc", {"a": [0.5, 0.0, 0.5, 0.5], "b": [0.5] * 4})
    compounding, free = MSLR(memory=1, compound=True), MSLR(memory=1)
    for strategy in (compounding, free):
        train(sliced(strategy), 2)
    assert compounding.ratios == {"a": 1e-3, "b": 1.0} and free.ratios == {"a": 0.0, "b": 1.0}
    assert ratio([0.0], 0.5, 1) == 1.0


def test_rates_are_taken_back_when_the_window_closes(scripted: Callable[..., None]) -> None:
    scripted("acc", {"a": [0.2, 0.4], "b": [0.4, 0.2]})

    def rates(r: Run) -> dict[str, float]:
        train(r, 1)
        return {g["name"]: g["lr"] / 0.05 for g in r.optimizer.param_groups}

    for wrapped in (lambda s: s, lambda s: Chain(s, OGM()), lambda s: Window(s, 0, 9)):
        r = sliced(Window(wrapped(MSLR(memory=1, factors={"a": 3.0})), 0, 2), model(head=Sum), 6)
        assert [rates(r)[g] for g in ("encoder:a",) * 4] == pytest.approx([3.0, 3.0, 6.0, 1.0])
        assert set(rates(r).values()) == {1.0}

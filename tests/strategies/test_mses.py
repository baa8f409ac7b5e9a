"""MSES: when it stops a modality, and what a stopped modality does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import equal, loader, model, run, train, weights
from helpers.blended_runs import group_state, run_with_slice, sliced, through_disk
from helpers.by_hand import Sgd, Weights, assert_same, cross_entropy, gradient, weights_of
from helpers.steps_by_hand import FIXED, features_of, task_loss, unimodal_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.api import (
    Batch,
    Chain,
    Pass,
    Run,
    Step,
    Strategy,
    Training,
    Window,
)
from mmzoo.evaluation.scores import evaluate
from mmzoo.heads.concat import Concat
from mmzoo.heads.sum import Sum
from mmzoo.strategies.gblend import GBlend
from mmzoo.strategies.mses import MSES, observed, stale
from mmzoo.strategies.ogm import OGM
from mmzoo.testing.harness.observing import difference
from mmzoo.training.loop import fit

FEW = settings(FIXED, max_examples=25)
# ---------------------------------------------------------------------- MSES: the rule
LOSSES = st.lists(st.floats(0, 5), min_size=1, max_size=15)


def rule(losses: Sequence[float], patience: int, smoothing: float = 0.6) -> tuple[int | None, int]:
    """The first epoch that stops, from 1, and the best one by then."""
    watch = None
    for epoch, loss in enumerate(losses, 1):
        watch = observed(watch, loss, smoothing)
        if stale(watch, patience):
            return epoch, int(watch["best_epoch"])
    return None, 0 if watch is None else int(watch["best_epoch"])


@FEW
@given(LOSSES, st.floats(0, 1), st.integers(0, 5))
def test_the_stop_is_the_first_epoch_too_far_from_the_best_smoothed_one(
    losses: list[float], smoothing: float, patience: int
) -> None:
    smooth = [losses[0]] + [smoothing * a + (1 - smoothing) * b for a, b in itertools.pairwise(losses)]
    best, stop = 1, None
    for epoch, value in enumerate(smooth, 1):
        if value < smooth[best - 1]:
            best = epoch
        if epoch - best > patience:
            stop = epoch
            break
    assert rule(losses, patience, smoothing) == (stop, best)
    watch = None
    for loss, value in zip(losses, smooth):
        watch = observed(watch, loss, smoothing)
        assert watch["smoothed"] == pytest.approx(value, abs=1e-12)


@FEW
@given(st.integers(0, 6), st.floats(0.1, 3), st.integers(8, 15))
def test_constant_losses_stop_two_epochs_after_the_patience_and_falling_ones_never(
    patience: int, loss: float, n: int
) -> None:
    assert rule([loss] * n, patience) == (patience + 2, 1)
    assert rule([loss * 0.9**i for i in range(n)], patience)[0] is None


def test_a_loss_that_is_not_finite_is_no_improvement() -> None:
    assert rule([math.nan] * 5, 2) == (3, 0)
    assert rule([1.0, math.nan, 0.5, 0.4], 2) == (None, 4)
    assert rule([1.0, -math.inf, math.inf, 1.1], 2) == (4, 1)


# ---------------------------------------------------------------------- MSES: steps and runs
def test_a_step_adds_the_losses_of_the_modalities_that_move() -> None:
    def by_hand(w: Weights, batch: Batch, epoch: int, step: int, start: Weights) -> Weights:
        y = batch.target.numpy()

        def loss(u: Weights) -> Any:
            own = unimodal_of(u, features_of(u, batch.inputs))
            return task_loss(u, batch) + 0.7 * sum(cross_entropy(z, y) for z in own.values())

        return gradient(loss, w)

    r, sgd = run_with_slice(MSES(weight=0.7, patience=9)), Sgd()
    w = weights_of(r.model)
    for epoch in range(2):
        r.start_epoch()
        for i, batch in enumerate(r.epoch_batches()):
            r.step(batch)
            w = sgd.step(w, by_hand(w, batch, epoch, i, w))
            assert_same(r.model, w)
        r.end_epoch()


@pytest.mark.parametrize("head", [Sum, Concat])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("restore", ["modality", "none"])
def test_a_stopped_modality_goes_back_to_its_best_epoch_and_stands_still(
    scripted: Callable[..., None], head: Any, optimizer: str, restore: Any
) -> None:
    scripted("loss", {"a": [1.0, 0.5, 0.9, 1.5, 2.0], "b": [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]})
    training = Training(optimizer=optimizer, lr=0.05, epochs=9, weight_decay=0.1)
    r = sliced(MSES(patience=1, smoothing=0.0, restore=restore), model(norm=True, head=head), training=training)
    kept = []
    for _ in range(4):
        train(r, 1)
        kept.append(weights(r.model))
    assert r.strategy.stopped == ["a"] and not r.stopped
    own = [k for k in kept[0] if "encoders.a." in k or k.startswith(("head.linear.a", "head.weight.a"))]
    same = [all(torch.equal(k[n], kept[3][n]) for n in own) for k in kept[:3]]
    assert same == [False, restore == "modality", False]
    assert not torch.equal(kept[1]["encoders.b.net.0.weight"], kept[3]["encoders.b.net.0.weight"])
    at_rest, moving = group_state(r, "a"), group_state(r, "b")
    train(r, 3)
    assert all(torch.equal(at_rest[k], v) for k, v in group_state(r, "a").items())
    assert sum(not torch.equal(moving[k], v) for k, v in group_state(r, "b").items()) > 5
    assert "a" not in r.strategy.kept and r.strategy.stopped == ["a"]


def test_restore_all_takes_model_and_optimizer_back_but_not_who_stopped_before(scripted: Callable[..., None]) -> None:
    scripted("loss", {"a": [1.0, 2.0, 3.0], "b": [1.0, 0.5, 0.6, 0.7], "c": [0.9, 0.8, 0.7, 0.6, 0.5]})
    widths = {"a": 4, "b": 3, "c": 2}
    own = loader(widths=widths)
    strategy = MSES(patience=1, smoothing=0.0, restore="all")
    r = run(strategy, model(widths, norm=True, head=Sum), train=own, slice=own, training=Training(lr=0.05, epochs=8))
    states = []
    for _ in range(4):
        train(r, 1)
        states.append({m: group_state(r, m) for m in "abc"})
    # a is best in epoch 0 and stops in epoch 2, b is best in epoch 1 and stops in epoch 3.
    assert strategy.stopped == ["a", "b"]
    for now, m, then in ((2, "a", 0), (2, "b", 0), (2, "c", 0), (3, "a", 0), (3, "b", 1), (3, "c", 1)):
        assert difference(states[then][m], states[now][m]) is None, (now, m)
    assert all(difference(states[0][m], states[1][m]) is not None for m in "abc")


def test_when_all_have_stopped_training_ends(scripted: Callable[..., None]) -> None:
    scripted("loss", {"a": [1.0, 1.0, 1.0, 1.0, 1.0], "b": [1.0, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4]})
    r = sliced(MSES(patience=1, smoothing=0.0), epochs=9)
    fit(r, lambda: loader(seed=3).batches())
    assert r.strategy.stopped == ["a", "b"] and r.epoch == 5


class Alternating(Strategy):
    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        return [replace(p, name=f"{p.name}/{m}", present=frozenset({m})) for p in passes for m in step.run.modalities]


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("other", [Alternating, lambda: OGM(noise=True), lambda: GBlend(mode="fixed")])
def test_a_stopped_modality_stands_still_in_company(scripted: Callable[..., None], other: Any, order: int) -> None:
    scripted("loss", {"a": [1.0, 2.0], "b": [1.0, 0.9, 0.8, 0.7, 0.6]})
    parts = [MSES(patience=0, smoothing=0.0), other()]
    r = train(sliced(Chain(*(parts if order == 0 else parts[::-1])), model(norm=True, head=Sum), 6), 2)
    assert parts[0].stopped == ["a"]
    before, moving = group_state(r, "a"), group_state(r, "b")
    train(r, 2)
    assert all(torch.equal(before[k], v) for k, v in group_state(r, "a").items())
    assert not all(torch.equal(moving[k], v) for k, v in group_state(r, "b").items())


def test_after_its_window_a_stopped_modality_moves_again(scripted: Callable[..., None]) -> None:
    scripted("loss", {"a": [1.0, 2.0], "b": [1.0, 0.9, 0.8, 0.7, 0.6]})
    inner = MSES(patience=0, smoothing=0.0)
    r = train(sliced(Window(inner, 0, 2), epochs=6), 2)
    before = group_state(r, "a")
    train(r, 1)
    assert inner.stopped == ["a"] and all(torch.equal(before[k], v) for k, v in group_state(r, "a").items())
    train(r, 1)
    assert not any(torch.equal(before[k], v) for k, v in group_state(r, "a").items() if k.endswith("weight"))


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_stop_is_resumed(scripted: Callable[..., None], stop: int) -> None:
    scripted("loss", {"a": [1.0, 0.5, 0.9, 1.5, 2.0], "b": [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]})

    def fresh(state: Any = None) -> Run:
        return sliced(MSES(patience=1, smoothing=0.0), epochs=6, state=state)

    straight, half = train(fresh(), 6), train(fresh(), stop)
    resumed = train(fresh(through_disk(half.state_dict())), 6 - stop)
    assert equal(weights(straight.model), weights(resumed.model)) and resumed.strategy.stopped == ["a"]


def test_a_modality_that_nobody_has_in_the_slice_is_not_watched() -> None:
    present = torch.ones(20, 2, dtype=torch.bool)
    present[:, 0] = False
    r = run(MSES(patience=0), slice=loader(n=20, present=present))
    train(r, 3)
    assert set(r.strategy.watched) == {"b"}


def test_the_epoch_that_is_chosen_keeps_the_weights_that_were_scored() -> None:
    class Wiping(Strategy):
        def epoch_end(self, run: Run, metrics: Any) -> None:
            run.edit("encoder:a", lambda name, value: value * 0)

    r = run(Wiping(), training=Training(lr=0.05, epochs=2))
    held = loader(seed=3)
    chosen = fit(r, held.batches)
    assert not any(bool(p.any()) for p in r.model.encoders["a"].parameters())
    chosen.restore(r)
    assert evaluate(r.model, r.strategy, held.batches())["loss"] == pytest.approx(chosen.loss)

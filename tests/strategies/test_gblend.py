"""G-Blend: steps by hand, estimates on forks, branches of weight zero, absent modalities."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import data, equal, loader, model, run, train, weights
from helpers.blended_runs import SLICE, run_with_slice, sliced, through_disk
from helpers.by_hand import Sgd, Weights, assert_same, cross_entropy, gradient, weights_of
from helpers.steps_by_hand import IN, batches, features_of, task_loss, train_both

from mmzoo.api import (
    BadValue,
    Batch,
    Chain,
    Incompatible,
    Outputs,
    Pass,
    Run,
    Step,
    Strategy,
    Terms,
    Training,
    Window,
)
from mmzoo.strategies import gblend
from mmzoo.strategies.gblend import GBlend
from mmzoo.testing.harness.observing import difference


# ---------------------------------------------------------------------- G-Blend: steps and estimates by hand
def branch_losses(w: Weights, batch: Batch) -> dict[str, Any]:
    """The loss of each branch."""
    z, y = features_of(w, batch.inputs), batch.target.numpy()
    own = {m: z[m] @ w[f"extra.gblend_{m}.weight"].T + w[f"extra.gblend_{m}.bias"] for m in IN}
    return {**{m: cross_entropy(own[m], y) for m in IN}, "fused": task_loss(w, batch)}


def test_a_step_with_fixed_weights() -> None:
    given = {"a": 0.7, "v": 0.2, "fused": 0.4}

    def by_hand(w: Weights, batch: Batch, epoch: int, step: int, start: Weights) -> Weights:
        return gradient(lambda u: sum(given[k] * v for k, v in branch_losses(u, batch).items()), w)

    train_both(GBlend(mode="fixed", weights=given), by_hand)


def test_equal_weights_where_none_are_given() -> None:
    def by_hand(w: Weights, batch: Batch, epoch: int, step: int, start: Weights) -> Weights:
        return gradient(lambda u: sum(branch_losses(u, batch).values()) / 3, w)

    train_both(GBlend(mode="fixed"), by_hand, epochs=1)


def mine(name: str, branch: str) -> bool:
    """Whether a parameter takes part in a branch."""
    if branch == "fused":
        return not name.startswith("extra")
    return name.startswith((f"encoders.{branch}.", f"extra.gblend_{branch}."))


def estimate(w: Weights, sgd: Sgd, epochs: int, eps: float, least: float) -> dict[str, float]:
    """Each branch trained alone by SGD on a copy of weights and momentum; the guarded formula."""

    def mean(u: Weights, branch: str, where: list[Batch]) -> float:
        return float(np.mean([branch_losses(u, b)[branch] for b in where]))

    gain, over, change = {}, {}, [0.0]
    for branch in (*IN, "fused"):
        u, own = dict(w), Sgd()
        own.velocity = {k: v.copy() for k, v in sgd.velocity.items()}
        for batch in batches() * epochs:
            part = {k: v for k, v in u.items() if mine(k, branch)}
            u |= own.step(part, gradient(lambda p, u=u, b=batch, k=branch: branch_losses({**u, **p}, b)[k], part))
        train_n, train_end = mean(w, branch, batches()), mean(u, branch, batches())
        val_n, val_end = mean(w, branch, SLICE), mean(u, branch, SLICE)
        gain[branch], over[branch] = val_n - val_end, (val_end - train_end) - (val_n - train_n)
        change += [abs(train_n - train_end), abs(gain[branch])]
    raw = {k: max(gain[k], 0) / max(over[k] ** 2, (eps * max(change)) ** 2) for k in gain}
    return {k: (1 - 3 * least) * v / sum(raw.values()) + least for k, v in raw.items()}


def test_the_online_estimates_and_the_training_between_them() -> None:
    r, sgd = run_with_slice(GBlend(warmup=2, super_epoch=1, eps=0.3, least=0.05)), Sgd()
    w = weights_of(r.model)
    blend: dict[str, float] = {}
    for epoch, length in enumerate((2, 0, 1)):
        if length:
            blend = estimate(w, sgd, length, 0.3, 0.05)
        r.start_epoch()
        for branch, weight in blend.items():
            assert r.strategy.current[branch] == pytest.approx(weight, abs=1e-9), (epoch, branch)
        for batch in r.epoch_batches():
            r.step(batch)
            total = gradient(lambda u: sum(blend[k] * v for k, v in branch_losses(u, batch).items()), w)  # noqa: B023
            w = sgd.step(w, total)
            assert_same(r.model, w)
        r.end_epoch()
    assert len(set(blend.values())) == 3


# ---------------------------------------------------------------------- G-Blend in a run
def watched(r: Run) -> dict[str, Any]:
    """All of a run that an estimate must leave alone, but its cost."""
    state = {k: v for k, v in r.state_dict().items() if k not in ("cost", "strategy")}
    return {**state, "random": torch.get_rng_state(), "mode": [m.training for m in r.model.modules()]}


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_an_estimate_leaves_the_run_bit_for_bit_alone_and_is_counted(mode: Any) -> None:
    r = sliced(GBlend(mode=mode, warmup=1, super_epoch=2), epochs=5)
    if mode == "online":
        train(r, 1)
    before, spent = watched(r), copy.copy(r.cost)
    r.strategy.epoch_start(r)
    assert difference(before, watched(r)) is None
    length = 2 if mode == "online" else 5
    n, s = 5, 3  # batches of training and of the slice
    assert r.cost.backward - spent.backward == pytest.approx(2 * n * length)
    assert r.cost.forward - spent.forward == pytest.approx(2 * n * length + 4 * (n + s))


def test_super_epochs_begin_where_they_should(forks: list[tuple[int, int]]) -> None:
    train(sliced(GBlend(warmup=3, super_epoch=2), epochs=8), 8)
    assert forks == [(0, 3)] * 3 + [(3, 2)] * 3 + [(5, 2)] * 3 + [(7, 1)] * 3
    forks.clear()
    train(sliced(GBlend(mode="offline", warmup=1, super_epoch=1), epochs=4), 4)
    assert forks == [(0, 4)] * 3
    forks.clear()
    train(sliced(Window(GBlend(warmup=2, super_epoch=3), 1, 4), epochs=6), 6)
    assert forks == [(1, 2)] * 3 + [(3, 3)] * 3


@pytest.mark.parametrize("stop", [2, 4])
def test_a_run_resumed_within_a_super_epoch_goes_on_with_its_weights(forks: list[tuple[int, int]], stop: int) -> None:
    def fresh(state: Any = None) -> Run:
        return sliced(GBlend(warmup=3, super_epoch=2), epochs=6, state=state)

    straight, half = train(fresh(), 6), train(fresh(), stop)
    forks.clear()
    resumed = train(fresh(through_disk(half.state_dict())), 6 - stop)
    assert forks == [(e, n) for e, n in ((3, 2), (5, 1)) if e >= stop for _ in range(3)]
    assert equal(weights(straight.model), weights(resumed.model)) and straight.cost == resumed.cost
    assert straight.strategy.state_dict() == resumed.strategy.state_dict()


def test_within_a_fork_the_weights_stay(forks: list[tuple[int, int]]) -> None:
    r = train(sliced(GBlend(warmup=1, super_epoch=1)), 1)
    forks.clear()
    own = GBlend(warmup=1, super_epoch=1)
    own.load_state_dict(r.strategy.state_dict())
    r.fork(own, epochs=2)
    assert len(forks) == 1 and own.current == r.strategy.current
    assert not r.forked and r.fork().forked


def test_weights_of_unknown_branches_and_weights_that_would_be_ignored_are_refused() -> None:
    with pytest.raises(Incompatible, match=r"visual; the branches here are a, b, fused"):
        run(GBlend(mode="fixed", weights={"visual": 0.5, "fused": 0.5}))
    with pytest.raises(BadValue, match="mode='fixed'"):
        GBlend(weights={"a": 1.0})


def test_a_modality_of_weight_zero_adds_no_term_and_its_classifier_stands_still() -> None:
    r = run(GBlend(mode="fixed", weights={"a": 0.5, "fused": 0.5}))
    before = weights(r.model.extra)
    terms = r.strategy.losses(*step_and_outputs(r), {"task": torch.ones(())})
    assert set(terms) == {"task", "gblend/a"}
    after = weights(train(r, 1).model.extra)
    assert torch.equal(before["gblend_b.weight"], after["gblend_b.weight"])
    assert not torch.equal(before["gblend_a.weight"], after["gblend_a.weight"])


def step_and_outputs(r: Run) -> tuple[Step, Outputs]:
    batch = next(iter(r.train()))
    return Step(r, batch), r.model(batch.inputs)


def test_a_modality_at_rest_takes_its_classifier_with_it() -> None:
    class Resting(Strategy):
        def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
            return [replace(p, freeze=frozenset({"a"})) for p in passes]

    r = run(Chain(GBlend(mode="fixed"), Resting()), model(norm=True))
    before = weights(r.model)
    after = weights(train(r, 1).model)
    still = [k for k in before if torch.equal(before[k], after[k])]
    assert {k for k in before if "encoders.a." in k or "gblend_a" in k or k == "head.weight.a"} == set(still)


def test_predictions_are_those_of_the_joint_logits_alone() -> None:
    r = train(run(GBlend(mode="fixed")), 1)
    batch = next(iter(loader().batches()))
    before = r.strategy.predict(r.model.eval()(batch.inputs)).scores
    with torch.no_grad():
        for p in r.model.extra.parameters():
            p.zero_()
    assert torch.equal(before, r.strategy.predict(r.model(batch.inputs)).scores)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_items_without_a_modality_do_not_count_in_its_branch(n: int) -> None:
    widths = {m: 3 + i for i, m in enumerate("abcd"[:n])}
    present = torch.rand(40, n, generator=torch.Generator().manual_seed(1)) < 0.6
    present[:, 1] = True
    present[:, 0] = False  # nobody has the first one
    own = loader(widths=widths, present=present)
    r = Run(model(widths), GBlend(warmup=1, super_epoch=1), train=own, slice=own, training=Training(lr=0.05, epochs=2))
    train(r, 2)
    assert all(math.isfinite(v) for v in r.strategy.current.values())
    assert sum(r.strategy.current.values()) == pytest.approx(1.0)
    assert r.strategy.current["a"] == pytest.approx(0.01)  # no loss, no gain
    batch = next(iter(own.batches()))
    here = batch.present[:, 1] if batch.present is not None else None
    found = gblend.branch_loss(Step(r, batch), r.forward(batch, mode="eval"), "b")
    logits = r.model.extra["gblend_b"](r.forward(batch, mode="eval").features["b"])
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits[here], batch.target[here]))


def test_losses_are_means_over_items_whatever_the_batches() -> None:
    present = torch.rand(20, 2, generator=torch.Generator().manual_seed(2)) < 0.5
    present[:, 1] |= ~present[:, 0]
    own = loader(n=20, present=present)  # batches of 8, 8 and 4
    r = run(GBlend(mode="fixed"), train=own)
    whole = replace(Batch(**data(n=20)), present=present)
    out = r.forward(whole, mode="eval")
    for i, m in enumerate("ab"):
        logits = r.model.extra[f"gblend_{m}"](out.features[m])[present[:, i]]
        loss = torch.nn.functional.cross_entropy(logits, whole.target[present[:, i]])
        assert float(gblend._mean_loss(r, m, r.train())) == pytest.approx(float(loss.detach()), abs=1e-6)
    joint = torch.nn.functional.cross_entropy(out.logits, whole.target)
    assert float(gblend._mean_loss(r, "fused", r.train())) == pytest.approx(float(joint.detach()), abs=1e-6)


def test_equal_weights_and_a_warning_where_an_estimate_fails() -> None:
    r = sliced(GBlend(formula="gap"))
    with torch.no_grad():
        for p in r.model.parameters():
            p.fill_(float("nan"))
    r.start_epoch()
    assert list(r.strategy.current.values()) == pytest.approx([1 / 3] * 3)
    assert ["equal ones were taken" in w for w in r.warnings] == [True]


def test_a_branch_of_items_that_all_lack_it_gives_a_loss_of_zero_and_no_nan() -> None:
    present = torch.ones(8, 2, dtype=torch.bool)
    present[:, 0] = False
    batch = replace(Batch(**data(n=8)), present=present)
    r = run(GBlend(mode="fixed"), train=[batch])

    def terms(strategy: Strategy) -> Terms:
        return strategy.losses(Step(r, batch), r.model(batch.inputs, batch.present), {"task": torch.ones(())})

    assert float(terms(r.strategy)["gblend/a"].detach()) == 0.0
    r.step(batch)
    assert all(bool(p.isfinite().all()) for p in r.model.parameters())

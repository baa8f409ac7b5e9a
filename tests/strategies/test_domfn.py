"""DOMFN: divergences, decisions and the items that are not fused."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from helpers.evidence_runs import rows
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmzoo.api import Batch, Run, Step
from mmzoo.evaluation.predictions import predict
from mmzoo.heads.separate import Separate
from mmzoo.strategies import domfn
from mmzoo.strategies.domfn import DOMFN
from mmzoo.testing.harness.observing import difference
from mmzoo.testing.harness.tasks import build_model, build_run, make_task, random_present

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=40)
SEEDS = st.integers(0, 10_000)
VIEWS, CLASSES = st.integers(1, 4), st.integers(2, 5)


# ---------------------------------------------------------------------- DOMFN
def predictions(seed: int, views: int, classes: int, items: int = 5) -> tuple[Tensor, Tensor]:
    return rows(seed, items, views, classes, scale=2.0), rows(seed + 1, items, classes, scale=2.0)


@pytest.mark.parametrize("squash", ["softmax", "sigmoid"])
@FIXED
@given(SEEDS, st.integers(2, 4), CLASSES, st.data())
def test_divergences(squash: Any, seed: int, views: int, classes: int, data: Any) -> None:
    own, joint = predictions(seed, views, classes)
    p = domfn.squashed(own, squash)
    d = domfn.divergences(p, domfn.mean_scores(p))
    assert bool((d > 0).all()) and bool((d <= ((views - 1) / views) ** 2 + 1e-12).all())
    if views == 2:
        assert torch.allclose(d[:, 0], d[:, 1])
    same = p[:, :1].expand_as(p)
    assert torch.allclose(domfn.divergences(same, domfn.mean_scores(same)), torch.zeros(5, views).double())
    order = data.draw(st.permutations(range(views)))
    moved = p[:, order]
    assert torch.allclose(domfn.divergences(moved, domfn.mean_scores(moved)), d[:, order])
    to_joint = domfn.divergences(p, domfn.squashed(joint, squash))
    assert bool((to_joint <= 1).all()) and not torch.allclose(to_joint, d)
    for i, m in itertools.product(range(5), range(views)):
        assert math.isclose(float(d[i, m]), max(float(x) ** 2 for x in p[i, m] - p[i].mean(0)), rel_tol=1e-12)


@FIXED
@given(SEEDS, st.integers(2, 4), CLASSES)
def test_decisions(seed: int, views: int, classes: int) -> None:
    own, joint = predictions(seed, views, classes)
    p, p_joint = own.softmax(-1), joint.softmax(-1)
    d = domfn.divergences(p, domfn.mean_scores(p))
    assert bool(domfn.agree(d, 1e9, 0.8).all()) and not bool(domfn.agree(d, 1e-9, 0.8).any())
    assert bool(domfn.agree(torch.zeros(2, views), 1e-9, 0.8).all())
    trusted = domfn.agree(d, float(d.amax(1).median()) / 0.8 + 1e-12, 0.8)
    assert 0 < int(trusted.sum()) < 5
    scores, whose = domfn.decision(p, p_joint, trusted)
    for i in range(5):
        confident = max(range(views), key=lambda m: float(p[i, m].max()))
        assert int(whose[i]) == (-1 if trusted[i] else confident)
        assert torch.equal(scores[i], p_joint[i] if trusted[i] else p[i, confident])
    tied = torch.tensor([[[0.2, 0.7, 0.1], [0.7, 0.1, 0.2]]])
    assert domfn.decision(tied, tied[:, 0], torch.tensor([False]))[1].tolist() == [0]
    sure_but_absent = torch.tensor([[[0.1, 0.9, 0.0], [0.5, 0.3, 0.2]]])
    scores, whose = domfn.decision(sure_but_absent, tied[:, 0], torch.tensor([False]), torch.tensor([[False, True]]))
    assert whose.tolist() == [1] and torch.equal(scores, sure_but_absent[:, 1])


def test_the_sigmoid_cross_entropy_cannot_reach_zero() -> None:
    logits, target = torch.tensor([[1e4, -1e4, -1e4]]), torch.tensor([0])
    assert math.isclose(float(domfn.cross_entropy(logits, target, "sigmoid")), math.log(1 + 2 / math.e), rel_tol=1e-6)
    assert float(domfn.cross_entropy(logits, target)) == 0.0


def test_the_amended_loss_has_a_bounded_slope() -> None:
    c = torch.tensor([0.0, 3.0, 20.0, 50.0, 1e30], requires_grad=True)
    value = domfn.amended(c, torch.ones(5), 0.5)
    assert value.tolist()[:4] == [-0.5, 4.0, 199.5, 20.0 * 40.0 - 0.5]
    (slope,) = torch.autograd.grad(value.sum(), c)
    assert slope.tolist() == [0.0, 3.0, 20.0, 20.0, 20.0]


def domfn_run(present: Tensor | None = None, seed: int = 0, modalities: int = 3, **params: Any) -> Run:
    task = make_task(modalities, dtype=torch.float64, seed=seed, batch_size=14)
    task = task if present is None else task.with_train(present=present)
    model = build_model(task, Separate)
    with torch.no_grad():
        for p in model.head.parameters():
            p.mul_(4.0)
    return build_run(task, DOMFN(**{"pretrain": 0, **params}), model)


def one_step(run: Run, batch: Batch) -> dict[str, Any]:
    """Gradients after one batch, by parameter."""
    run.start_epoch()
    step = Step(run, batch)
    out = run.strategy.outputs(step, run.model(batch.inputs, batch.present))
    terms = run.strategy.losses(step, out, {"task": out.logits.sum()})
    run.model.zero_grad()
    terms["task"].backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in run.model.named_parameters()}


@pytest.mark.parametrize("reference", ["mean", "joint"])
@pytest.mark.parametrize("fallback", ["ce", "amended"])
def test_an_item_that_is_not_fused_leaves_the_joint_classifier_alone(fallback: Any, reference: Any) -> None:
    run = domfn_run(tau=1e-6, fallback=fallback, reference=reference)
    grads = one_step(run, next(iter(run.train())))
    assert all(not bool(g.any()) for n, g in grads.items() if ".joint." in n or ".blocks." in n)
    assert all(bool(g.any()) for n, g in grads.items() if ".linear." in n)
    open_gate = domfn_run(tau=1e6, fallback=fallback, reference=reference)
    grads = one_step(open_gate, next(iter(open_gate.train())))
    assert all(bool(g.any()) for n, g in grads.items() if "head." in n)


@FIXED
@given(SEEDS, st.sampled_from(["ce", "amended"]))
def test_a_batch_is_the_mean_of_its_items(seed: int, fallback: Any) -> None:
    run = domfn_run(seed=seed, tau=0.1, fallback=fallback)
    batch = next(iter(run.train()))
    whole = one_step(run, batch)
    each = [one_step(run, batch.map(lambda t, i=i: t[i : i + 1])) for i in range(len(batch))]
    mean = {n: torch.stack([g[n] for g in each]).mean(0) for n in whole}
    assert difference(whole, mean, 1e-10) is None


@pytest.mark.parametrize("reference", ["mean", "joint"])
def test_an_absent_modality_takes_no_part(reference: Any) -> None:
    task = make_task(3, dtype=torch.float64)
    present = random_present(task, 3)
    run = domfn_run(present=present, tau=0.1, reference=reference)
    batch = task.with_train(present=present).batch()
    out = run.strategy.predict(run.model(batch.inputs, present))
    assert out.aux["decision"].unique().numel() > 2
    for i, here in enumerate(present.tolist()):
        there = [m for m, is_there in zip(task.modalities, here) if is_there]
        item = {m: batch.inputs[m][i : i + 1] for m in there}
        alone = run.strategy.predict(run.model.outputs({m: run.model.encoders[m](x) for m, x in item.items()}))
        assert torch.allclose(out.scores[i : i + 1], alone.scores)
        whose = int(alone.aux["decision"])
        assert int(out.aux["decision"][i]) == (-1 if whose < 0 else task.modalities.index(there[whose]))
        step = Step(run, Batch(batch.inputs, batch.target, batch.index, present).map(lambda t, i=i: t[i : i + 1]))
        whole = run.model(step.batch.inputs, step.batch.present)
        mine = run.strategy.losses(step, whole, {"task": whole.logits.sum()})["task"]
        fed = whole.replace(unimodal={m: whole.unimodal[m] for m in there})
        only = Step(run, Batch(item, step.batch.target, step.batch.index))
        theirs = run.strategy.losses(only, fed, {"task": whole.logits.sum()})["task"]
        assert torch.allclose(mine, theirs)


def test_predictions_follow_the_decision() -> None:
    run = domfn_run(tau=0.2)
    task = make_task(3, dtype=torch.float64)
    rows_ = predict(run.model, run.strategy, [task.batch("test")])
    out = run.strategy.predict(run.model.eval()(task.inputs["test"]))
    assert torch.equal(rows_.scores, out.ranking) and torch.equal(rows_.logits, out.logits)
    assert set(out.aux["decision"].tolist()) > {-1}


def test_while_pretraining_lasts_only_modalities_decide_and_are_watched() -> None:
    """The joint classifier is untrained then: neither its answers nor its loss may steer schedule and choice."""
    task = make_task(3, dtype=torch.float64)
    batch = task.batch("test")
    run = build_run(task, DOMFN(pretrain=1, tau=1e6), build_model(task, Separate), lr=0.2)
    run.train_epoch()
    out = run.strategy.predict(run.model.eval()(batch.inputs))
    assert bool((out.aux["decision"] >= 0).all()) and "loss/task" in run.end_epoch()
    own = torch.stack(list(run.model(batch.inputs).unimodal.values()), 1)
    assert torch.equal(out.logits, own[torch.arange(len(own)), out.aux["decision"]])
    assert torch.equal(out.ranking, out.logits.softmax(1))
    state = run.strategy.state_dict()
    run.train_epoch()
    after = run.strategy.predict(run.model.eval()(batch.inputs))
    assert bool((after.aux["decision"] == -1).all()) and torch.equal(after.logits, run.model(batch.inputs).logits)
    run.strategy.load_state_dict(state)  # the chosen epoch brings its rule along
    assert bool((run.strategy.predict(run.model(batch.inputs)).aux["decision"] >= 0).all())
    assert bool((DOMFN(tau=1e6).predict(run.model(batch.inputs)).aux["decision"] == -1).all())


@pytest.mark.parametrize(
    ("modalities", "params", "closes"),
    [
        (2, {"tau": 0.5}, False),
        (3, {"tau": 0.5}, True),
        (2, {}, True),
        (2, {"tau": 0.5, "reference": "joint"}, True),
        (2, {"tau": 2.0, "reference": "joint"}, False),
    ],
)
def test_a_gate_that_cannot_close_is_warned_of(modalities: int, params: dict[str, Any], closes: bool) -> None:
    task = make_task(modalities)
    warned = list(build_run(task, DOMFN(**params), build_model(task, Separate)).warnings)
    assert bool(warned) is not closes
    if not closes:
        assert (
            f"with {modalities} modalities no divergence exceeds" in warned[0] and "every sample is fused" in warned[0]
        )

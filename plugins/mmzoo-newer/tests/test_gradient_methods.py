"""DGL, ARL and MLB: contracts, recorded numbers, a training step in numpy, and what the formulas promise."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("mmzoo_newer", reason="mmzoo-newer is not installed")

from helpers.by_hand import Weights, cross_entropy, gradient, log_softmax
from helpers.steps_by_hand import features_of, task_loss, train_both, true_class_sum, unimodal_of
from mmzoo_newer import arl, mlb
from mmzoo_newer.arl import ARL, ARLMany
from mmzoo_newer.dgl import DGL
from mmzoo_newer.mlb import MLB
from newer_helpers import SEEDS, drawn, quick, started

from mmzoo.api import Batch, Incompatible, Run
from mmzoo.heads.concat import Concat
from mmzoo.heads.separate import Separate
from mmzoo.heads.sum import Sum
from mmzoo.testing import parametrize_with_checks
from mmzoo.testing.harness.tasks import CoupledConcat


@parametrize_with_checks(
    [
        DGL,
        lambda: ARL(start=0),
        lambda: ARL(start=1, modulation="constant"),
        lambda: ARLMany(start=0),
        MLB,
        lambda: MLB(most=10.0),
    ],
    draws=2,
)
def test_contract(check) -> None:  # type: ignore[no-untyped-def]
    check()


@parametrize_with_checks([MLB], head=partial(Separate, hidden=0), draws=2)
def test_contract_with_classifiers_of_their_own(check) -> None:  # type: ignore[no-untyped-def]
    check()


# ---------------------------------------------------------------------- DGL
def whole_bias(w: Weights, z: Weights) -> Weights:
    """The logits of one modality alone under the head concat."""
    return {m: z[m] @ w[f"head.weight.{m}"].T + w["head.bias"] for m in z}


def test_dgl_by_hand() -> None:
    def by_hand(w: Weights, batch: Batch, epoch: int, step: int, start: Weights) -> Weights:
        def own(u: Weights) -> Any:
            still = {name: w[name] if name.startswith("head.") else value for name, value in u.items()}
            parts = whole_bias(still, features_of(u, batch.inputs))
            return 3.0 * sum(cross_entropy(z, batch.target.numpy()) for z in parts.values())

        fused, single = gradient(lambda u: task_loss(u, batch), w), gradient(own, w)
        return {name: (fused if name.startswith("head.") else single)[name] for name in w}

    train_both(DGL(alpha=3.0), by_hand)


def gradients_of(run: Run) -> dict[str, torch.Tensor]:
    """The gradients of the first step, by parameter."""
    seen: dict[str, torch.Tensor] = {}
    inner = run.strategy.gradients

    def watched(step: Any, out: Any, grads: Any) -> None:
        seen.update({n: p.grad.clone() for n, p in run.model.named_parameters() if p.grad is not None})
        inner(step, out, grads)

    run.strategy.gradients = watched  # type: ignore[method-assign]
    run.start_epoch()
    run.step(next(iter(run.epoch_batches())))
    return seen


@quick
@given(st.floats(0.1, 10), st.sampled_from([1, 2, 3]))
def test_dgl_scales_encoders_with_alpha_and_leaves_the_head(alpha: float, modalities: int) -> None:
    once, more = (gradients_of(started(DGL(alpha=a), modalities)) for a in (1.0, alpha))
    for name, g in once.items():
        assert torch.allclose(more[name], g * (1.0 if name.startswith("head.") else alpha), atol=1e-12), name


def test_dgl_trains_each_encoder_as_if_it_were_alone() -> None:
    """Under the head sum the gradient of an encoder is that of its own classifier; features of others do not matter."""
    run = started(DGL(alpha=1.0), head=Sum)
    batch = next(iter(run.train()))
    expected = {}
    for m, encoder in run.model.encoders.items():
        z = encoder(batch.inputs[m])
        loss = torch.nn.functional.cross_entropy(run.model.head.linear[m](z), batch.target)  # type: ignore[index]
        for (name, _), g in zip(encoder.named_parameters(), torch.autograd.grad(loss, list(encoder.parameters()))):
            expected[f"encoders.{m}.{name}"] = g
    seen: dict[str, torch.Tensor] = {}

    def watched(step: Any, out: Any, grads: Any) -> None:
        seen.update({n: p.grad.clone() for n, p in run.model.encoders.named_parameters(prefix="encoders")})

    run.strategy.gradients = watched  # type: ignore[method-assign]
    run.start_epoch()
    run.step(batch)
    for name, g in expected.items():
        assert torch.allclose(seen[name], g, atol=1e-12), name


def test_dgl_refuses_a_head_without_a_boundary() -> None:
    with pytest.raises(Incompatible, match="acts inside the encoders"):
        started(DGL(), head=CoupledConcat)


# ---------------------------------------------------------------------- ARL
def test_arl_by_hand() -> None:
    gamma, temperature, floor = 2.0, 8.0, 0.3
    weights = []

    def by_hand(w: Weights, batch: Batch, epoch: int, step: int, start: Weights) -> Weights:
        y, warm = batch.target.numpy(), epoch < 1

        def loss(u: Weights) -> Any:
            parts = whole_bias(u, features_of(u, batch.inputs))
            own = sum(cross_entropy(z, y) for z in parts.values())
            return task_loss(u, batch) + (1.0 if warm else gamma) * own

        g = gradient(loss, w)
        if warm:
            return g
        own = whole_bias(w, features_of(w, batch.inputs))
        p = {m: np.exp(log_softmax(z)) for m, z in own.items()}
        entropy = np.array([-(x * np.log(x + 1e-16)).sum(1).mean() for x in p.values()])
        inverse = 1 / np.maximum(entropy / entropy.sum(), floor)
        inverse = inverse / inverse.sum()
        size = np.array([np.abs(z).mean(0).sum() for z in own.values()])
        e = np.exp(temperature * (size / size.sum())[::-1] * inverse)
        for m, share in zip(own, e / e.sum()):
            weights.append(share)
            for name in g:
                if name.startswith(f"encoders.{m}."):
                    g[name] = (1 + share) * g[name]
        return g

    train_both(ARL(gamma=gamma, temperature=temperature, start=1), by_hand)
    assert min(weights) < 0.45 and max(weights) > 0.55


@quick
@given(SEEDS, st.integers(2, 4), st.floats(0.1, 20))
def test_arl_weights_sum_to_one_and_follow_the_modalities(seed: int, m: int, temperature: float) -> None:
    own = drawn(seed, m, 6, 4)
    entropy, size = arl.entropies(own).mean(1), arl.shares(own.abs().mean(1).sum(1))
    inverse = arl.inverse_variances(entropy)
    w = arl.modulation(size, inverse, temperature)
    assert float(w.sum()) == pytest.approx(1.0)
    order = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(arl.modulation(size[order], inverse[order], temperature), w[order])
    if m == 2:
        ratio = float(inverse[0] / inverse[1])
        assert 3 / 10 - 1e-12 <= ratio <= 10 / 3 + 1e-12
    equal = torch.full((m,), 1 / m, dtype=torch.float64)
    assert torch.allclose(arl.modulation(equal, equal, temperature), equal)
    assert torch.allclose(arl.modulation(size, inverse, 1e-9), equal, atol=1e-6)
    grown = arl.shares(size + torch.eye(m, dtype=torch.float64)[1])
    assert float(arl.modulation(grown, equal, temperature)[1]) <= float(arl.modulation(size, equal, temperature)[1])


def test_arl_of_zeros_is_equal_shares() -> None:
    zeros = torch.zeros(2, dtype=torch.float64)
    assert arl.shares(zeros).tolist() == arl.inverse_variances(zeros).tolist() == [0.5, 0.5]


def test_arl_is_for_two_modalities_unless_asked() -> None:
    with pytest.raises(Incompatible, match="at most 2 modalities"):
        started(ARL(), 3)
    assert started(ARLMany(), 3).strategy.max_modalities is None


# ---------------------------------------------------------------------- MLB
@pytest.mark.parametrize("most", [2.0, 0.5, 10.0])
def test_mlb_by_hand(most: float) -> None:
    alpha, factors = 0.7, []

    def by_hand(w: Weights, batch: Batch, epoch: int, step: int, start: Weights) -> Weights:
        y = batch.target.numpy()

        def loss(u: Weights) -> Any:
            own = unimodal_of(u, features_of(u, batch.inputs))
            return task_loss(u, batch) + 0.5 * sum(cross_entropy(z, y) for z in own.values())

        g, own = gradient(loss, w), unimodal_of(w, features_of(w, batch.inputs))
        score = {m: true_class_sum(z, y) for m, z in own.items()}
        for m, other in (("a", "v"), ("v", "a")):
            r = score[other] / score[m]
            k = 1 + ((most if r > 1 else 2.0) - 1) * math.tanh(alpha * (r - 1))
            factors.append(k)
            for name in g:
                if name.startswith((f"encoders.{m}.", f"head.weight.{m}")):
                    g[name] = k * g[name]
        return g

    train_both(MLB(alpha=alpha, most=most, weight=0.5), by_hand)
    assert min(factors) < 0.99


@quick
@given(st.lists(st.floats(1e-3, 64), min_size=2, max_size=4), st.floats(0.1, 3), st.floats(1, 20))
def test_mlb_speeds_up_who_is_behind(scores: list[float], alpha: float, most: float) -> None:
    s = torch.tensor(scores, dtype=torch.float64)
    r = mlb.ratios(s)
    k = mlb.coefficients(r, alpha, most)
    assert torch.allclose(mlb.ratios(3.0 * s), r)
    assert bool((k >= min(1 - math.tanh(alpha), most) - 1e-12).all() and (k <= max(1.0, most) + 1e-12).all())
    assert bool((k[r <= 1] <= 1).all() and (k[r > 1] >= 1).all())
    order = r.argsort()
    assert bool((k[order].diff() >= -1e-12).all())
    equal = mlb.coefficients(mlb.ratios(torch.full_like(s, scores[0])), alpha, most)
    assert equal.tolist() == [1.0] * len(scores)
    if len(scores) == 2:
        assert float(r.prod()) == pytest.approx(1.0)


def test_mlb_scales_the_classifier_the_slice_and_the_encoder_and_no_more() -> None:
    """Beside a run without modulation: the factor reaches the groups of the modality, and not the shared bias."""
    head = partial(Separate, hidden=0)
    plain, scaled = (gradients_after(started(MLB(alpha=a), head=head)) for a in (0.0, 2.0))
    for m in ("audio", "image"):
        mine = [n for n in plain if f"encoders.{m}." in n or f"linear.{m}." in n or f"weight.{m}" in n]
        ratios = torch.cat([(scaled[n] / plain[n]).flatten() for n in mine])
        assert len(mine) > 3 and torch.allclose(ratios, ratios[0]) and abs(float(ratios[0]) - 1) > 1e-3
    assert torch.equal(plain["head.blocks.bias"], scaled["head.blocks.bias"])


def gradients_after(run: Run) -> dict[str, torch.Tensor]:
    """The gradients of the first step as the optimizer meets them."""
    run.start_epoch()
    run.step(next(iter(run.epoch_batches())))
    return {n: p.grad.clone() for n, p in run.model.named_parameters() if p.grad is not None}


def test_single_logits_under_a_sliced_head_hold_the_whole_bias() -> None:
    run = started(DGL(), head=Concat)
    from mmzoo.api import Step

    batch = next(iter(run.train()))
    feats = run.model.encode(batch.inputs)
    step = Step(run, batch)
    out = run.strategy.outputs(step, run.model.outputs(run.strategy.features(step, feats)))
    for m, z in feats.items():
        assert torch.allclose(out.unimodal[m], z @ run.model.head.weight[m].T + run.model.head.bias)  # type: ignore[index]

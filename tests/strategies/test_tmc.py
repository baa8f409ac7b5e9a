"""TMC: Dempster's rule by enumeration, and what the mathematics of its loss promises."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers.evidence_runs import batches, dempster, rows, run_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

from mmzoo.api import Step
from mmzoo.heads.evidential import Evidential, log_alpha, log_gain, log_uncertainty
from mmzoo.strategies.tmc import TMC, evidence_loss, kl_to_uniform

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=40)
SEEDS = st.integers(0, 10_000)
VIEWS, CLASSES = st.integers(1, 4), st.integers(2, 5)


# ---------------------------------------------------------------------- Dempster's rule
def by_focal_sets(evidence: Tensor) -> tuple[Any, float, float]:
    """(belief (C,), uncertainty, conflict) of one item by enumeration. evidence: (M, C).

    A view's mass lies on the single classes and on the whole frame; the mass of each choice of one set a view goes to
    their intersection, and what goes to the empty set is the conflict.
    """
    n = evidence.shape[1]
    frame = frozenset(range(n))
    sets = [frozenset({c}) for c in range(n)] + [frame]
    mass: dict[frozenset[int], float] = {}
    view = [np.append(e, n) / (e.sum() + n) for e in evidence.numpy()]
    for choice in itertools.product(range(n + 1), repeat=len(view)):
        meet = frozenset.intersection(*(sets[i] for i in choice))
        mass[meet] = mass.get(meet, 0.0) + math.prod(v[i] for v, i in zip(view, choice))
    conflict = mass.pop(frozenset(), 0.0)
    kept = sum(mass.values())
    return np.array([mass[frozenset({c})] for c in range(n)]) / kept, mass[frame] / kept, conflict


def evidence_of(seed: int, views: int, classes: int, items: int = 4) -> Tensor:
    """(M, B, C) evidence of very different sizes, some of it zero."""
    size = 10 ** (3 * torch.rand(views, items, 1, generator=torch.Generator().manual_seed(seed + 1)).double() - 1.5)
    return (rows(seed, views, items, classes) * size).clamp_min(0.0)


def head_on(evidence: Tensor, names: Sequence[str] | None = None) -> tuple[Evidential, dict[str, Tensor]]:
    """A head whose layers hand the evidence on, and its features."""
    views = dict(zip(names or [f"v{i}" for i in range(len(evidence))], evidence))
    head = Evidential({m: e.shape[1] for m, e in views.items()}, evidence.shape[2], evidence="relu").double()
    with torch.no_grad():
        for layer in head.linear.values():
            layer.weight.copy_(torch.eye(evidence.shape[2]))  # type: ignore[union-attr,operator]
            layer.bias.zero_()  # type: ignore[union-attr,operator]
    return head, views


@FIXED
@given(SEEDS, VIEWS, CLASSES)
def test_the_closed_form_is_dempsters_rule(seed: int, views: int, classes: int) -> None:
    evidence = evidence_of(seed, views, classes)
    head, features = head_on(evidence)
    with torch.no_grad():
        out = head(features)
    alpha, u = out.logits.exp(), out.aux["uncertainty"]
    for i in range(evidence.shape[1]):
        belief, uncertainty, conflict = by_focal_sets(evidence[:, i])
        np.testing.assert_allclose((alpha[i] - 1) / alpha[i].sum(), belief, rtol=0, atol=1e-12)
        np.testing.assert_allclose(out.scores[i], belief + uncertainty / classes, rtol=0, atol=1e-12)
        assert math.isclose(float(u[i]), uncertainty, rel_tol=1e-11)
        assert math.isclose(float(out.aux["conflict"][i]), conflict, abs_tol=1e-12)


@FIXED
@given(SEEDS, CLASSES, st.permutations(range(3)))
def test_order_and_grouping_of_views_do_not_matter_and_a_vacuous_one_is_neutral(
    seed: int, classes: int, order: list[int]
) -> None:
    evidence = evidence_of(seed, 3, classes)

    def fused(e: Tensor) -> Tensor:
        head, features = head_on(e)
        return head(features).logits.exp() - 1

    all_three = fused(evidence)
    tolerance = {"rtol": 1e-10, "atol": 1e-12}
    assert torch.allclose(all_three, fused(evidence[order]), **tolerance)
    pair = fused(evidence[:2])
    assert torch.allclose(all_three, fused(torch.stack([pair, evidence[2]])), **tolerance)
    assert torch.allclose(pair, fused(torch.stack([*evidence[:2], torch.zeros_like(pair)])), **tolerance)
    assert torch.allclose(evidence[0], fused(evidence[:1]), **tolerance)


@FIXED
@given(SEEDS, VIEWS, CLASSES)
def test_fused_opinions_are_at_least_as_certain_as_each(seed: int, views: int, classes: int) -> None:
    evidence = evidence_of(seed, views, classes)
    head, features = head_on(evidence)
    out = head(features)
    e, u = out.logits.exp() - 1, out.aux["uncertainty"]
    each = torch.stack([log_uncertainty(x).exp() for x in out.unimodal.values()])
    assert bool((u <= each.amin(0) * (1 + 1e-12)).all())
    assert bool((e >= evidence.amax(0) * (1 - 1e-12)).all())
    assert torch.allclose(out.scores.sum(1), torch.ones(4).double())
    assert torch.allclose((e / e.add(1).sum(1, keepdim=True)).sum(1) + u, torch.ones(4).double())
    assert bool(((out.aux["conflict"] >= 0) & (out.aux["conflict"] <= 1)).all())
    stronger = evidence[:, :, :1].abs() + 1.0  # views that agree on the first class
    head, features = head_on(torch.cat([stronger, evidence[:, :, 1:]], 2))
    agreed = head(features).logits[:, 0].exp()
    alone = torch.stack([x[:, 0].exp() for x in head(features).unimodal.values()]).amax(0)
    assert bool((agreed > alone).all()) if views > 1 else torch.allclose(agreed, alone)


@pytest.mark.parametrize("evidence", ["softplus", "relu", "exp"])
@FIXED
@given(SEEDS, CLASSES)
def test_gains_stand_for_the_evidence_that_they_are_named_after(evidence: Any, seed: int, classes: int) -> None:
    z = rows(seed, 5, classes, scale=4.0).requires_grad_()
    e = {"softplus": lambda x: (1 + x.exp()).log(), "relu": lambda x: x.clamp_min(0), "exp": torch.exp}[evidence](z)
    x = log_alpha(log_gain(z, evidence))
    assert torch.allclose(x.exp(), e + 1, rtol=1e-12)
    mine, plain = (torch.autograd.grad(value.sum(), z, retain_graph=True)[0] for value in (x, (e + 1).log()))
    assert torch.allclose(mine, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("evidence", ["softplus", "relu", "exp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_total_conflict_with_extreme_evidence_is_finite(evidence: Any, dtype: torch.dtype) -> None:
    """Views that are sure of different classes: 1 - conflict is zero in floating point, the published form NaN."""
    for size, views, batch in itertools.product((1e4, 1e6), (2, 4), (1, 3)):
        dims = {f"v{i}": 3 for i in range(views)}
        head = Evidential(dims, 3, evidence=evidence, pseudo=True).to(dtype)
        feats = {
            m: (size * torch.eye(3)[i % 3].repeat(batch, 1)).to(dtype).requires_grad_() for i, m in enumerate(dims)
        }
        with torch.no_grad():
            for layer in head.linear.values():
                layer.weight.copy_(torch.eye(3))  # type: ignore[union-attr,operator]
        out = head(feats)
        loss = evidence_loss(
            torch.stack([out.logits, *out.unimodal.values()]), torch.zeros(batch, dtype=torch.int64), 1.0
        )
        loss.sum().backward()
        assert bool(torch.isfinite(loss).all())
        assert all(bool(torch.isfinite(v).all()) for v in (out.logits, out.scores, *out.aux["own"].values()))
        assert all(z.grad is not None and bool(torch.isfinite(z.grad).all()) for z in feats.values())
        assert all(0 <= float(v.detach().min()) <= 1 for v in (out.aux["uncertainty"], out.aux["conflict"]))
    one, two = (torch.tensor(e, dtype=torch.float32) for e in ([1e9, 0.0, 0.0], [0.0, 1e9, 0.0]))
    with np.errstate(all="ignore"):
        assert not np.isfinite(dempster(one.numpy(), two.numpy())).all()


# ---------------------------------------------------------------------- the evidential loss
@FIXED
@given(SEEDS, CLASSES, st.floats(0.0, 6.0))
def test_kl_is_that_of_dirichlet_distributions(seed: int, classes: int, scale: float) -> None:
    x = rows(seed, 5, classes).abs() * scale
    value = kl_to_uniform(x)
    oracle = kl_divergence(Dirichlet(x.exp()), Dirichlet(torch.ones_like(x)))
    # The oracle subtracts log-gammas of the evidence, whose digits run out first.
    lost = 1e-15 * float(x.exp().max()) * float(x.max())
    assert torch.allclose(value, oracle, rtol=1e-9, atol=1e-9 + lost)
    assert bool((value >= -1e-12).all())
    assert torch.equal(kl_to_uniform(torch.zeros(2, classes)).abs() < 1e-6, torch.ones(2, dtype=torch.bool))
    assert bool((kl_to_uniform(x + 0.1) > 1e-4).all())


@pytest.mark.parametrize("alpha", [[1e4, 1.0, 3.0], [3e7, 2e7, 1.0], [33.0, 31.0, 32.0]])
def test_kl_in_float32_keeps_its_digits(alpha: list[float]) -> None:
    x = torch.tensor([alpha]).log()
    exact = kl_divergence(Dirichlet(x.double().exp()), Dirichlet(torch.ones(1, 3).double()))
    assert abs(float(kl_to_uniform(x)) - float(exact)) < 1e-5 * float(exact)


def test_gradient_of_the_loss_at_evidence_beyond_floating_point() -> None:
    """At alpha = e^300 the KL term grows by 2 a unit of log alpha, and falls by 1/2 for a smaller second class."""
    x = torch.tensor([[300.0, 200.0, 0.0]], requires_grad=True)
    (g,) = torch.autograd.grad(kl_to_uniform(x).sum(), x)
    assert torch.allclose(g, torch.tensor([[2.0, -0.5, -1.0]]), atol=1e-4)


@pytest.mark.parametrize("fit", ["log", "mse"])
def test_loss_without_evidence_and_with_evidence_for_the_truth(fit: Any) -> None:
    target = torch.tensor([0, 2])
    vacuous = evidence_loss(torch.zeros(2, 3, dtype=torch.float64), target, 1.0, fit)
    # digamma(3) - digamma(1) = 1 + 1/2; by squares 2/3 + (2/3)/4
    assert torch.allclose(vacuous, torch.full((2,), 1.5 if fit == "log" else 2 / 3 + 1 / 6).double())
    right = torch.nn.functional.one_hot(target, 3).double()
    losses = [evidence_loss(s * right, target, 1.0, fit) for s in (0.0, 1.0, 5.0, 50.0)]
    assert all(bool((b < a).all()) for a, b in itertools.pairwise(losses))
    assert bool((losses[-1] < 1e-9).all())
    unweighted, weighted = (evidence_loss(1.0 - right, target, w, fit) for w in (0.0, 1.0))
    assert bool((weighted > unweighted + 0.1).all())
    assert torch.equal(evidence_loss(right - 5.0, target, 1.0, fit), vacuous)  # what is below zero is no evidence


def test_the_regulariser_grows_with_the_epochs_and_not_with_the_steps() -> None:
    for strategy, expected in ((TMC(anneal=4), (0.25, 0.5, 0.75, 1.0, 1.0)), (TMC(anneal=2, first=0), (0.0, 0.5, 1.0))):
        run = run_of(strategy, ("a", "v"), Evidential)
        for weight in expected:
            run.train_epoch()
            assert run.end_epoch()["tmc/anneal"] == weight
        assert strategy.state_dict() == {}


def test_terms_are_the_opinions() -> None:
    run = run_of(TMC(), ("a", "v"), partial(Evidential, pseudo=True))
    step = Step(run, batches(("a", "v"))[0])
    out = run.model(step.batch.inputs)
    terms = run.strategy.losses(step, out, {"task": out.logits.sum(), "other/x": out.logits.sum()})
    assert list(terms) == ["task", "other/x", "tmc/a", "tmc/v", "tmc/pseudo"]
    step.keep = torch.tensor([True, False, True, False, False, False])
    kept = run.strategy.losses(step, out, {"task": out.logits.sum()})
    alone = evidence_loss(out.unimodal["v"][step.keep], step.target, 1 / 50).mean()
    assert torch.allclose(kept["tmc/v"], alone)


@pytest.mark.parametrize("pseudo", [False, True])
def test_an_absent_modality_is_a_view_less(pseudo: bool) -> None:
    dims = {"a": 3, "v": 4, "t": 2}
    head = Evidential(dims, 3, pseudo=pseudo).double()
    feats = {m: rows(i, 5, d).requires_grad_() for i, (m, d) in enumerate(dims.items())}
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 0]]).bool()
    out = head(feats, present)
    own = {m: log_gain(head.linear[m](z)) for m, z in feats.items()}
    for i, here in enumerate(present.tolist()):
        there = [m for m, is_there in zip(dims, here) if is_there]
        gain = sum((own[m][i] for m in there), torch.zeros(3).double())
        if pseudo and there:
            zeros = {m: z[i : i + 1] * (m in there) for m, z in feats.items()}
            assert head.pseudo is not None
            gain = gain + log_gain(head.pseudo.fuse(zeros, None)[0])[0]
        assert torch.allclose(out.logits[i], log_alpha(gain))
    evidence_loss(
        torch.stack([out.logits, *out.unimodal.values()]), torch.zeros(5, dtype=torch.int64), 1.0
    ).sum().backward()
    for column, z in enumerate(feats.values()):
        assert z.grad is not None
        assert torch.equal(z.grad.abs().sum(1) > 0, present[:, column])

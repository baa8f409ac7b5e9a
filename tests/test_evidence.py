"""TMC, ETMC and DOMFN: steps by hand in numpy, Dempster's rule by enumeration, and what their mathematics promises."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from test_values import Linear, Sgd, Weights, gradient, weights_of
from torch import Tensor
from torch.distributions import Dirichlet, kl_divergence

from mmzoo.api import Batch, Encoder, Incompatible, MultimodalModel, Run, Step, Strategy
from mmzoo.cli import main
from mmzoo.core.head import FusionHead
from mmzoo.evaluation.scores import predict
from mmzoo.heads.evidential import Evidential, log_alpha, log_gain, log_uncertainty
from mmzoo.heads.separate import Separate
from mmzoo.registry import BUILT_IN, built_in_path, read_entries
from mmzoo.strategies import domfn
from mmzoo.strategies.domfn import DOMFN
from mmzoo.strategies.tmc import TMC, evidence_loss, kl_to_uniform
from mmzoo.testing import check_strategy
from mmzoo.testing.harness.observing import difference, weights
from mmzoo.testing.harness.tasks import build_model, build_run, make_task, random_present, train
from mmzoo.training.config import Training

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=40)
SEEDS = st.integers(0, 10_000)
VIEWS, CLASSES = st.integers(1, 4), st.integers(2, 5)
N, C = 6, 3
IN = {"a": 3, "v": 2, "t": 2}
D = 3


def rows(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------------- whole steps, by hand
def batches(modalities: Sequence[str], n: int = 2) -> list[Batch]:
    found = []
    for i in range(n):
        target = torch.cat([torch.arange(C), torch.arange(N - C)])
        inputs = {m: rows(10 * i + IN[m], N, IN[m]) + 0.7 * target[:, None] / (j + 1) for j, m in enumerate(modalities)}
        found.append(Batch(inputs, target, torch.arange(N) + N * i))
    return found


def run_of(strategy: Strategy, modalities: Sequence[str], head: Callable[..., FusionHead]) -> Run:
    torch.manual_seed(0)
    encoders: dict[str, Encoder] = {m: Linear(IN[m], 3) for m in modalities}
    model = MultimodalModel(encoders, head({m: e.out_dim for m, e in encoders.items()}, C)).double()
    with torch.no_grad():  # large enough for the modalities to disagree
        for p in model.head.parameters():
            p.mul_(3.0)
    training = Training(optimizer="sgd", lr=0.2, momentum=0.9, weight_decay=0.03, epochs=3)
    return Run(model, strategy, train=batches(modalities), training=training, seed=5)


def train_both(
    run: Run,
    loss: Callable[[Weights, Batch, int], Any],
    epochs: Sequence[int],
    *,
    idle: str = "-",
    tolerance: float = 1e-11,
) -> None:
    """Compare the weights after each step with a numpy step along the exact gradient of `loss`.

    idle: a pattern of the parameters that have no part in it, which not even weight decay may move.
    """
    w, sgd = weights_of(run.model), Sgd()
    still = {n: value for n, value in w.items() if re.search(idle, n)}
    for epoch in epochs:
        run.epoch = epoch
        run.start_epoch()
        for batch in run.epoch_batches():
            run.step(batch)
            moving = {n: value for n, value in w.items() if n not in still}
            g = gradient(partial(lambda u, b, e: loss({**still, **u}, b, e), b=batch, e=epoch), moving)
            w = {**still, **sgd.step(moving, g)}
            for name, value in weights_of(run.model).items():
                np.testing.assert_allclose(value, w[name], rtol=0, atol=tolerance, err_msg=name)
        run.end_epoch()


def encoded(w: Weights, batch: Batch) -> dict[str, Any]:
    return {
        m: x.numpy() @ w[f"encoders.{m}.linear.weight"].T + w[f"encoders.{m}.linear.bias"]
        for m, x in batch.inputs.items()
    }


def own_of(w: Weights, z: Mapping[str, Any]) -> dict[str, Any]:
    return {m: z[m] @ w[f"head.linear.{m}.weight"].T + w[f"head.linear.{m}.bias"] for m in z}


def dempster(one: Any, two: Any) -> Any:
    """Evidence (C,) of two views by the rule as it is published: beliefs, uncertainties, and 1 - conflict below."""
    n = len(one)
    (b1, u1), (b2, u2) = ((e / (e.sum() + n), n / (e.sum() + n)) for e in (one, two))
    conflict = sum(b1[i] * b2[j] for i in range(n) for j in range(n) if i != j)
    b, u = (b1 * b2 + b1 * u2 + b2 * u1) / (1 - conflict), u1 * u2 / (1 - conflict)
    return b * (n / u)


def opinion_loss(e: Any, y: int, weight: float, fit: str) -> Any:
    """The loss of one opinion, by its evidence (C,)."""
    a = e + 1
    s, label = a.sum(), np.eye(len(e))[y]
    if fit == "log":
        value = special.psi(s) - special.psi(a[y])
    else:
        value = ((label - a / s) ** 2).sum() + (a * (s - a) / (s * s * (s + 1))).sum()
    a = label + (1 - label) * a
    s = a.sum()
    kl = special.loggamma(s) - special.loggamma(a).sum() - math.lgamma(len(a))
    return value + weight * (kl + ((a - 1) * (special.psi(a) - special.psi(s))).sum())


@pytest.mark.parametrize("modalities", [("a", "v"), ("a", "v", "t")], ids=len)
@pytest.mark.parametrize(("pseudo", "first", "fit"), [(False, 1, "log"), (True, 0, "log"), (True, 1, "mse")])
def test_tmc(pseudo: bool, first: int, fit: Any, modalities: tuple[str, ...]) -> None:
    def loss(w: Weights, batch: Batch, epoch: int) -> Any:
        z = encoded(w, batch)
        logits = list(own_of(w, z).values())
        if pseudo:
            logits.append(sum(z[m] @ w[f"head.pseudo.weight.{m}"].T for m in z) + w["head.pseudo.bias"])
        views, weight, total = [np.log(1 + np.exp(x)) for x in logits], min(1.0, (epoch + first) / 2), 0.0
        for i, y in enumerate(batch.target.tolist()):
            fused = views[0][i]
            for other in views[1:]:
                fused = dempster(fused, other[i])
            total = total + sum(opinion_loss(e, y, weight, fit) for e in [*(v[i] for v in views), fused])
        return total / N

    run = run_of(TMC(anneal=2, first=first, fit=fit), modalities, partial(Evidential, pseudo=pseudo))
    train_both(run, loss, range(3), tolerance=1e-8)  # torch's trigamma is good for nine digits


def log_softmax(x: Any) -> Any:
    return x - np.log(np.exp(x).sum())


def frozen(x: Any) -> Any:
    """The value alone: what a complex step has moved is gone."""
    return x.real


@pytest.mark.parametrize("modalities", [("a", "v"), ("a", "v", "t")], ids=len)
@pytest.mark.parametrize(
    ("squash", "reference", "fallback", "tau"),
    [
        ("softmax", "mean", "ce", 0.12),
        ("sigmoid", "mean", "ce", 0.1),
        ("sigmoid", "joint", "amended", 0.22),
        ("softmax", "mean", "amended", 0.12),
    ],
)
def test_domfn(squash: Any, reference: Any, fallback: Any, tau: float, modalities: tuple[str, ...]) -> None:
    eta, gamma, trusted = 0.7, 0.9, []

    def score(x: Any) -> Any:
        return np.exp(log_softmax(x)) if squash == "softmax" else 1 / (1 + np.exp(-x))

    def ce(x: Any, y: int) -> Any:
        return -log_softmax(x if squash == "softmax" else score(x))[y]

    def largest(x: Any) -> Any:
        return x[np.argmax(x.real)]

    def item(own: Sequence[Any], joint: Any, y: int) -> Any:
        p, c = [score(x) for x in own], [ce(x, y) for x in own]
        r = sum(p) / len(p) if reference == "mean" else score(joint)
        d = [largest((q - r) ** 2) for q in p]
        together = all(x.real / tau < gamma for x in d)
        trusted.append(together)
        if together:
            return sum(x * x / 2 - eta * far + x for x, far in zip(c, d)) + ce(joint, y)
        if fallback == "ce":
            return sum(c)
        total = 0.0
        for k, q in enumerate(p):
            others = [frozen(x) if j != k else x for j, x in enumerate(p)]
            r = sum(others) / len(p) if reference == "mean" else frozen(score(joint))
            total = total + c[k] * c[k] / 2 - eta * largest((q - r) ** 2)
        return total

    def loss(w: Weights, batch: Batch, epoch: int) -> Any:
        z = encoded(w, batch)
        own, y = own_of(w, z), batch.target.tolist()
        if epoch == 0:
            return sum(ce(own[m][i], y[i]) for m in z for i in range(N)) / N
        hidden = sum(z[m] @ w[f"head.blocks.weight.{m}"].T for m in z) + w["head.blocks.bias"]
        joint = (hidden * (hidden.real > 0)) @ w["head.joint.1.weight"].T + w["head.joint.1.bias"]
        return sum(item([own[m][i] for m in z], joint[i], y[i]) for i in range(N)) / N

    strategy = DOMFN(eta=eta, gamma=gamma, tau=tau, pretrain=1, squash=squash, reference=reference, fallback=fallback)
    run = run_of(strategy, modalities, partial(Separate, hidden=4))
    train_both(run, loss, [0], idle="joint|blocks")
    train_both(run_of(strategy, modalities, partial(Separate, hidden=4)), loss, [1, 2])
    assert any(trusted) and not all(trusted)


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
        assert f"with {modalities} modalities no divergence exceeds" in warned[0] and "every item is fused" in warned[0]


# ---------------------------------------------------------------------- heads, contract, catalogue
@pytest.mark.parametrize("join", ["concat", "mean", "max"])
@pytest.mark.parametrize("hidden", [0, 5])
def test_separate_by_hand(join: Any, hidden: int) -> None:
    dims = {"a": 4, "v": 4, "t": 4}
    head = Separate(dims, 3, join=join, hidden=hidden).double()
    feats = {m: rows(i, 2, 4) for i, m in enumerate(dims)}
    present = torch.tensor([[True, False, True], [True, True, True]])
    out, w = head(feats, present), {n: p.detach().numpy() for n, p in head.named_parameters()}
    for i, here in enumerate(present.tolist()):
        z = {m: feats[m][i].numpy() * is_there for (m, is_there) in zip(dims, here)}
        there = np.stack([z[m] for m, is_there in zip(dims, here) if is_there])
        if join == "concat":
            x = sum(w[f"blocks.weight.{m}"] @ z[m] for m in dims) + w["blocks.bias"]
        else:
            x = w["joint.0.weight"] @ (there.mean(0) if join == "mean" else there.max(0)) + w["joint.0.bias"]
        if hidden:
            last = "joint.1" if join == "concat" else "joint.2"
            x = w[f"{last}.weight"] @ np.maximum(x, 0) + w[f"{last}.bias"]
        np.testing.assert_allclose(out.logits[i].detach(), x, atol=1e-12)
        np.testing.assert_allclose(out.unimodal["t"][i].detach(), w["linear.t.weight"] @ z["t"] + w["linear.t.bias"])


def test_what_the_heads_refuse() -> None:
    with pytest.raises(Incompatible, match="Rename the modality, or take pseudo=false"):
        Evidential({"a": 3, "pseudo": 3}, 2, pseudo=True)
    assert Evidential({"a": 3, "pseudo": 3}, 2).modalities == ("a", "pseudo")
    with pytest.raises(Incompatible, match="join=max needs features of one width"):
        Separate({"a": 3, "v": 4}, 2, join="max")


def test_tmc_without_opinions_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Incompatible, match="Use head evidential"):
        run_of(TMC(), ("a", "v"), Separate)
    assert main(["bench", "--method", "tmc@concat", "--plan"]) != 0
    printed = capsys.readouterr()
    assert (
        "needs a head that gives opinions (logits that are log alpha); head concat does not"
        in printed.out + printed.err
    )


CHECKS = (
    "check_purity",
    "check_terms",
    "check_modality_order",
    "check_sample_order",
    "check_micro_batches",
    "check_batch_of_one",
    "check_missing_classes",
    "check_zero_inputs",
    "check_large_logits",
    "check_absent_modalities",
    "check_alternating_company",
    "check_prediction",
    "check_company",
    "check_no_waiting",
)


@pytest.mark.parametrize(
    ("strategy", "head"),
    [
        (DOMFN(pretrain=0), Separate),
        (DOMFN(pretrain=0, tau=0.005), None),
        (DOMFN(pretrain=0, squash="sigmoid", tau=0.01, reference="joint", fallback="amended"), Separate),
        (DOMFN(pretrain=0, tau=0.005, fallback="amended"), partial(Separate, join="max", hidden=0)),
        (TMC(anneal=1, fit="mse"), None),
        (TMC(anneal=1), partial(Evidential, evidence="exp", pseudo=True)),
    ],
)
def test_contract_beyond_the_defaults(strategy: Strategy, head: Any) -> None:
    """The first epochs of DOMFN are all that the usual checks get to see."""
    check_strategy(strategy, head=head, draws=2, only=CHECKS)


def test_heads_say_in_the_catalogue_whether_they_are_evidential() -> None:
    for entry in read_entries(built_in_path(), BUILT_IN):
        if entry.kind == "heads":
            assert entry.extra.get("evidential", False) == entry.load().evidential, entry.name


def test_four_views_train_through_the_whole_loop() -> None:
    task = make_task(4)
    run = build_run(task, TMC(anneal=2), build_model(task, partial(Evidential, pseudo=True)))
    before = weights(run.model)
    first, last = train(run, 1), train(run, 25)
    assert last["loss/tmc/audio"] < 0.7 * first["loss/tmc/audio"]
    assert difference(before, weights(run.model)) is not None

"""Training steps against numpy written from the formulas, and what the methods' mathematics promises."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from by_hand import Linear, Sgd, Weights, assert_same, cross_entropy, encode, gradient, log_softmax, weights_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmzoo import Batch, MultimodalModel, Run, Strategy
from mmzoo.bilevel.implicit import (
    conjugate_gradients,
    gauss_newton_operator,
    hessian_operator,
    hypergradient,
    minres,
    neumann,
)
from mmzoo.core.seeding import stream
from mmzoo.functional import cosine_similarities, info_nce, jensen_shannon, kl_to_mean
from mmzoo.heads.concat import Concat
from mmzoo.heads.weight import Weight
from mmzoo.strategies import ogm, pmr
from mmzoo.strategies.dynamic_gap import DynamicGap, heuristic, stepwise
from mmzoo.strategies.ogm import OGM
from mmzoo.strategies.pmr import PMR
from mmzoo.testing.replay.harness import terms_of
from mmzoo.training.config import Training

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=40)
SEEDS = st.integers(0, 10_000)
N, D, C = 7, 3, 4
IN = {"a": 5, "v": 2}


# ---------------------------------------------------------------------- whole steps, by hand
def batches(seed: int = 3, widths: Mapping[str, int] = IN) -> list[Batch]:
    g = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(2):
        inputs = {m: torch.randn(N, d, generator=g, dtype=torch.float64) for m, d in widths.items()}
        target = torch.cat([torch.arange(C), torch.randint(C, (N - C,), generator=g)])
        rows.append(Batch(inputs, target, torch.arange(N) + N * i))
    return rows


def run_of(strategy: Strategy) -> Run:
    torch.manual_seed(0)
    model = MultimodalModel({m: Linear(d, D) for m, d in IN.items()}, Concat(dict.fromkeys(IN, D), C)).double()
    training = Training(optimizer="sgd", lr=0.2, momentum=0.9, weight_decay=0.03, epochs=3)
    return Run(model, strategy, train=batches(), training=training, seed=5)


def features_of(w: Weights, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    return {m: encode(w, m, x) for m, x in inputs.items()}


def unimodal_of(w: Weights, z: Mapping[str, Any]) -> dict[str, Any]:
    return {m: z[m] @ w[f"head.weight.{m}"].T + w["head.bias"] / 2 for m in z}


def task_loss(w: Weights, batch: Batch) -> Any:
    parts = unimodal_of(w, features_of(w, batch.inputs))
    return cross_entropy(parts["a"] + parts["v"], batch.target.numpy())


def true_class_sum(z: Any, y: Any) -> float:
    return float(np.exp(log_softmax(z))[np.arange(len(y)), y].sum())


def train_both(
    strategy: Strategy, by_hand: Callable[[Weights, Batch, int, int, Weights], Weights], epochs: int = 2
) -> None:
    """Compare the weights after each step. by_hand: (w, batch, epoch, step, w at epoch start) -> gradient."""
    run, sgd, step = run_of(strategy), Sgd(), 0
    w = weights_of(run.model)
    for epoch in range(epochs):
        run.start_epoch()
        at_start = w
        for batch in run.epoch_batches():
            run.step(batch)
            w = sgd.step(w, by_hand(w, batch, epoch, step, at_start))
            step += 1
            assert_same(run.model, w)
        run.end_epoch()


def test_plain_training() -> None:
    train_both(Strategy(), lambda w, batch, epoch, step, start: gradient(lambda u: task_loss(u, batch), w))


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("form", ["conference", "journal"])
def test_ogm(form: Any, noise: bool) -> None:
    alpha, modulated = 0.6, []

    def by_hand(w: Weights, batch: Batch, epoch: int, step: int, start: Weights) -> Weights:
        g, y = gradient(lambda u: task_loss(u, batch), w), batch.target.numpy()
        own = unimodal_of(w, features_of(w, batch.inputs))
        score = {m: true_class_sum(z, y) for m, z in own.items()}
        for m, other in (("a", "v"), ("v", "a")):
            rho, key = score[m] / score[other], f"encoders.{m}.linear.weight"
            ahead = 1 - math.tanh(alpha * rho) if form == "conference" else 1 - alpha * math.tanh(rho - 1)
            k = ahead if rho > 1 else 1.0
            modulated.append(k < 1)
            sigma = g[key].std(ddof=1) + 1e-8
            draws = torch.randn(
                g[key].shape, generator=stream(5, "step", f"ogm/{m}", step, "joint"), dtype=torch.float64
            )
            g[key] = k * g[key] + (sigma * draws.numpy() if noise else 0.0)
        return g

    train_both(OGM(alpha=alpha, form=form, noise=noise), by_hand)
    assert sum(modulated) * 2 == len(modulated)


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_pmr(variant: Any) -> None:
    alpha, mu, momentum = 1.5, 0.1, 0.3
    kept: dict[int, dict[str, Any]] = {}

    def prototypes(epoch: int, start: Weights) -> dict[str, Any]:
        if epoch in kept:
            return kept[epoch]
        data = batches()
        y = np.concatenate([b.target.numpy() for b in data])
        z = {m: np.concatenate([features_of(start, b.inputs)[m] for b in data]) for m in IN}
        fresh = {m: np.stack([z[m][y == c].mean(0) for c in range(C)]) for m in IN}
        if epoch > (0 if variant == "paper" else 1):
            fresh = {m: momentum * kept[epoch - 1][m] + (1 - momentum) * fresh[m] for m in IN}
        kept[epoch] = fresh
        return fresh

    def by_hand(w: Weights, batch: Batch, epoch: int, step: int, start: Weights) -> Weights:
        proto, y = prototypes(epoch, start), batch.target.numpy()

        def near(u: Weights) -> dict[str, Any]:
            z = features_of(u, batch.inputs)
            return {m: -np.sqrt(((z[m][:, None] - proto[m][None]) ** 2).sum(-1)) for m in IN}

        score = {m: true_class_sum(d, y) for m, d in near(w).items()}
        rho = score["a"] / score["v"]
        if variant == "paper":
            beta = min(1.0, 1 / rho - 1) if rho < 1 else 0.0
            gamma = min(1.0, rho - 1) if rho >= 1 else 0.0
        else:
            beta, gamma = float(rho < 1), float(rho > 1)

        def loss(u: Weights) -> Any:
            d = near(u)
            total = task_loss(u, batch) + alpha * beta * cross_entropy(d["a"], y)
            total += alpha * gamma * cross_entropy(d["v"], y)
            if variant == "paper" and epoch < 1:
                h = {m: -(np.exp(log_softmax(d[m])) * log_softmax(d[m])).sum(1).mean() for m in IN}
                total -= mu * gamma * h["a"] + mu * beta * h["v"]
            return total

        return gradient(loss, w)

    strategy = PMR(alpha=alpha, mu=mu, momentum=momentum, entropy_epochs=1, fraction=1.0, variant=variant)
    train_both(strategy, by_hand, epochs=3)


@pytest.mark.parametrize("schedule", ["constant", "heuristic", "stepwise"])
def test_dynamic_gap(schedule: Any) -> None:
    tau, p = 0.4, 0.3

    def by_hand(w: Weights, batch: Batch, epoch: int, step: int, start: Weights) -> Weights:
        alpha = {"constant": p, "heuristic": 1 - math.exp(-1 / (epoch + 1)), "stepwise": (p, p, 1 - p)[epoch]}

        def loss(u: Weights) -> Any:
            z = features_of(u, batch.inputs)
            one, two = (z[m] / np.sqrt((z[m] ** 2).sum(1, keepdims=True)) for m in IN)
            s, match = one @ two.T / tau, np.arange(N)
            pairs = 0.5 * (cross_entropy(s, match) + cross_entropy(s.T, match))
            return (1 - alpha[schedule]) * task_loss(u, batch) + alpha[schedule] * pairs

        return gradient(loss, w)

    train_both(DynamicGap(schedule=schedule, alpha=p, temperature=tau), by_hand, epochs=3)


# ---------------------------------------------------------------------- OGM
SCORES = st.lists(st.integers(8, 80).map(lambda n: n / 16), min_size=2, max_size=4)
FORMS = st.sampled_from(["conference", "journal"])
ALPHAS = st.floats(0.0, 1.0)


def off_the_jump(scores: Tensor) -> bool:
    """No modality lies so close to rho = 1 that rounding decides on which side it is."""
    rho = ogm.ratios(scores)
    return bool(((rho - 1).abs() > 1e-9).all()) or len(set(scores.tolist())) == 1


@FIXED
@given(SCORES, ALPHAS, FORMS)
def test_ogm_factors_lie_in_0_1_and_spare_those_behind(drawn: list[float], alpha: float, form: Any) -> None:
    scores = torch.tensor(drawn, dtype=torch.float64)
    k = ogm.coefficients(scores, alpha, form)
    assert bool(((k > 0) & (k <= 1)).all())
    assert bool((k[ogm.ratios(scores) <= 1] == 1).all())
    if len(drawn) == 2:
        assert int((k < 1).sum()) <= 1


@FIXED
@given(SCORES, ALPHAS, FORMS, st.floats(1e-3, 1e3), st.randoms(use_true_random=False))
def test_ogm_factors_ignore_scale_and_follow_a_permutation(
    drawn: list[float], alpha: float, form: Any, scale: float, random: Any
) -> None:
    scores = torch.tensor(drawn, dtype=torch.float64)
    assume(off_the_jump(scores))
    k = ogm.coefficients(scores, alpha, form)
    torch.testing.assert_close(ogm.coefficients(scale * scores, alpha, form), k, rtol=0, atol=1e-12)
    order = random.sample(range(len(drawn)), len(drawn))
    torch.testing.assert_close(ogm.coefficients(scores[order], alpha, form), k[order], rtol=0, atol=1e-12)


@FIXED
@given(SCORES, ALPHAS, ALPHAS, FORMS)
def test_ogm_factors_fall_with_alpha(drawn: list[float], one: float, two: float, form: Any) -> None:
    scores = torch.tensor(drawn, dtype=torch.float64)
    low, high = (ogm.coefficients(scores, alpha, form) for alpha in sorted((one, two)))
    assert bool((high <= low).all())


@FIXED
@given(st.floats(1e-300, 1e3), st.integers(2, 4), ALPHAS, FORMS)
def test_ogm_leaves_everyone_alone_at_a_tie(score: float, n: int, alpha: float, form: Any) -> None:
    k = ogm.coefficients(torch.full((n,), score, dtype=torch.float64), alpha, form)
    assert k.tolist() == [1.0] * n


def test_ogm_survives_scores_of_zero_and_a_single_entry() -> None:
    zero = torch.zeros(2, dtype=torch.float64)
    assert ogm.coefficients(zero, 0.3).tolist() == [1.0, 1.0]
    assert ogm.coefficients(torch.tensor([0.0, 1.0], dtype=torch.float64), 0.3).tolist() == [1.0, 0.0]
    one = torch.full((1, 1, 1, 1), 2.0, dtype=torch.float64)
    assert float(ogm.with_noise(one, 0.5, torch.ones_like(one))) == 1.0


def test_ogm_noise_has_the_mean_and_the_deviation_it_claims() -> None:
    g = torch.Generator().manual_seed(0)
    grad = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
    noise = torch.randn(20_000, 3, generator=g, dtype=torch.float64)
    found = torch.stack([ogm.with_noise(grad, 0.25, row) for row in noise])
    torch.testing.assert_close(found.mean(0), 0.25 * grad, rtol=0, atol=0.1)
    torch.testing.assert_close(found.std(0), grad.std().expand(3), rtol=0.03, atol=0)


# ---------------------------------------------------------------------- PMR
def pmr_case(seed: int, n_modalities: int = 2) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
    """Features, prototypes, targets and joint logits."""
    g = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=g, dtype=torch.float64)
    names = "avt"[:n_modalities]
    target = torch.randint(C, (N,), generator=g)
    return {m: draw(N, D) for m in names}, {m: draw(C, D) for m in names}, target, draw(N, C)


def pmr_terms(
    features: Mapping[str, Tensor],
    prototypes: Mapping[str, Tensor],
    target: Tensor,
    logits: Tensor,
    seen: Tensor | None = None,
    variant: Any = "paper",
) -> dict[str, Tensor]:
    known = torch.ones(C, dtype=torch.bool) if seen is None else seen
    return terms_of(
        PMR(alpha=0.7, mu=0.2, variant=variant),
        features,
        logits,
        target,
        prototypes=dict(prototypes),
        seen=dict.fromkeys(prototypes, known),
    )


@FIXED
@given(st.floats(0.05, 20.0))
def test_pmr_only_one_modality_is_pulled_and_the_rule_is_symmetric(rho: float) -> None:
    beta, gamma = pmr.coefficients(torch.tensor([rho, 1.0], dtype=torch.float64)).tolist()
    mirrored = pmr.coefficients(torch.tensor([1.0 / rho, 1.0], dtype=torch.float64)).tolist()
    assert beta * gamma == 0 and 0 <= beta <= 1 and 0 <= gamma <= 1
    assert mirrored == pytest.approx([gamma, beta], abs=1e-12)
    assert beta == pytest.approx(min(max(1 / rho - 1, 0), 1), abs=1e-12)
    assert gamma == pytest.approx(min(max(rho - 1, 0), 1), abs=1e-12)


@FIXED
@given(SEEDS, st.integers(2, 3), st.sampled_from(["paper", "code"]))
def test_pmr_ignores_a_common_translation_and_rotation(seed: int, n: int, variant: Any) -> None:
    features, prototypes, target, logits = pmr_case(seed, n)
    g = torch.Generator().manual_seed(seed + 1)
    turn = torch.linalg.qr(torch.randn(D, D, generator=g, dtype=torch.float64)).Q
    shift = torch.randn(D, generator=g, dtype=torch.float64)
    before = pmr_terms(features, prototypes, target, logits, variant=variant)
    moved = [{m: z @ turn + shift for m, z in side.items()} for side in (features, prototypes)]
    after = pmr_terms(moved[0], moved[1], target, logits, variant=variant)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-10)


@FIXED
@given(SEEDS, st.integers(2, 3))
def test_pmr_reaches_only_the_modality_behind(seed: int, n: int) -> None:
    features, prototypes, target, logits = pmr_case(seed, n)
    for z in features.values():
        z.requires_grad_()
    terms = pmr_terms(features, prototypes, target, logits)
    leaves = list(features.values())
    for m in features:
        grads = torch.autograd.grad(terms[f"pmr/{m}"], leaves, retain_graph=True, allow_unused=True)
        assert all(g is None for other, g in zip(features, grads) if other != m)
    assert any(float(terms[f"pmr/{m}"].detach()) == 0.0 for m in features)


@FIXED
@given(SEEDS, st.integers(0, C - 1))
def test_pmr_has_no_nan_for_an_absent_class_or_at_distance_zero(seed: int, absent: int) -> None:
    features, prototypes, target, logits = pmr_case(seed)
    seen = torch.arange(C) != absent
    for m, z in features.items():
        prototypes[m][absent] = 0.0
        z[:2] = prototypes[m][target[:2]]
        z.requires_grad_()
    terms = pmr_terms(features, prototypes, target, logits, seen)
    total = sum(terms.values())
    grads = torch.autograd.grad(total, list(features.values()))  # type: ignore[arg-type]
    assert bool(torch.isfinite(total)) and all(bool(g.isfinite().all()) for g in grads)


def test_pmr_keeps_the_prototype_of_a_class_that_stops_occurring() -> None:
    strategy = PMR(momentum=0.5)
    old, new = torch.ones(2, 1, dtype=torch.float64), torch.tensor([[3.0], [0.0]], dtype=torch.float64)
    strategy._absorb("a", old, torch.tensor([True, False]))
    strategy._absorb("a", new, torch.tensor([True, False]))
    assert strategy.prototypes["a"][0].item() == 2.0 and strategy.seen["a"].tolist() == [True, False]
    strategy._absorb("a", torch.tensor([[0.0], [7.0]], dtype=torch.float64), torch.tensor([False, True]))
    assert strategy.prototypes["a"].flatten().tolist() == [2.0, 7.0]
    assert strategy.seen["a"].tolist() == [True, True]


# ---------------------------------------------------------------------- dynamic gap
def modality_features(seed: int, n: int = 5, modalities: int = 2) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {m: torch.randn(n, D, generator=g, dtype=torch.float64) for m in "avt"[:modalities]}


@FIXED
@given(SEEDS, st.integers(1, 6), st.integers(2, 3), st.floats(0.05, 2.0))
def test_info_nce_is_not_negative_symmetric_and_blind_to_length_and_order(
    seed: int, n: int, modalities: int, tau: float
) -> None:
    z = modality_features(seed, n, modalities)
    g = torch.Generator().manual_seed(seed)
    value = float(info_nce(cosine_similarities(z, tau)))
    assert value >= 0
    swapped = dict(reversed(z.items()))
    assert float(info_nce(cosine_similarities(swapped, tau))) == pytest.approx(value, abs=1e-12)
    longer = {m: x * (0.1 + 9 * torch.rand(n, 1, generator=g, dtype=torch.float64)) for m, x in z.items()}
    assert float(info_nce(cosine_similarities(longer, tau))) == pytest.approx(value, abs=1e-10)
    order = torch.randperm(n, generator=g)
    moved = {m: x[order] for m, x in z.items()}
    assert float(info_nce(cosine_similarities(moved, tau))) == pytest.approx(value, abs=1e-12)


@FIXED
@given(st.integers(2, 8), st.integers(2, 3), st.floats(0.05, 2.0))
def test_info_nce_is_log_n_when_nothing_can_be_told_apart(n: int, modalities: int, tau: float) -> None:
    same = {m: torch.ones(n, D, dtype=torch.float64) for m in "avt"[:modalities]}
    assert float(info_nce(cosine_similarities(same, tau))) == pytest.approx(math.log(n), abs=1e-12)


@FIXED
@given(SEEDS, st.integers(2, 3), st.floats(0.1, 30.0))
def test_alignments_are_zero_for_equal_predictions_and_js_is_bounded(seed: int, n: int, size: float) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = [size * torch.randn(N, C, generator=g, dtype=torch.float64) for _ in range(n)]
    equal = [logits[0]] * n
    for divergence in (kl_to_mean, jensen_shannon):
        assert divergence(logits).shape == (N,)
        assert float(divergence(equal).abs().max()) == pytest.approx(0, abs=1e-12)
        assert float(divergence(logits).min()) >= -1e-12
    assert float(jensen_shannon(logits).max()) <= math.log(n) + 1e-12


@FIXED
@given(st.integers(1, 10_000))
def test_heuristic_alpha_falls_from_1_minus_1_over_e_like_1_over_t(t: int) -> None:
    assert 0 < heuristic(t + 1) < heuristic(t) <= heuristic(1) == 1 - math.exp(-1)
    assert 1 - 1 / (2 * t) <= heuristic(t) * t < 1


@FIXED
@given(st.floats(0, 1), st.integers(1, 50), st.data())
def test_stepwise_alphas_of_p_and_1_minus_p_add_up_to_one(p: float, n_epochs: int, data: st.DataObject) -> None:
    epoch = data.draw(st.integers(0, n_epochs - 1))
    assert stepwise(p, epoch, n_epochs) + stepwise(1 - p, epoch, n_epochs) == pytest.approx(1, abs=1e-12)
    assert stepwise(p, epoch, n_epochs) == (p if 2 * epoch < n_epochs else 1 - p)


# ---------------------------------------------------------------------- second order
def symmetric(seed: int, n: int, eigenvalues: Callable[[np.random.Generator], Any]) -> Tensor:
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    a = q @ np.diag(eigenvalues(rng)) @ q.T
    return torch.tensor((a + a.T) / 2)


def positive(seed: int, n: int) -> Tensor:
    return symmetric(seed, n, lambda rng: rng.uniform(0.3, 3.0, n))


def vector(seed: int, n: int) -> Tensor:
    return torch.tensor(np.random.default_rng(seed + 1).normal(size=n))


@FIXED
@given(SEEDS, st.integers(1, 7))
def test_conjugate_gradients_are_exact_after_n_steps(seed: int, n: int) -> None:
    a, b = positive(seed, n), vector(seed, n)
    found = conjugate_gradients(lambda v: a @ v, b, max_iter=n)
    np.testing.assert_allclose(found.x.numpy(), np.linalg.solve(a.numpy(), b.numpy()), atol=1e-8)
    assert found.residual < 1e-8 and found.curvature > 0.29


@FIXED
@given(SEEDS, st.integers(1, 7))
def test_conjugate_gradients_stop_at_a_direction_that_is_not_convex(seed: int, n: int) -> None:
    a, b = -positive(seed, n), vector(seed, n)
    found = conjugate_gradients(lambda v: a @ v, b, max_iter=n)
    assert found.iterations == 0 and found.curvature < 0 and not found.x.any()


@FIXED
@given(SEEDS, st.integers(1, 7))
def test_minres_solves_indefinite_systems(seed: int, n: int) -> None:
    a = symmetric(seed, n, lambda rng: rng.uniform(0.3, 3.0, n) * rng.choice([-1.0, 1.0], n))
    b = vector(seed, n)
    found = minres(lambda v: a @ v, b, max_iter=20 * n, tol=1e-13)
    np.testing.assert_allclose(found.x.numpy(), np.linalg.solve(a.numpy(), b.numpy()), atol=1e-8)
    assert found.residual < 1e-9


@FIXED
@given(SEEDS, st.integers(1, 6))
def test_minres_residuals_never_grow(seed: int, n: int) -> None:
    a = symmetric(seed, n, lambda rng: rng.uniform(0.3, 3.0, n) * rng.choice([-1.0, 1.0], n))
    b = vector(seed, n)
    residuals = [minres(lambda v: a @ v, b, max_iter=k).residual for k in range(n + 1)]
    assert all(later <= earlier + 1e-10 for earlier, later in itertools.pairwise(residuals))


@FIXED
@given(SEEDS, st.integers(1, 6))
def test_the_neumann_series_closes_in_geometrically(seed: int, n: int) -> None:
    a, b = positive(seed, n), vector(seed, n)
    largest, smallest = 3.0, 0.3
    found = neumann(lambda v: a @ v, b, terms=200, step=1 / largest)
    assert found.residual <= (1 - smallest / largest) ** 200 * 1.01 + 1e-12


def bilevel(seed: int, n: int, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """grad L_cls and grad L_mm at the optimum of the mixture of two quadratics, and the mixture's Hessian."""
    a, b = positive(seed, n), positive(seed + 1, n)
    at_a, at_b = vector(seed, n), vector(seed + 2, n)
    h = (1 - alpha) * a + alpha * b
    theta = torch.linalg.solve(h, (1 - alpha) * a @ at_a + alpha * b @ at_b)
    return a @ (theta - at_a), b @ (theta - at_b), h


@FIXED
@given(SEEDS, st.integers(1, 6), st.floats(0.05, 0.95))
def test_the_hypergradient_is_not_negative_at_an_optimum_on_the_same_data(seed: int, n: int, alpha: float) -> None:
    g_cls, g_mm, h = bilevel(seed, n, alpha)
    solve = partial(conjugate_gradients, max_iter=5 * n, tol=1e-14)
    found = hypergradient(g_cls, g_mm - g_cls, lambda v: h @ v, solve=solve)
    exact = float(g_cls @ torch.linalg.solve(h, g_cls)) / alpha
    assert found.value >= -1e-12 and found.usable
    assert found.value == pytest.approx(exact, rel=1e-8, abs=1e-10)
    assert -1e-12 <= found.direction <= 1 + 1e-12
    tripled = hypergradient(3 * g_cls, 3 * (g_mm - g_cls), lambda v: 3 * (h @ v), solve=solve)
    assert tripled.value == pytest.approx(3 * found.value, rel=1e-9, abs=1e-12)
    assert tripled.direction == pytest.approx(found.direction, abs=1e-9)


def small_model(seed: int, hidden: bool) -> tuple[list[Tensor], Callable[..., list[Tensor]], Tensor]:
    """Two branches: parameters, a function from them to logits and features, and targets."""
    g = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=g, dtype=torch.float64)
    x = {m: draw(6, 3) for m in "av"}
    target = torch.randint(3, (6,), generator=g)
    params = [draw(3, 2), draw(3, 2), draw(4, 3)] if hidden else [draw(6, 3), draw(3)]

    def outputs(*p: Tensor) -> list[Tensor]:
        if not hidden:
            return [torch.cat([x["a"], x["v"]], 1) @ p[0] + p[1]]
        z = {m: torch.tanh(x[m] @ u) for m, u in zip("av", p)}
        return [torch.cat(list(z.values()), 1) @ p[2], *cosine_similarities(z, 0.5)]

    return params, outputs, target


def dense(operator: Callable[[Tensor], Tensor], n: int) -> Tensor:
    return torch.stack([operator(e) for e in torch.eye(n, dtype=torch.float64)])


def exact_hessian(loss: Callable[..., Tensor], params: list[Tensor]) -> Tensor:
    blocks: Any = torch.autograd.functional.hessian(loss, tuple(params))
    rows = [torch.cat([b.reshape(p.numel(), -1) for b in row], 1) for p, row in zip(params, blocks)]
    return torch.cat(rows)


@settings(FIXED, max_examples=10)
@given(SEEDS)
def test_the_hessian_operator_is_the_hessian(seed: int) -> None:
    params, outputs, target = small_model(seed, hidden=True)

    def loss(*p: Tensor) -> Tensor:
        logits, *s = outputs(*p)
        return 0.4 * F.cross_entropy(logits, target) + 0.6 * info_nce(s)

    leaves = [p.clone().requires_grad_() for p in params]
    ours = dense(hessian_operator(loss(*leaves), leaves), sum(p.numel() for p in params))
    torch.testing.assert_close(ours, exact_hessian(loss, params), rtol=0, atol=1e-9)
    torch.testing.assert_close(ours, ours.T, rtol=0, atol=1e-9)


@settings(FIXED, max_examples=10)
@given(SEEDS)
def test_gauss_newton_is_the_hessian_of_a_linear_model(seed: int) -> None:
    params, outputs, target = small_model(seed, hidden=False)
    leaves = [p.clone().requires_grad_() for p in params]
    operator = gauss_newton_operator(outputs(*leaves), lambda o: F.cross_entropy(o[0], target), leaves)
    ours = dense(operator, sum(p.numel() for p in params))
    exact = exact_hessian(lambda *p: F.cross_entropy(outputs(*p)[0], target), params)
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-10)


@settings(FIXED, max_examples=10)
@given(SEEDS)
def test_gauss_newton_has_no_negative_curvature_where_the_hessian_has(seed: int) -> None:
    params, outputs, target = small_model(seed, hidden=True)
    leaves = [p.clone().requires_grad_() for p in params]

    def total(o: Any) -> Tensor:
        return 0.4 * F.cross_entropy(o[0], target) + 0.6 * info_nce(o[1:])

    out = outputs(*leaves)
    ours = dense(gauss_newton_operator(out, total, leaves), sum(p.numel() for p in params))
    torch.testing.assert_close(ours, ours.T, rtol=0, atol=1e-9)
    assert float(torch.linalg.eigvalsh(ours).min()) > -1e-9
    exact = dense(hessian_operator(total(out), leaves), len(ours))
    assert float(torch.linalg.eigvalsh(exact).min()) < 0


# ---------------------------------------------------------------------- Weight
@FIXED
@given(SEEDS, st.sampled_from(["feature", "logit", "gate"]), st.integers(2, 3))
def test_weights_add_up_to_one_and_equal_features_weigh_the_same(seed: int, level: Any, n: int) -> None:
    torch.manual_seed(seed)
    z = modality_features(seed, modalities=n)
    head = Weight(dict.fromkeys(z, D), C, level=level).double()
    attention = head(z).aux["attention"]
    torch.testing.assert_close(attention.sum(1), torch.ones_like(attention[:, 0]))
    equal = head(dict.fromkeys(z, z["a"])).aux["attention"]
    torch.testing.assert_close(equal, torch.full_like(equal, 1 / n))


def test_similarities_have_finite_second_derivatives_at_a_row_of_zeros() -> None:
    z = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z[1] = 0.0

    def loss(a: Tensor) -> Tensor:
        return info_nce(cosine_similarities({"a": a, "b": z.flip(0)}, 0.5))

    hessian = torch.autograd.functional.hessian(loss, z)
    assert bool(torch.isfinite(hessian).all())

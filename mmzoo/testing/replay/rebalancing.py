"""Replays of rebalancing strategies: their functions, and their hooks on given tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmzoo.bilevel import (
    Hypergradient,
    Operator,
    Solution,
    conjugate_gradients,
    flat_grad,
    hessian_operator,
    hypergradient,
    minres,
    neumann,
)
from mmzoo.functional import cosine_similarities, info_nce, true_class_probabilities
from mmzoo.heads.concat import Concat
from mmzoo.strategies import ogm, pmr
from mmzoo.strategies.dynamic_gap import DynamicGap, released_alpha, released_step, released_surrogate
from mmzoo.testing.replay.harness import gradient_factors, run_on, step_of, terms_of
from mmzoo.testing.replay.registry import Case, Check, replays, skip

Solver = Callable[[Operator, Tensor], Solution]
Losses = Callable[[Tensor], tuple[Tensor, Tensor]]


# ---------------------------------------------------------------------- OGM
@replays("ogm", "bimodal_coeff", "bimodal_coeff_equal")
def _ogm(case: Case) -> Iterator[Any]:
    logits, label = case.named("logits_"), case.whole("label")
    scores = torch.stack([true_class_probabilities(z, label).sum() for z in logits.values()])
    factors = gradient_factors(ogm.OGM(alpha=case.number("alpha")), logits, label)
    for m, score, ratio in zip(logits, scores, ogm.ratios(scores)):
        yield f"score_{m}", score
        yield f"ratio_{m}", ratio
        yield f"expected_paper/coeff_{m}", factors[m]
    at_tie, *others = logits if case.kind == "bimodal_coeff_equal" else ("", *logits)
    yield from ((f"coeff_{m}", factors[m]) for m in others)
    yield skip("at a tie the authors' code scales the first modality, the paper does not", f"coeff_{at_tie}")


@replays("ogm", "tpami_m_modalities")
def _ogm_journal(case: Case) -> Iterator[Any]:
    scores = case.real("scores")
    yield "ratios", ogm.ratios(scores)
    yield "coeffs", ogm.coefficients(scores, case.number("alpha"), "journal")


@replays("ogm", "ge_noise")
def _ogm_noise(case: Case) -> Iterator[Any]:
    grad = case.real("grad")
    sigma = ogm.with_noise(grad, 0.0, torch.ones_like(grad)).flatten()[0]
    yield "noise_std_param", sigma
    # The file holds the noise as it was added; the function takes it at unit deviation.
    yield "new_grad", ogm.with_noise(grad, case.number("coeff"), case.real("noise") / sigma)


@replays("ogm", "balancebenchmark_trimodal")
def _ogm_peer(case: Case) -> Iterator[Any]:
    yield skip("a benchmark's own form for three modalities, without a paper; not in mmzoo")


# ---------------------------------------------------------------------- PMR
@replays("pmr", "coeff_and_loss")
def _pmr(case: Case) -> Iterator[Any]:
    features, prototypes = case.named("feat_"), case.named("proto_")
    label, logits, alpha = case.whole("label"), case.real("fused_logits"), case.number("alpha")
    state: dict[str, Any] = {
        "prototypes": prototypes,
        "seen": {m: torch.ones(len(c), dtype=torch.bool) for m, c in prototypes.items()},
    }
    distances = {m: pmr.neg_distance(z, prototypes[m]) for m, z in features.items()}
    scores = torch.stack([true_class_probabilities(d, label).sum() for d in distances.values()])
    step = step_of(run_on(pmr.PMR(), features, label, logits.shape[1]))
    own = {m: pmr.PMR._prototype_loss(step, d, None) for m, d in distances.items()}
    for m, ratio in zip(features, ogm.ratios(scores)):
        yield f"neg_dist_{m}", distances[m]
        yield f"score_{m}", true_class_probabilities(distances[m], label).sum()
        yield f"ratio_{m}", ratio
        yield f"loss_proto_{m}", own[m]

    terms = terms_of(pmr.PMR(alpha=alpha, variant="code"), features, logits, label, **state)
    for key, m in zip(("beta_audio", "lambda_visual"), features):
        yield key, terms[f"pmr/{m}"] / own[m]
    yield "total_loss", sum(terms.values())

    soft = case.expected.get("paper_soft", {})
    early = pmr.PMR(alpha=alpha, mu=float(soft.get("mu", 0.0)), entropy_epochs=1)
    for epoch, key in enumerate(("loss_final_first_epochs", "loss_acc")):
        terms = terms_of(early, features, logits, label, epoch=epoch, **state)
        yield f"paper_soft/{key}", sum(terms.values())
    for key, weight in zip(("beta_mod0", "gamma_mod1"), pmr.coefficients(scores)):
        yield f"paper_soft/{key}", weight
    for i, d in enumerate(distances.values()):
        yield f"paper_soft/entropy_mod{i}", pmr.entropies(d).mean()
    yield skip("an input", "paper_soft/mu")


@replays("pmr", "proto_ema")
def _pmr_momentum(case: Case) -> Iterator[Any]:
    old, new = case.real("old"), case.real("new")
    strategy = pmr.PMR(momentum=case.number("momentum_coef"), variant="code")
    strategy.prototypes = {m: old for m in "av"}
    strategy.seen = {m: torch.ones(len(old), dtype=torch.bool) for m in "av"}
    strategy.updates = int(case.number("epoch")) + 1  # the authors make a first set before epoch 0
    yield "proto", _prototypes(strategy, new, torch.arange(len(new)), len(new))["a"]


@replays("pmr", "proto_mean_missing_class")
def _pmr_means(case: Case) -> Iterator[Any]:
    strategy = pmr.PMR()
    n_classes = int(case.number("n_classes"))
    means = _prototypes(strategy, case.real("features"), case.whole("label"), n_classes)["a"]
    # Their mean over no items is NaN; here such a class is marked as not seen and takes no part.
    yield "official", torch.where(strategy.seen["a"][:, None], means, torch.nan)


@replays("pmr", "soft_coefficients_curve")
def _pmr_curve(case: Case) -> Iterator[Any]:
    pairs = [torch.stack([rho, torch.ones_like(rho)]) for rho in case.real("rho")]
    yield "beta_gamma", torch.stack([pmr.coefficients(pair) for pair in pairs])


def _prototypes(strategy: pmr.PMR, features: Tensor, target: Tensor, n_classes: int) -> Mapping[str, Tensor]:
    """The strategy's prototypes after an epoch start on these training items, the same for both."""
    strategy.epoch_start(run_on(strategy, {m: features for m in "av"}, target, n_classes))
    return strategy.prototypes


# ---------------------------------------------------------------------- dynamic gap: the weight
@replays("lfm", "heuristic_alpha")
def _heuristic(case: Case) -> Iterator[Any]:
    yield "alpha", [_alpha(DynamicGap(schedule="heuristic"), int(t) - 1) for t in case.real("t")]


@replays("lfm", "stepwise_h")
def _stepwise(case: Case) -> Iterator[Any]:
    if int(case.inputs.get("epoch_index_base", 0)) != 0:
        yield skip("counts epochs from another number than 0")
    for path in case.leaves():
        total, p = path.split("/")
        strategy = DynamicGap(schedule="stepwise", alpha=float(p))
        yield path, [_alpha(strategy, epoch, int(total)) for epoch in range(len(case[path]))]


@replays("lfm", "official_fitted_polynomial")
def _polynomial(case: Case) -> Iterator[Any]:
    alphas = [released_alpha(int(epoch)) for epoch in case.real("epoch")]
    yield "align_weight_alpha2", alphas
    yield "cls_weight_alpha1", [1.0 - alpha for alpha in alphas]


def _alpha(strategy: DynamicGap, epoch: int, n_epochs: int = 1) -> float:
    """The weight that the strategy sets at the start of an epoch."""
    features = {m: torch.zeros(1, 1, dtype=torch.float64) for m in "av"}
    run = run_on(strategy, features, torch.zeros(1, dtype=torch.int64), 2, epoch=epoch)
    run.n_epochs = n_epochs
    strategy.epoch_start(run)
    return strategy.current


# ---------------------------------------------------------------------- dynamic gap: the matching loss
@replays("lfm", "official_alignment", "official_alignment_equal")
def _alignment(case: Case) -> Iterator[Any]:
    unimodal = case.named("logits_")
    released = _matching(unimodal, matching="kl_to_mean")
    yield "official", released
    yield "reverse", released
    yield "true_js", _matching(unimodal, matching="js")


@replays("lfm", "paper_L_MM")
def _info_nce(case: Case) -> Iterator[Any]:
    z, tau = case.named("z"), case.number("tau")
    for path in case.leaves():
        if pair := re.fullmatch(r"(pair|swap)(\d)(\d)", path):
            i, j = pair.groups()[1:] if pair[1] == "pair" else (pair[3], pair[2])
            yield path, _matching({i: z[i], j: z[j]}, matching="infonce", temperature=tau)
    yield "mean_over_pairs", _matching(z, matching="infonce", temperature=tau)


def _matching(matched: Mapping[str, Tensor], **options: Any) -> Tensor:
    """The matching term of the strategy when it has all the weight."""
    first = next(iter(matched.values()))
    target = torch.zeros(len(first), dtype=torch.int64)
    strategy = DynamicGap(schedule="constant", alpha=1.0, **options)
    return terms_of(strategy, matched, first, target, unimodal=matched)["dynamic_gap/match"]


# ---------------------------------------------------------------------- dynamic gap: the hypergradient
class _Bilevel:
    """L_cls and L_mm as functions of one flat parameter, and their second-order quantities at a point."""

    def __init__(self, losses: Losses, alpha: float, point: Tensor) -> None:
        self.theta = point.detach().clone().requires_grad_()
        self.cls, self.mm = losses(self.theta)
        self.grad_cls, self.grad_mm = flat_grad(self.cls, [self.theta]), flat_grad(self.mm, [self.theta])
        self.product = hessian_operator((1.0 - alpha) * self.cls + alpha * self.mm, [self.theta])

    def hessian(self) -> Tensor:
        return torch.stack([self.product(e) for e in torch.eye(len(self.theta), dtype=torch.float64)])

    def solve(self, solver: Solver, damping: float = 0.0) -> Hypergradient:
        return hypergradient(self.grad_cls, self.grad_mm - self.grad_cls, self.product, solve=solver, damping=damping)


@replays("lfm", "hypergradient_quadratic")
def _quadratic(case: Case) -> Iterator[Any]:
    inner, a, b, alpha = case.real("A"), case.real("a"), case.real("b"), case.number("alpha")
    outer = case.real("B")
    size = len(a)
    exact: Solver = partial(conjugate_gradients, max_iter=10 * size, tol=1e-15)

    def losses(theta: Tensor) -> tuple[Tensor, Tensor]:
        return 0.5 * (theta - a) @ inner @ (theta - a), 0.5 * (theta - b) @ outer @ (theta - b)

    origin = _Bilevel(losses, alpha, torch.zeros_like(a))
    optimum = exact(origin.product, -(1.0 - alpha) * origin.grad_cls - alpha * origin.grad_mm).x
    best = _Bilevel(losses, alpha, optimum)
    found = best.solve(exact)
    yield "theta_star", optimum
    yield "grad_cls", best.grad_cls
    yield "grad_mm", best.grad_mm
    yield "hessian", best.hessian()
    yield "inv_hvp", found.solution.x
    yield "hypergradient", found.value
    yield Check("finite_difference", found.value, tolerance=1e-6)
    if alpha > 0:
        yield "identity_gT_Hinv_g_over_alpha", best.grad_cls @ found.solution.x / alpha
    elsewhere = _Bilevel(losses, alpha, case.real("theta_nonopt"))
    yield "hypergradient_at_theta_nonopt", elsewhere.solve(exact).value
    for mu in case.expected.get("damped_at_theta_star", {}):
        yield f"damped_at_theta_star/{mu}", best.solve(exact, float(mu)).value
    steps = range(1, 1 + len(case.expected.get("correct_cg_iterates", [])))
    yield "correct_cg_iterates", [best.solve(partial(conjugate_gradients, max_iter=k)).value for k in steps]
    yield from _series(case, best)
    dropped = "the bundled solver drops its last iterate; not reproduced"
    yield skip(dropped, "official_hypergrad_library/CG_K*")


def _series(case: Case, best: _Bilevel) -> Iterator[tuple[str, Any]]:
    """The truncated Neumann series, term by term and as the bundled library gives it."""

    def value(terms: int) -> float:
        return best.solve(partial(neumann, terms=terms, step=case.number("neumann_step_eta"))).value

    steps = range(1, 1 + len(case.expected.get("correct_neumann_iterates", [])))
    yield "correct_neumann_iterates", [value(k) for k in steps]
    for key in case.expected.get("official_hypergrad_library", {}):
        if series := re.fullmatch(r"neumann_K(\d+)", key):
            yield f"official_hypergrad_library/{key}", value(int(series[1]))


@replays("lfm", "hypergradient_softmax_model")
def _softmax_model(case: Case) -> Iterator[Any]:
    x, y, theta = case.named("X"), case.whole("y"), case.real("theta")
    shapes = [tuple(int(n) for n in shape) for shape in case.real("shapes")]
    here = _Bilevel(partial(_two_branches, x, y, shapes, case.number("tau")), case.number("alpha"), theta)
    yield "L_cls", here.cls
    yield "L_mm", here.mm
    yield "grad_cls", here.grad_cls
    yield "grad_mm", here.grad_mm
    yield "hessian_eigenvalues", torch.linalg.eigvalsh(here.hessian())
    exact: Solver = partial(minres, max_iter=20 * len(theta), tol=1e-14)
    for mu in case.expected.get("damped_hypergradient", {}):
        yield f"damped_hypergradient/{mu}", here.solve(exact, float(mu)).value
    parts = [p.clone().requires_grad_() for p in theta.split([math.prod(shape) for shape in shapes])]
    cls, mm = _two_branches(x, y, shapes, case.number("tau"), torch.cat(parts))
    alpha = case.number("alpha")
    surrogate = released_surrogate((1 - alpha) * cls + alpha * mm, cls, parts)
    yield "official_surrogate_alpha_grad", surrogate
    yield "official_next_alignment_weight", released_step(alpha, surrogate, epoch=0)


def _two_branches(
    x: Mapping[str, Tensor], y: Tensor, shapes: Sequence[tuple[int, ...]], tau: float, theta: Tensor
) -> tuple[Tensor, Tensor]:
    """L_cls and L_mm of linear encoders under one linear classifier without bias, all of it in `theta`."""
    *encoders, joint = [part.reshape(shape) for part, shape in zip(theta.split([r * c for r, c in shapes]), shapes)]
    features = {m: rows @ u for (m, rows), u in zip(x.items(), encoders)}
    head = Concat({m: z.shape[1] for m, z in features.items()}, joint.shape[1])
    blocks = zip(features, joint.T.split(list(head.dims.values()), dim=1))
    weights = {**{f"weight.{m}": w for m, w in blocks}, "bias": theta.new_zeros(joint.shape[1])}
    logits = torch.func.functional_call(head, weights, (features,)).logits
    return F.cross_entropy(logits, y), info_nce(cosine_similarities(features, tau))

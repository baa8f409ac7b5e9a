"""Arithmetic of the methods, for any training loop. Every function is vectorised and differentiable unless it says otherwise.

Beside those below, the formulas of single methods are here under the names in `OF_METHODS`.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Player = TypeVar("Player")

#: name -> (module of the strategy, function there), loaded when first used: core imports this module
OF_METHODS: Mapping[str, tuple[str, str]] = {
    "ogm_coefficients": ("ogm", "coefficients"),
    "ogm_noise": ("ogm", "with_noise"),
    "pmr_logits": ("pmr", "neg_distance"),
    "pmr_coefficients": ("pmr", "coefficients"),
    "pmr_class_sums": ("pmr", "class_sums"),
    "pmr_update": ("pmr", "mixed"),
    "agm_responses": ("agm", "responses"),
    "agm_score_sums": ("agm", "score_sums"),
    "agm_coefficients": ("agm", "coefficients"),
    "mla_projection": ("mla", "next_matrix"),
    "mla_entropy_weights": ("mla", "entropy_weights"),
    "dynamic_gap_heuristic": ("dynamic_gap", "heuristic"),
    "dynamic_gap_stepwise": ("dynamic_gap", "stepwise"),
}


def __getattr__(name: str) -> Any:
    if name not in OF_METHODS:
        raise AttributeError(f"module 'mmzoo.functional' has no attribute {name!r}")
    module, function = OF_METHODS[name]
    return getattr(importlib.import_module(f"mmzoo.strategies.{module}"), function)


def constant(values: Any, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers as a tensor on the device of `like`, of its dtype unless another is given.

    Unlike `like.new_tensor(values)` it does not wait for a GPU: a copy out of ordinary memory is taken at once.
    """
    return torch.tensor(values, dtype=like.dtype if dtype is None else dtype).to(like.device, non_blocking=True)


def true_class_probabilities(logits: Tensor, target: Tensor) -> Tensor:
    """(..., B) the softmax probability of the true class. logits: (..., B, C); target: (B,)."""
    return logits.softmax(-1).gather(-1, target.expand(logits.shape[:-1])[..., None]).squeeze(-1)


def true_class_sums(logits: Mapping[str, Tensor], target: Tensor) -> Tensor:
    """(M,) the sum over the batch of each modality's probability of the true class, no graph (Peng et al., CVPR 2022, eq. 8).

    logits: modality -> (B, C), each modality's own. target: (B,).
    """
    with torch.no_grad():
        return true_class_probabilities(torch.stack([*logits.values()]), target).sum(1)


def split_linear(layer: nn.Linear, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """modality -> (B, C): the part W_m z_m + b / M of a linear layer that reads all features side by side (eq. 7 there).

    features: modality -> (B, D_m), in the order in which the layer reads them. The parts add up to its output.
    """
    share = None if layer.bias is None else layer.bias / len(features)
    parts = layer.weight.split([z.shape[1] for z in features.values()], 1)
    return {m: F.linear(z, w, share) for (m, z), w in zip(features.items(), parts)}


@torch.no_grad()
def scale_gradients(modules: Iterable[nn.Module], factors: Tensor, *, least_axes: int = 1) -> None:
    """Multiply the gradients of each module by its factor, in place.

    factors: (M,), one a module. least_axes: parameters of fewer axes are left alone; the strategy OGM takes 2, which leaves out
    biases and normalisation.
    """
    for module, factor in zip(modules, factors, strict=True):
        for p in module.parameters():
            if p.grad is not None and p.ndim >= least_axes:
                p.grad.mul_(factor)


def loss_over(
    criterion: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor, here: Tensor | None = None
) -> Tensor:
    """The criterion over the items that have a modality; zero where none has.

    logits: (B, C); target: (B,); here: (B,) bool, or None for all.
    """
    if here is not None:
        logits, target = logits[here], target[here]
    return criterion(logits, target) if len(target) else logits.sum()


def unit(x: Tensor, floor: float = 1e-6) -> Tensor:
    """Rows scaled to unit length. A row shorter than `floor` is divided by `floor`, which bounds the gradient.

    The squared norm is bounded, not the norm: its second derivative at a row of zeros is finite too.
    """
    return x * x.square().sum(-1, keepdim=True).clamp_min(floor**2).rsqrt()


def cosine_similarities(
    features: Mapping[str, Tensor], temperature: float, present: Tensor | None = None, floor: float = 1e-6
) -> list[Tensor]:
    """One (n, n) matrix of cosine similarities over `temperature` for each unordered pair of modalities.

    features: modality -> (B, D), one width. Row i and column i belong to one item; items for which one of the pair is
    absent are left out. present: (B, M) bool, columns in the order of `features`.
    """
    scaled = [unit(z, floor) for z in features.values()]
    matrices = []
    for i, j in itertools.combinations(range(len(scaled)), 2):
        a, b = scaled[i], scaled[j]
        if present is not None:
            both = present[:, i] & present[:, j]
            a, b = a[both], b[both]
        matrices.append(a @ b.T / temperature)
    return matrices


def same_class(target: Tensor, present: Tensor | None = None) -> list[Tensor]:
    """For each unordered pair of modalities an (n, n) matrix of zeros and ones: which items are of one class.

    The pairs and items are those of `cosine_similarities`. target: (B,); present: (B, M) bool, or None where every item
    has every modality: then one matrix serves all pairs.
    """
    if present is None:
        return [(target[:, None] == target[None, :]).double()]
    chosen = [target[present[:, i] & present[:, j]] for i, j in itertools.combinations(range(present.shape[1]), 2)]
    return [(t[:, None] == t[None, :]).double() for t in chosen]


def info_nce(similarities: Sequence[Tensor], matches: Sequence[Tensor] | None = None) -> Tensor:
    """Symmetric InfoNCE, mean over pairs of modalities and over both directions (Yang et al., NeurIPS 2024, L_MM).

    similarities: (n, n) matrices with the matches on the diagonal. The paper defines one pair; the mean over
    unordered pairs for more than two modalities is ours. A pair with fewer than two items has nothing to tell apart
    and counts as zero.

    matches: symmetric (n, n) matrices of zeros and ones, one for each pair or one for all, that say which items match
    beside the item itself; the target of a row is uniform over its matches (the outer sum of supervised contrastive
    learning, Khosla et al., NeurIPS 2020, eq. 2, between modalities only).
    """
    values = []
    for k, s in enumerate(similarities):
        if len(s) < 2:
            values.append(s.sum() * 0.0)
            continue
        if matches is None:
            wanted: Tensor = torch.arange(len(s), device=s.device)
        else:
            same = matches[k if len(matches) > 1 else 0].to(s)
            wanted = same / same.sum(1, keepdim=True)
        values.append(0.5 * (F.cross_entropy(s, wanted) + F.cross_entropy(s.T, wanted)))
    return torch.stack(values).mean()


def kl_to_mean(logits: Sequence[Tensor]) -> Tensor:
    """(B,) mean over modalities of KL(M || P_m), M the mean prediction, P_m = softmax(logits_m).

    This is what the released code of Yang et al. calls alignment: the reverse of Jensen-Shannon, and unbounded.
    logits: one (B, C) a modality.
    """
    log_p = torch.stack([z.log_softmax(-1) for z in logits])
    log_mean = torch.logsumexp(log_p, 0) - math.log(len(logits))
    return (log_mean.exp() * (log_mean - log_p)).sum(-1).mean(0)


def jensen_shannon(logits: Sequence[Tensor]) -> Tensor:
    """(B,) mean over modalities of KL(P_m || M): the Jensen-Shannon divergence of the predictions, at most log M."""
    log_p = torch.stack([z.log_softmax(-1) for z in logits])
    log_mean = torch.logsumexp(log_p, 0) - math.log(len(logits))
    return (log_p.exp() * (log_p - log_mean)).sum(-1).mean(0)


def in_steps(map_: Tensor, mask: Tensor | None, steps: int) -> Tensor:
    """(B, steps, C): the positions of a map (B, C, *spatial) in their order, averaged over `steps` runs of equal length.

    Runs overlap where their number does not divide that of the positions, as in adaptive average pooling, and a single
    position fills them all. mask: (B, *spatial) bool, the positions that hold data; the others are left out, so that
    each item's own length is what is divided. An item without any gives zeros.
    """
    flat = map_.reshape(*map_.shape[:2], -1)
    counted = torch.ones_like(flat[:, 0], dtype=torch.bool) if mask is None else mask.reshape(len(mask), -1)
    n, rank = counted.sum(1)[:, None, None], counted.cumsum(1)[:, None, :] - 1
    k = torch.arange(steps, device=flat.device)[None, :, None]
    first, after = k * n // steps, ((k + 1) * n + steps - 1) // steps
    weight = ((rank >= first) & (rank < after) & counted[:, None, :]).to(flat.dtype)
    return weight / weight.sum(2, keepdim=True).clamp_min(1.0) @ flat.transpose(1, 2)


def shapley(value: Callable[[frozenset[Player]], float], players: Sequence[Player]) -> dict[Player, float]:
    """Exact Shapley values of a coalition function. They add up to value(all) - value(none)."""
    weights = shapley_weights(players)
    values = {s: value(s) for s in next(iter(weights.values()), {})}
    return {p: sum(w * values[s] for s, w in row.items()) for p, row in weights.items()}


def shapley_weights(players: Sequence[Player]) -> dict[Player, dict[frozenset[Player], float]]:
    """player -> coalition -> the factor of the coalition's value in the player's Shapley value.

    phi_p = sum over S without p of |S|! (n - |S| - 1)! / n! (v(S + p) - v(S)). For values that are tensors: each
    player's factors are a row of a matrix.
    """
    n = len(players)
    coalitions = [frozenset(s) for k in range(n + 1) for s in itertools.combinations(players, k)]
    weight = [math.factorial(k) * math.factorial(n - k - 1) / math.factorial(n) for k in range(n)]
    return {p: {s: weight[len(s) - 1] if p in s else -weight[len(s)] for s in coalitions} for p in players}


def sampled_shapley(
    value: Callable[[frozenset[Player]], float], orders: Sequence[Sequence[Player]]
) -> dict[Player, float]:
    """Shapley values estimated by each player's mean gain over some orders of all players (Castro et al., 2009).

    They add up to value(all) - value(none) whatever the orders, and are exact when every order occurs equally often.
    """
    totals = dict.fromkeys(orders[0], 0.0)
    for order in orders:
        before, come = value(frozenset()), frozenset[Player]()
        for player in order:
            come |= {player}
            totals[player] += (after := value(come)) - before
            before = after
    return {player: total / len(orders) for player, total in totals.items()}


def logistic_regression(
    x: Tensor,
    target: Tensor,
    n_classes: int,
    *,
    c: float = 1.0,
    start: tuple[Tensor, Tensor] | None = None,
    max_iter: int = 200,
) -> tuple[Tensor, Tensor]:
    """Weight (C, D) and bias (C,) of a multinomial logistic regression; no graph.

    Minimises the sum of cross-entropies plus ||W||^2 / (2 c), scikit-learn's objective, with L-BFGS: convex, so that
    the result depends neither on a seed nor on the order of the rows.

    Args:
        x: (N, D) float64. target: (N,).
        start: where to begin (default: zeros), e.g. the solution for a neighbouring c.
    """
    zeros = (x.new_zeros(n_classes, x.shape[1]), x.new_zeros(n_classes))
    weight, bias = (t.detach().clone().requires_grad_() for t in (start or zeros))
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=max_iter, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        weight.grad = bias.grad = None
        value = F.cross_entropy(F.linear(x, weight, bias), target) + weight.square().sum() / (2 * c * len(x))
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return weight.detach(), bias.detach()


class RidgeClassifier:
    """Ridge regression on one-hot labels, for any number of strengths after one decomposition; no graph.

    Minimises ||X W' + b - Y||^2 + strength * N * ||W||^2, the objective of scikit-learn's Ridge with
    alpha = strength * N. The values that it gives are no log-probabilities, so that `fit` scales them by one factor: the one with
    which the *leave-one-out* predictions (closed form: y - (y - f) / (1 - h), h the diagonal of the hat matrix) have the
    least cross-entropy. A positive factor changes no decision.

    Args:
        x: (N, D) float64. target: (N,).
    """

    def __init__(self, x: Tensor, target: Tensor, n_classes: int) -> None:
        self._target = target
        self._y = F.one_hot(target, n_classes).to(x)
        self._mean_x, self._mean_y = x.mean(0), self._y.mean(0)
        values, self._basis = torch.linalg.eigh((x - self._mean_x).T @ (x - self._mean_x))
        self._values = values.clamp_min(0.0)
        self._rotated = (x - self._mean_x) @ self._basis
        self._right = self._rotated.T @ (self._y - self._mean_y)

    def fit(self, strength: float) -> tuple[Tensor, Tensor]:
        """Weight (C, D) and bias (C,) of the scaled values."""
        n = len(self._y)
        shrunk = 1.0 / (self._values + strength * n)
        weight = (self._basis @ (shrunk[:, None] * self._right)).T
        fitted = self._rotated @ (shrunk[:, None] * self._right) + self._mean_y
        leverage = (self._rotated.square() @ shrunk + 1.0 / n).clamp_max(1.0 - 1e-9)[:, None]
        left_out = self._y - (self._y - fitted) / (1.0 - leverage)
        factor = _best_factor(left_out, self._target)
        return factor * weight, factor * (self._mean_y - weight @ self._mean_x)


def _best_factor(values: Tensor, target: Tensor) -> float:
    """The factor from 0.1 to 1000 with which `values` (N, C) have the least cross-entropy: convex in it, by bisection."""
    low, high = math.log(0.1), math.log(1000.0)
    hit = values.gather(1, target[:, None]).squeeze(1)
    for _ in range(40):
        factor = math.exp((low + high) / 2)
        slope = ((factor * values).softmax(-1) * values).sum(-1) - hit
        low, high = (low, (low + high) / 2) if float(slope.mean()) > 0 else ((low + high) / 2, high)
    return math.exp((low + high) / 2)

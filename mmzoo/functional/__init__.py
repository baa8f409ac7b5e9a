"""Formulas of the methods, for any training loop.

Functions are vectorised, and differentiable unless documented otherwise. The formulas of single methods are available
under the names in `OF_METHODS`.
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

from mmzoo.functional.regression import RidgeClassifier as RidgeClassifier
from mmzoo.functional.regression import logistic_regression as logistic_regression

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
    """Numbers as a tensor on the device of another one.

    Unlike `like.new_tensor(values)` it does not synchronise with a GPU.

    Args:
        values: numbers, nested lists allowed.
        like: a tensor on the device wanted.
        dtype: dtype of the result; None: that of `like`.
    """
    return torch.tensor(values, dtype=like.dtype if dtype is None else dtype).to(like.device, non_blocking=True)


def true_class_probabilities(logits: Tensor, target: Tensor) -> Tensor:
    """The softmax probability of the true class.

    Args:
        logits: (..., B, C).
        target: (B,).

    Returns:
        (..., B).
    """
    return logits.softmax(-1).gather(-1, target.expand(logits.shape[:-1])[..., None]).squeeze(-1)


def true_class_sums(logits: Mapping[str, Tensor], target: Tensor) -> Tensor:
    """The sum over the batch of each modality's true-class probability, without a graph.

    Peng et al., CVPR 2022, eq. 8.

    Args:
        logits: modality -> (B, C), each modality's own.
        target: (B,).

    Returns:
        (M,).
    """
    with torch.no_grad():
        return true_class_probabilities(torch.stack([*logits.values()]), target).sum(1)


def split_linear(layer: nn.Linear, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parts W_m z_m + b / M of a linear layer on concatenated features (Peng et al., CVPR 2022, eq. 7).

    Args:
        layer: the layer.
        features: modality -> (B, D_m), in the order in which the layer reads them.

    Returns:
        modality -> (B, C); the parts add up to the layer's output.
    """
    share = None if layer.bias is None else layer.bias / len(features)
    parts = layer.weight.split([z.shape[1] for z in features.values()], 1)
    return {m: F.linear(z, w, share) for (m, z), w in zip(features.items(), parts)}


@torch.no_grad()
def scale_gradients(modules: Iterable[nn.Module], factors: Tensor, *, least_axes: int = 1) -> None:
    """Multiply the gradients of each module by its factor, in place.

    Args:
        modules: the modules.
        factors: (M,), one per module.
        least_axes: leave out parameters with fewer axes; the strategy OGM uses 2, which leaves out biases and norms.
    """
    for module, factor in zip(modules, factors, strict=True):
        for p in module.parameters():
            if p.grad is not None and p.ndim >= least_axes:
                p.grad.mul_(factor)


def loss_over(
    criterion: Callable[[Tensor, Tensor], Tensor], logits: Tensor, target: Tensor, here: Tensor | None = None
) -> Tensor:
    """The criterion over the samples that have a modality; zero if none has.

    Args:
        criterion: (logits, target) -> the mean loss.
        logits: (B, C).
        target: (B,).
        here: (B,) bool, which samples have it; None: all.
    """
    if here is not None:
        logits, target = logits[here], target[here]
    return criterion(logits, target) if len(target) else logits.sum()


def unit(x: Tensor, floor: float = 1e-6) -> Tensor:
    """Rows scaled to unit length; a row shorter than `floor` is divided by `floor`, which bounds the gradient.

    The squared norm is bounded, not the norm, so that the second derivative at a row of zeros is finite too.

    Args:
        x: (..., D).
        floor: the smallest divisor.
    """
    return x * x.square().sum(-1, keepdim=True).clamp_min(floor**2).rsqrt()


def cosine_similarities(
    features: Mapping[str, Tensor], temperature: float, present: Tensor | None = None, floor: float = 1e-6
) -> list[Tensor]:
    """One matrix of cosine similarities over `temperature` for each unordered pair of modalities.

    Args:
        features: modality -> (B, D), all of the same width.
        temperature: the divisor.
        present: (B, M) bool, columns in the order of `features`; a pair leaves out samples that lack one of the two.
        floor: see `unit`.

    Returns:
        (n, n) per pair; row i and column i belong to the same sample.
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
    """For each unordered pair of modalities a 0/1 matrix: which samples have the same class.

    Args:
        target: (B,).
        present: (B, M) bool; None if every sample has every modality: one matrix then serves all pairs.

    Returns:
        (n, n) per pair, with the pairs and samples of `cosine_similarities`.
    """
    if present is None:
        return [(target[:, None] == target[None, :]).double()]
    chosen = [target[present[:, i] & present[:, j]] for i, j in itertools.combinations(range(present.shape[1]), 2)]
    return [(t[:, None] == t[None, :]).double() for t in chosen]


def info_nce(similarities: Sequence[Tensor], matches: Sequence[Tensor] | None = None) -> Tensor:
    """Symmetric InfoNCE, the mean over pairs of modalities and over both directions (Yang et al., NeurIPS 2024, L_MM).

    The paper defines one pair; the mean over unordered pairs is ours. A pair with fewer than two samples counts as
    zero.

    Args:
        similarities: (n, n) per pair, with matches on the diagonal.
        matches: symmetric (n, n) 0/1 matrices, one per pair or one for all, of the matches besides the sample itself.
            The target of a row is uniform over its matches (the outer sum of supervised contrastive learning, Khosla et
            al., NeurIPS 2020, eq. 2, between modalities only). None: the diagonal only.

    Returns:
        A scalar.
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
    """The mean over modalities of KL(M || P_m), with M the mean prediction and P_m = softmax(logits_m).

    The released code of Yang et al. calls this alignment: it is Jensen-Shannon reversed, and unbounded.

    Args:
        logits: (B, C) of each modality.

    Returns:
        (B,).
    """
    log_p = torch.stack([z.log_softmax(-1) for z in logits])
    log_mean = torch.logsumexp(log_p, 0) - math.log(len(logits))
    return (log_mean.exp() * (log_mean - log_p)).sum(-1).mean(0)


def jensen_shannon(logits: Sequence[Tensor]) -> Tensor:
    """The Jensen-Shannon divergence of the predictions: the mean over modalities of KL(P_m || M), at most log M.

    Args:
        logits: (B, C) of each modality.

    Returns:
        (B,).
    """
    log_p = torch.stack([z.log_softmax(-1) for z in logits])
    log_mean = torch.logsumexp(log_p, 0) - math.log(len(logits))
    return (log_p.exp() * (log_p - log_mean)).sum(-1).mean(0)


def in_steps(map_: Tensor, mask: Tensor | None, steps: int) -> Tensor:
    """The positions of a map in order, averaged over `steps` runs of equal length.

    Runs overlap if their number does not divide that of the positions, as in adaptive average pooling; a single
    position fills all of them. A sample without valid positions gives zeros.

    Args:
        map_: (B, C, *spatial).
        mask: (B, *spatial) bool, the positions that hold data; each sample's own length is divided. None: all.
        steps: number of runs.

    Returns:
        (B, steps, C).
    """
    flat = map_.reshape(*map_.shape[:2], -1)
    counted = torch.ones_like(flat[:, 0], dtype=torch.bool) if mask is None else mask.reshape(len(mask), -1)
    n, rank = counted.sum(1)[:, None, None], counted.cumsum(1)[:, None, :] - 1
    k = torch.arange(steps, device=flat.device)[None, :, None]
    first, after = k * n // steps, ((k + 1) * n + steps - 1) // steps
    weight = ((rank >= first) & (rank < after) & counted[:, None, :]).to(flat.dtype)
    return weight / weight.sum(2, keepdim=True).clamp_min(1.0) @ flat.transpose(1, 2)


def shapley(value: Callable[[frozenset[Player]], float], players: Sequence[Player]) -> dict[Player, float]:
    """Exact Shapley values of a coalition function; they add up to value(all) - value(none).

    Args:
        value: coalition -> value.
        players: the players.
    """
    weights = shapley_weights(players)
    values = {s: value(s) for s in next(iter(weights.values()), {})}
    return {p: sum(w * values[s] for s, w in row.items()) for p, row in weights.items()}


def shapley_weights(players: Sequence[Player]) -> dict[Player, dict[frozenset[Player], float]]:
    """player -> coalition -> the factor of the coalition's value in the player's Shapley value.

    phi_p = sum over S without p of |S|! (n - |S| - 1)! / n! (v(S + p) - v(S)). For values that are tensors, each
    player's factors are a row of a matrix.

    Args:
        players: the players.
    """
    n = len(players)
    coalitions = [frozenset(s) for k in range(n + 1) for s in itertools.combinations(players, k)]
    weight = [math.factorial(k) * math.factorial(n - k - 1) / math.factorial(n) for k in range(n)]
    return {p: {s: weight[len(s) - 1] if p in s else -weight[len(s)] for s in coalitions} for p in players}


def sampled_shapley(
    value: Callable[[frozenset[Player]], float], orders: Sequence[Sequence[Player]]
) -> dict[Player, float]:
    """Shapley values estimated by each player's mean gain over some orders of all players (Castro et al., 2009).

    They add up to value(all) - value(none) for any orders, and are exact if every order occurs equally often.

    Args:
        value: coalition -> value.
        orders: orders of the players.
    """
    totals = dict.fromkeys(orders[0], 0.0)
    for order in orders:
        before, come = value(frozenset()), frozenset[Player]()
        for player in order:
            come |= {player}
            totals[player] += (after := value(come)) - before
            before = after
    return {player: total / len(orders) for player, total in totals.items()}

"""Trusted multi-view classification (TMC): an evidential loss on every opinion, with an annealed regulariser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmzoo.api import Outputs, Step, Strategy, Terms

Fit = Literal["log", "mse"]

#: log alpha from which the series in 1 / alpha is exact to the last digit of float64
_LARGE = math.log(32.0)
#: digamma(a) - log a, in powers of 1 / a
_DIGAMMA = (0.0, -1 / 2, -1 / 12, 0.0, 1 / 120, 0.0, -1 / 252, 0.0, 1 / 240)
#: lgamma(a) - (a - 1) digamma(a) + a - (log a) / 2, in powers of 1 / a
_RESIDUE = (0.5 + 0.5 * math.log(2 * math.pi), -1 / 3, -1 / 12, -1 / 90, 1 / 120, 1 / 210, -1 / 252, -1 / 210, 1 / 240)


def _series(u: Tensor, coefficients: Sequence[float]) -> Tensor:
    total = torch.zeros_like(u)
    for c in reversed(coefficients):
        total = total * u + c
    return total


def _digamma(x: Tensor) -> Tensor:
    """digamma(a) from x = log a >= 0, for a of any size."""
    large = x + _series(torch.exp(-x.clamp_min(_LARGE)), _DIGAMMA)
    return torch.where(x < _LARGE, torch.digamma(torch.exp(x.clamp_max(_LARGE))), large)


def _residue(x: Tensor) -> Tensor:
    """lgamma(a) - (a - 1) digamma(a) + a from x = log a >= 0: of the size of x, although its parts are of that of a."""
    a = torch.exp(x.clamp_max(_LARGE))
    small = torch.lgamma(a) - (a - 1) * torch.digamma(a) + a
    return torch.where(x < _LARGE, small, 0.5 * x + _series(torch.exp(-x.clamp_min(_LARGE)), _RESIDUE))


def kl_to_uniform(opinion: Tensor) -> Tensor:
    """(...) KL(Dir(alpha) || Dir(1)), zero where all alpha are 1.

    lgamma(S) - sum lgamma(alpha) - lgamma(C) + sum (alpha - 1)(digamma(alpha) - digamma(S)), with its large parts
    cancelled analytically: it supports alpha of any size without loss of digits, of which float32 would lose three at
    alpha = 10^4.

    Args:
        opinion: (..., C), log alpha >= 0.
    """
    n_classes = opinion.shape[-1]
    strength = opinion.logsumexp(-1)
    spread = _residue(strength) - _residue(opinion).sum(-1)
    return spread + (n_classes - 1) * _digamma(strength) - math.lgamma(n_classes)


def evidence_loss(opinion: Tensor, target: Tensor, weight: float, fit: Fit = "log") -> Tensor:
    """(..., B) A + weight * KL(Dir(alpha~) || Dir(1)), alpha~ being alpha with that of the true class set to 1.

    Args:
        opinion: (..., B, C), log alpha; negative values count as no evidence.
        target: (B,).
        weight: weight of the KL term.
        fit: "log": A = digamma(S) - digamma(alpha_y), the expected cross-entropy. "mse": A = sum_c (y_c - p_c)^2 + p_c
            (1 - p_c) / (S + 1) with p = alpha / S, the expected squared error.
    """
    opinion = opinion.clamp_min(0.0)
    strength = opinion.logsumexp(-1)
    label = F.one_hot(target, opinion.shape[-1]).to(opinion.dtype)
    if fit == "log":
        error = _digamma(strength) - _digamma((opinion * label).sum(-1))
    else:
        p = opinion.softmax(-1)
        error = ((label - p).square() + p * (1 - p) * torch.sigmoid(-strength).unsqueeze(-1)).sum(-1)
    return error + weight * kl_to_uniform(opinion * (1 - label))


class TMC(Strategy):
    """The training of TMC and ETMC (Han et al., ICLR 2021 and TPAMI 2022).

    The loss is the batch mean of the evidential loss of the fused opinion plus that of every view's own opinion, a
    pseudo view of the head included, all with weight 1. The KL term, which removes evidence for wrong classes, has the
    weight min(1, t / anneal), t = epoch + first with epochs counted from 0.

    Args:
        anneal: epochs until the KL term has full weight; 50 in the conference code (default), 10 in the journal's.
        first: t of the first epoch; 1 in the conference code (default), 0 in the journal's, whose first epoch has no
            KL.
        fit: "log" (default), or "mse", which the conference code contains but does not call.
    """

    requires = frozenset({"evidence"})
    owns = frozenset({"task"})

    def __init__(self, *, anneal: int = 50, first: int = 1, fit: Fit = "log") -> None:
        self.anneal = anneal
        self.first = first
        self.fit: Fit = fit

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        weight = min(1.0, (step.run.epoch + self.first) / self.anneal)
        step.run.log("tmc/anneal", weight)
        views = {**out.unimodal, **out.aux.get("opinions", {})}
        opinions = torch.stack([step.kept(x) for x in (out.logits, *views.values())])
        losses = step.mean(evidence_loss(opinions, step.target, weight, self.fit).T)
        return {**terms, **dict(zip(["task", *(f"tmc/{view}" for view in views)], losses))}

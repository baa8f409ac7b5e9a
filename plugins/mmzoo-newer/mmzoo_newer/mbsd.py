"""MBSD: pairs of modalities learn from each other, in the form of a later benchmark."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mmzoo.api import Outputs, Step, Strategy, Terms

Form = Literal["peer", "repaired"]


def leads(a: Tensor, b: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B,) omega, hi and log lo of a pair of logits.

    hi and lo are the larger and the smaller probability of the true class; omega = hi - lo if one of the two
    predictions is correct, else 0.

    Args:
        a: (B, C).
        b: (B, C).
        target: (B,).
    """
    log_p = torch.stack([z.log_softmax(-1).gather(1, target[:, None]).squeeze(1) for z in (a, b)])
    hi, lo = log_p.amax(0).exp(), log_p.amin(0)
    right = (a.argmax(1) == target) | (b.argmax(1) == target)
    return torch.where(right, hi - lo.exp(), 0.0), hi, lo


def pair_terms(a: Tensor, b: Tensor, target: Tensor, *, on_logits: bool, form: Form = "peer") -> tuple[Tensor, Tensor]:
    """(B,) RS and KL of a pair of logits, before the mean; RS = omega mean_c (a - b)^2.

    Args:
        a: (B, C).
        b: (B, C).
        target: (B,).
        on_logits: compute RS on logits; False: on probabilities.
        form: KL is, for "peer", omega lo (log lo - hi), in which a probability takes the place of a log-probability;
            "repaired" (ours): omega KL(stronger || weaker), without a gradient to the stronger and through omega.
    """
    omega, hi, log_lo = leads(a, b, target)
    x, y = (a, b) if on_logits else (a.softmax(-1), b.softmax(-1))
    apart = omega * (x - y).square().mean(-1)
    if form == "peer":
        return apart, omega * log_lo.exp() * (log_lo - hi)
    log_a, log_b = a.log_softmax(-1), b.log_softmax(-1)
    first = (log_a.gather(1, target[:, None]) >= log_b.gather(1, target[:, None])).detach()
    strong, weak = torch.where(first, log_a, log_b).detach(), torch.where(first, log_b, log_a)
    return apart, omega.detach() * (strong.exp() * (strong - weak)).sum(-1)


class MBSD(Strategy):
    """Self-distillation between pairs of modalities, as implemented in BalanceBenchmark.

    The original paper was not available. L = CE(f, y) + own sum_m CE(o_m, y) + weight (RS + KL), the means over all
    pairs of modalities of `pair_terms`. RS is computed on logits for two modalities and on probabilities for more, as
    there. Samples that lack one of a pair do not count in it.

    Args:
        own: factor on the unimodal losses.
        weight: factor on RS and KL.
        form: "peer" (default), or "repaired" (ours) for a proper Kullback-Leibler divergence.
    """

    requires = frozenset({"unimodal"})
    min_modalities = 2
    neutral = {"own": 0.0, "weight": 0.0}  # noqa: RUF012
    expected_failures = {"check_large_logits": "RS squares differences of logits, as its source does"}  # noqa: RUF012

    def __init__(self, *, own: float = 1.0, weight: float = 1.0, form: Form = "peer") -> None:
        self.own = own
        self.weight = weight
        self.form = form

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        added = {}
        logits = {m: step.kept(z) for m, z in out.unimodal.items()}
        if self.own:
            added = {f"mbsd/{m}": self.own * step.loss(z, step.here(m)) for m, z in logits.items()}
        if self.weight and len(logits) > 1:
            apart, divergence = self._pairs(step, logits)
            added |= {"mbsd/rs": self.weight * apart, "mbsd/kl": self.weight * divergence}
        return {**terms, **added}

    def _pairs(self, step: Step, logits: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The means of RS and KL over samples and pairs."""
        found = []
        for a, b in itertools.combinations(logits, 2):
            each = pair_terms(logits[a], logits[b], step.target, on_logits=len(logits) == 2, form=self.form)
            found.append(step.mean(torch.stack(each, 1), _both(step, a, b)))
        apart, divergence = torch.stack(found).mean(0)
        return apart, divergence


def _both(step: Step, a: str, b: str) -> Tensor | None:
    """(B',) bool, which samples in the loss have both modalities; None for all."""
    first, second = step.here(a), step.here(b)
    return None if first is None or second is None else first & second

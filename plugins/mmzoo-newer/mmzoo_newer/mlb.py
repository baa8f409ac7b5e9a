"""MLB: scale the gradients of every loss for a modality by how far it is behind or ahead."""

from __future__ import annotations

import torch
from torch import Tensor

from mmzoo.api import Grads, Outputs, Step, Strategy, Terms


def ratios(scores: Tensor) -> Tensor:
    """(M,) r_m = mean over j != m of s_j / s_m, above 1 for a modality that is behind.

    A score of zero counts as the smallest normal number.

    Args:
        scores: (M,), s.
    """
    floored = scores.clamp_min(torch.finfo(scores.dtype).tiny)
    return ((floored[None, :] / floored[:, None]).sum(1) - 1.0) / (len(scores) - 1)


def coefficients(ratio: Tensor, alpha: float = 0.5, most: float = 2.0) -> Tensor:
    """(M,) k_m = 1 + (beta_m - 1) tanh(alpha (r_m - 1)), beta_m = `most` if r_m > 1, else 2.

    Args:
        ratio: (M,), r.
        alpha: steepness.
        most: largest factor of a modality that is behind.
    """
    lead = torch.tanh(alpha * (ratio - 1.0))
    return 1.0 + torch.where(ratio > 1.0, (most - 1.0) * lead, lead)


class MLB(Strategy):
    """Scales all gradients of a modality by how far it is behind (multi-loss balanced, Kontras et al., BMVC 2024).

    L = CE(f, y) + weight sum_m CE(o_m, y). After backward the gradients of all losses for encoder m and for the head's
    part of m (its own classifier and its slice of a linear fusion layer; not a shared bias) are multiplied by k_m
    (`coefficients`), with s_m the summed true-class probability of o_m. The authors' model is the head `separate` with
    hidden=0: one linear classifier per modality beside a linear layer on all features.

    Args:
        alpha: steepness.
        most: largest factor of a modality that is behind (the authors' beta_max). 2 is the form without their option; 1
            never speeds the weaker modality up, and smaller values slow it down.
        weight: factor on the unimodal losses.
    """

    requires = frozenset({"unimodal"})
    min_modalities = 2
    neutral = {"alpha": 0.0, "weight": 0.0}  # noqa: RUF012

    def __init__(self, *, alpha: float = 0.5, most: float = 2.0, weight: float = 1.0) -> None:
        self.alpha = alpha
        self.most = most
        self.weight = weight

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        if not self.weight:
            return terms
        own = {f"mlb/{m}": self.weight * step.loss(step.kept(z), step.here(m)) for m, z in out.unimodal.items()}
        return {**terms, **own}

    @torch.no_grad()
    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        if not self.alpha or len(out.unimodal) < 2:
            return
        scores = step.true_class_scores({m: step.kept(z) for m, z in out.unimodal.items()})
        for m, k in zip(out.unimodal, coefficients(ratios(scores), self.alpha, self.most)):
            step.run.log(f"mlb/{m}/factor", k)
            grads.scale(f"encoder:{m}", k)
            grads.scale(f"head:{m}", k)

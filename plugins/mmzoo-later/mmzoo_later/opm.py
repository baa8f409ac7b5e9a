"""On-the-fly prediction modulation (OPM): drop features of the modality that is ahead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmzoo.api import Step, Strategy
from mmzoo.functional import constant


def drop_probabilities(scores: Tensor, base: float = 0.5, strength: float = 0.5) -> Tensor:
    """(M,) q_u = min(1, base (1 + strength tanh(rho_u - 1))) if rho_u > 1, else 0.

    rho_u is the mean over the other modalities j of s_u / s_j. A score of zero counts as the smallest normal number.
    The weakest modality always has q = 0, so that some features remain.

    Args:
        scores: (M,), the sums s_u.
        base: the probability at rho_u = 1.
        strength: its growth.
    """
    floored = scores.clamp_min(torch.finfo(scores.dtype).tiny)
    rho = ((floored[:, None] / floored[None, :]).sum(1) - 1.0) / (len(scores) - 1)
    ahead = torch.tanh((rho - 1.0).clamp_min(0.0))
    return torch.where(ahead > 0, (base * (1.0 + strength * ahead)).clamp(0.0, 1.0), 0.0)


def dropped_share(probabilities: Tensor, dims: Sequence[int]) -> Tensor:
    """theta = sum_u d_u q_u / sum_u d_u, the expected fraction of features that are dropped.

    Args:
        probabilities: (M,), q_u.
        dims: feature widths d_u.
    """
    widths = constant(list(dims), probabilities)
    return (widths * probabilities).sum() / widths.sum()


class OPM(Strategy):
    """Drops features of the modality that is ahead (OPM, Wei et al., TPAMI 2024).

    In a fraction of the batches every sample loses the features of u with probability q_u (`drop_probabilities`),
    independently; the remaining features are divided by 1 - theta. s_u is the sum over the batch of the true-class
    probabilities of u's own logits. A sample that has lost all of its modalities leaves the loss. Evaluation uses all
    features. The released code divides by the same theta but uses its value as gradient; here no gradient flows there,
    since the scores have none.

    Args:
        base: drop probability at rho_u = 1.
        strength: growth of the probability.
        execute: fraction of the batches.
        warmup: epochs at the start without dropping.
    """

    requires = frozenset({"unimodal"})
    min_modalities = 2
    stochastic = True
    neutral = {"execute": 0.0}  # noqa: RUF012

    def __init__(self, *, base: float = 0.5, strength: float = 0.5, execute: float = 0.7, warmup: int = 6) -> None:
        self.base = base
        self.strength = strength
        self.execute = execute
        self.warmup = warmup

    def features(self, step: Step, feats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        generator = step.generator("opm")
        chosen = bool(torch.rand((), generator=generator) < self.execute)
        if len(feats) < 2 or step.run.epoch < self.warmup or not chosen:
            return feats
        q = self._probabilities(step, feats)
        shape = (len(step.batch), len(feats))
        dropped = torch.rand(shape, generator=generator).to(q.device, q.dtype) < q
        left = ~dropped
        if step.batch.present is not None:
            columns = [step.run.modalities.index(m) for m in feats]
            left = left & step.batch.present[:, columns]
        step.keep = left.any(1) if step.keep is None else step.keep & left.any(1)
        factor = 1.0 / (1.0 - dropped_share(q, [z.shape[1] for z in feats.values()]))
        return {m: torch.where(dropped[:, i, None], 0.0, z * factor) for i, (m, z) in enumerate(feats.items())}

    @torch.no_grad()
    def _probabilities(self, step: Step, feats: Mapping[str, Tensor]) -> Tensor:
        own = step.run.model.outputs({m: z.detach() for m, z in feats.items()}, step.batch.present).unimodal
        scores = step.true_class_scores({m: step.kept(own[m]) for m in feats})
        return drop_probabilities(scores, self.base, self.strength)

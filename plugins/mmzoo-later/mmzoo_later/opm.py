"""On-the-fly prediction modulation: drop the features of the modality that is ahead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mmzoo.api import Step, Strategy
from mmzoo.functional import constant


def drop_probabilities(scores: Tensor, base: float = 0.5, strength: float = 0.5) -> Tensor:
    """(M,) q_u = min(1, base (1 + strength tanh(rho_u - 1))) where rho_u > 1, else 0.

    rho_u: mean over the other modalities j of s_u / s_j. A score of zero is taken as the smallest normal number. The
    weakest modality always has q = 0, so that the features that are left never vanish.
    """
    floored = scores.clamp_min(torch.finfo(scores.dtype).tiny)
    rho = ((floored[:, None] / floored[None, :]).sum(1) - 1.0) / (len(scores) - 1)
    ahead = torch.tanh((rho - 1.0).clamp_min(0.0))
    return torch.where(ahead > 0, (base * (1.0 + strength * ahead)).clamp(0.0, 1.0), 0.0)


def dropped_share(probabilities: Tensor, dims: Sequence[int]) -> Tensor:
    """theta = sum_u d_u q_u / sum_u d_u, the share of all features that is expected to be dropped."""
    widths = constant(list(dims), probabilities)
    return (widths * probabilities).sum() / widths.sum()


class OPM(Strategy):
    """OPM (Wei et al., TPAMI 2024).

    s_u: the sum over the batch of the true-class probabilities of u's own logits. In a share `execute` of the batches every
    item loses the features of u with probability q_u, independently; what is left is divided by 1 - theta. An item
    that has lost all of its modalities leaves the loss. Evaluation uses all features.

    warmup: epochs, from the first, without any of this. The released code divides by the same theta but hands theta's
    value on as its gradient; no gradient flows there here, since the scores are taken without one.
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

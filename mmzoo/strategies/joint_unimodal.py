"""The control: plain training plus the cross-entropy of every modality's own logits."""

from __future__ import annotations

import torch.nn.functional as F

from mmzoo.api import Outputs, Step, Strategy, Terms


class JointUnimodal(Strategy):
    """Adds weight * sum_m CE(l_m, y) to the joint loss.

    Any claim that a method rebalances modalities has to beat this. Items for which a modality is absent do not count
    in its term. With heads whose unimodal logits are slices the joint classifier itself is trained on them.
    """

    requires = frozenset({"unimodal"})
    neutral = {"weight": 0.0}  # noqa: RUF012

    def __init__(self, *, weight: float = 1.0) -> None:
        self.weight = weight

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        if self.weight == 0.0:
            return terms
        own = {}
        for m, logits in out.unimodal.items():
            loss = F.cross_entropy(step.kept(logits), step.target, reduction="none")
            here = step.here(m)
            mean = loss.mean() if here is None else (loss * here).sum() / here.sum().clamp_min(1)
            own[f"joint_unimodal/{m}"] = self.weight * mean
        return {**terms, **own}

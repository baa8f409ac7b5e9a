"""The control: plain training plus the cross-entropy of every modality's own logits."""

from __future__ import annotations

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
        own = {
            f"joint_unimodal/{m}": self.weight * step.loss(step.kept(logits), step.here(m))
            for m, logits in out.unimodal.items()
        }
        return {**terms, **own}

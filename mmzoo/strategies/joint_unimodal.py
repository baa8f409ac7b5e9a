"""A control: plain training plus the cross-entropy of every modality's own logits."""

from __future__ import annotations

from mmzoo.api import Outputs, Step, Strategy, Terms


class JointUnimodal(Strategy):
    """Adds weight * sum_m CE(l_m, y) to the joint loss.

    Any method that claims to rebalance modalities must beat this control. Samples without a modality do not count in
    its term. With heads whose unimodal logits are slices, the term trains the joint classifier itself.

    Args:
        weight: factor on the sum.
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

"""How much of the imbalance comes from fitting labels: training on labels mixed with the uniform distribution."""

from __future__ import annotations

from mmzoo.api import Outputs, Step, Strategy, Terms


class LabelFitting(Strategy):
    """Trains on t = one_hot * y + (1 - one_hot) / C in place of the label y (Yang et al., NeurIPS 2024, Figure 1).

    The modality that fits labels fastest gains least from a softer label, which is the point of the figure.

    Args:
        one_hot: fraction of the label: 1 is plain training, 0 the uniform label; 0.7 in the paper (default).
    """

    owns = frozenset({"task"})
    neutral = {"one_hot": 1.0}  # noqa: RUF012

    def __init__(self, *, one_hot: float = 0.7) -> None:
        self.one_hot = one_hot

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        if self.one_hot == 1.0:
            return terms
        uniform = step.mean(-step.kept(out.logits).log_softmax(-1).mean(-1))
        return {**terms, "task": self.one_hot * terms["task"] + (1.0 - self.one_hot) * uniform}

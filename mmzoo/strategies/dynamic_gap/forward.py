"""A learned alpha by the forward tangent: the derivative of the weights in alpha, carried through the steps."""

from __future__ import annotations

import torch
from torch import Tensor

from mmzoo.api import Run, Step
from mmzoo.bilevel import Derivative, ForwardTangent
from mmzoo.strategies.dynamic_gap.learners import Learned, StepRule
from mmzoo.strategies.dynamic_gap.losses import GapLoss
from mmzoo.strategies.dynamic_gap.settings import UpperSettings


class Forward(Learned):
    """The derivative along the steps as they were taken, since the last update; no inverse (Franceschi et al., 2017).

    Args:
        loss: the two inner losses.
        step: how a derivative moves alpha.
        upper: where the upper loss comes from, and how often alpha moves.
    """

    owns = frozenset({"backward"})
    step_cost = (1.0, 3.0)

    def __init__(self, loss: GapLoss, step: StepRule, upper: UpperSettings) -> None:
        super().__init__(loss, step, upper)
        self.requires |= {"double_backward", "plain_steps"}
        self.update_cost = (upper.upper_batches, upper.upper_batches)
        self.tangent: ForwardTangent | None = None

    def watch(self, run: Run) -> None:
        if self.tangent is None:  # there is no optimizer yet in setup
            reduce = run.reduce if run.n_processes > 1 else None
            self.tangent = ForwardTangent(run.optimizer, run.model, reduce=reduce)
        self.tangent.reset()

    def backward(self, step: Step, loss: Tensor, slope: Tensor) -> None:
        if self.tangent is None:
            return super().backward(step, loss, slope)
        self.tangent.backward_of(loss, slope)
        step.run.cost.backward += 3

    def stepped(self) -> None:
        if self.tangent is not None:
            self.tangent.stepped()

    def close(self) -> None:
        if self.tangent is not None:
            self.tangent.close()  # nothing is watched until the next epoch in which the strategy acts

    def derivative(self, run: Run, alpha: float) -> Derivative:
        batches = self.batches(run)

        def upper() -> Tensor:
            pieces = [self.upper_loss(run, batch) for batch in batches]
            total = sum(p.weight for p in pieces)
            return torch.stack([p.loss * (p.weight / total) for p in pieces]).sum()

        assert self.tangent is not None  # an update follows an epoch's start
        found = self.tangent.derivative(upper)
        run.cost.backward += len(batches)
        run.log("dynamic_gap/horizon", found.horizon)
        return found

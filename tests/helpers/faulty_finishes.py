"""Strategies with a fault in what they do after training."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mmzoo.api import Outputs, Run, Strategy


class DrawsAfterTraining(Strategy):
    """Moves the global random stream."""

    owns = frozenset({"finish"})

    def finish(self, run: Run) -> Iterator[str]:
        torch.rand(1)
        yield "drawn"


class FinishesNothing(Strategy):
    """Has a finish without a candidate."""

    owns = frozenset({"finish"})

    def finish(self, run: Run) -> Iterator[str]:
        yield from ()


class FinishesOnce(Strategy):
    """Predicts with a number that is another one in each run of a process."""

    owns = frozenset({"finish"})
    state = ("shift",)
    runs = 0

    def __init__(self) -> None:
        self.shift = 0.0

    def finish(self, run: Run) -> Iterator[str]:
        FinishesOnce.runs += 1
        self.shift = float(FinishesOnce.runs)
        yield "shifted"

    def predict(self, out: Outputs) -> Outputs:
        shift = torch.arange(out.logits.shape[1], device=out.logits.device) * self.shift
        return out.replace(logits=out.logits + shift)

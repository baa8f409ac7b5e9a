"""Optimizer and learning-rate schedule of a run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.optim import lr_scheduler

from mmzoo.training.config import Training


def build_optimizer(groups: Iterable[Mapping[str, Any]], training: Training) -> torch.optim.Optimizer:
    """The optimizer that `training` names, over parameter groups that carry their own lr and weight decay."""
    params: Any = [dict(g) for g in groups]
    if training.optimizer == "sgd":
        return torch.optim.SGD(params, lr=training.lr, momentum=training.momentum, fused=training.fused or None)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[training.optimizer]
    return kind(params, lr=training.lr, fused=training.fused or None)


class Schedule:
    """The factor on the learning rate, by torch's own schedulers.

    They run on a rate of 1 of their own: strategies scale the rate of single groups, and a scheduler that wrote
    into the optimizer would overwrite that.
    """

    def __init__(self, training: Training, steps_per_epoch: int) -> None:
        self._shadow = torch.optim.SGD([torch.zeros(())], lr=1.0)
        self._scheduler = _scheduler(self._shadow, training)
        self._warmup = training.warmup_epochs * steps_per_epoch

    def factor(self, global_step: int) -> float:
        warm = min(1.0, (global_step + 1) / self._warmup) if self._warmup else 1.0
        return warm * self._shadow.param_groups[0]["lr"]

    def epoch_done(self, loss: float | None) -> None:
        """Advance by one epoch. loss: what "plateau" watches; without one it leaves the rate alone."""
        if isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau):
            if loss is not None and math.isfinite(loss):
                self._scheduler.step(loss)
        elif self._scheduler is not None:
            # torch warns when a scheduler steps before its optimizer; the shadow has nothing to step.
            self._shadow.step()
            self._scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        state = {} if self._scheduler is None else dict(self._scheduler.state_dict())
        return {"rate": self._shadow.param_groups[0]["lr"], "scheduler": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._shadow.param_groups[0]["lr"] = state["rate"]
        if self._scheduler is not None:
            self._scheduler.load_state_dict(dict(state["scheduler"]))


def _scheduler(optimizer: torch.optim.Optimizer, t: Training) -> Any:
    if t.schedule == "step":
        return lr_scheduler.StepLR(optimizer, t.step_size, t.gamma)
    if t.schedule == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, t.epochs)
    if t.schedule == "plateau":
        return lr_scheduler.ReduceLROnPlateau(optimizer, factor=t.gamma, patience=t.patience)
    return None

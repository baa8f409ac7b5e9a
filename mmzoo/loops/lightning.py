"""A strategy in a Lightning module: `StrategyCallback`. Needs the extra `lightning`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning

from mmzoo.errors import Incompatible
from mmzoo.loops.attached import Attached


class StrategyCallback(lightning.Callback):
    """Calls the strategy's hooks around the loss of a Lightning module.

    The module's `training_step` returns `attached.loss(batch)`. With `automatic_optimization = False` it calls
    `attached.step(batch)` instead. Values that the strategy logs go to the trainer's loggers, and its state into the
    trainer's checkpoints.

    Args:
        attached: the return value of `mmzoo.attach`.
    """

    def __init__(self, attached: Attached) -> None:
        self.attached = attached

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if len(trainer.optimizers) != 1:
            raise Incompatible(f"attach follows one optimizer; configure_optimizers gave {len(trainer.optimizers)}.")
        self.attached.watch(pl_module.optimizers())

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.attached.start_epoch()

    def on_after_backward(self, trainer: Any, pl_module: Any) -> None:
        if pl_module.automatic_optimization:
            self.attached.gradients()

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.log_dict(self.attached.end_epoch())

    def state_dict(self) -> dict[str, Any]:
        return self.attached.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.attached.load_state_dict(state_dict)

"""`StrategyTrainer`: a Hugging Face `Trainer` that applies a strategy attached with `mmzoo.attach`.

For user code only: nothing in mmzoo imports it. Requires transformers (the extra `hf`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from mmzoo.loops.attached import Attached


class StrategyTrainer(Trainer):
    """Hugging Face Trainer that trains with the loss and gradient modifications of a strategy.

    Evaluation and prediction are unchanged and call the model's `forward`.

    Args:
        attached: the return value of `mmzoo.attach` for the Trainer's model.
    """

    def __init__(self, *args: Any, attached: Attached, **kwargs: Any) -> None:
        self.attached = attached
        super().__init__(*args, **kwargs)
        self.add_callback(_Epochs(self))

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        optimizer = super().create_optimizer(*args, **kwargs)
        self.attached.watch(optimizer)
        return optimizer

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        loss = self.attached.loss(inputs)
        return (loss, {"logits": self.attached.out.logits}) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss: Tensor = super().training_step(*args, **kwargs)
        self.attached.gradients()
        return loss


class _Epochs(TrainerCallback):
    """Starts and ends the strategy's epochs with the Trainer's, and forwards its logged values."""

    def __init__(self, trainer: StrategyTrainer) -> None:
        self._trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.attached.start_epoch()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.log(self._trainer.attached.end_epoch())

"""The training pass: one forward, backward and update over one batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mmzoo.core.model import MultimodalModel
from mmzoo.core.values import Batch, Outputs
from mmzoo.errors import BadValue
from mmzoo.training.backprop import Backprop
from mmzoo.training.gradients import Grads
from mmzoo.training.optim import Optimization
from mmzoo.training.step import Step
from mmzoo.training.strategy import Strategy, Terms


@dataclass(frozen=True)
class Parts:
    """The objects that a pass works with: the model, its encoding and backward, and the optimizer."""

    model: MultimodalModel
    backprop: Backprop
    optimization: Optimization


def train_pass(parts: Parts, strategy: Strategy, step: Step) -> None:
    """One pass over one batch: forward, backward and update, with all hooks of the strategy.

    Args:
        parts: model, encoding and optimizer.
        strategy: the strategy.
        step: the batch in its pass.
    """
    optimization, run = parts.optimization, step.run
    optimization.clear()
    if (found := forward_pass(parts, strategy, step)) is None:
        return
    out, terms = found
    strategy.backward(step, terms)
    optimization.average()
    strategy.gradients(step, out, Grads(parts.model, step.pass_, optimization.groups))
    norm = optimization.clip()
    if norm is not None:
        run.log("grad_norm", norm)
    optimization.update(run.global_step)
    strategy.updated(step, out, terms)


def forward_pass(parts: Parts, strategy: Strategy, step: Step) -> tuple[Outputs, Terms] | None:
    """The first half of a pass, up to the loss terms.

    Args:
        parts: model, encoding and optimizer.
        strategy: the strategy.
        step: the batch in its pass.

    Returns:
        Outputs and loss terms; None if no sample is in the loss.
    """
    step.batch = with_inputs(step.batch, strategy.inputs(step, step.batch.inputs))
    feats = strategy.features(step, parts.backprop.encode(step))
    if step.is_empty():
        return None
    out = strategy.outputs(step, parts.model.outputs(feats, step.batch.present))
    task = step.loss(step.kept(out.logits))
    terms = strategy.losses(step, out, {"task": task})
    for name, value in terms.items():
        if value.ndim:
            raise BadValue(f"the loss term {name!r} has the shape {tuple(value.shape)}; a term is a single number.")
        step.run.log(f"loss/{name}", value)
    return out, terms


def with_inputs(batch: Batch, inputs: Mapping[str, Any]) -> Batch:
    """The batch with other inputs.

    Raises:
        BadValue: a modality is missing or new.
    """
    if inputs is batch.inputs:
        return batch
    if set(inputs) != set(batch.inputs):
        raise BadValue(
            f"the hook inputs returned the modalities {', '.join(inputs)}; it was given {', '.join(batch.inputs)}. Return "
            "every one of them; Pass(present=...) of the hook plan leaves some out."
        )
    return replace(batch, inputs={m: inputs[m] for m in batch.inputs})

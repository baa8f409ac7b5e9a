"""The training pass: one forward, backward and update over one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmzoo.errors import BadValue
from mmzoo.training.gradients import Grads

if TYPE_CHECKING:
    from mmzoo.training.run import Run
    from mmzoo.training.step import Step


def train_pass(run: Run, step: Step) -> None:
    """One pass over one batch: the whole of what training does."""
    strategy, model = run.strategy, run.model
    run.optimizer.zero_grad(set_to_none=True)
    feats = strategy.features(step, run.encode(step))
    if step.is_empty():
        return
    out = strategy.outputs(step, model.outputs(feats, step.batch.present))
    task = step.loss(step.kept(out.logits))
    terms = strategy.losses(step, out, {"task": task})
    for name, value in terms.items():
        if value.ndim:
            raise BadValue(f"the loss term {name!r} has the shape {tuple(value.shape)}; a term is a single number.")
        run.log(f"loss/{name}", value)
    strategy.backward(step, terms)
    run.reduce_grads()
    strategy.gradients(step, out, Grads(model, step.pass_))
    run.clip()
    run.update()
    strategy.updated(step, out, terms)

"""A run around given tensors, so that a strategy's own code computes a step of a vector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmzoo.core.encoder import Encoder
from mmzoo.core.head import FusionHead
from mmzoo.core.model import MultimodalModel
from mmzoo.core.values import Batch, Outputs
from mmzoo.heads.concat import Concat
from mmzoo.training.gradients import Grads
from mmzoo.training.run import Run
from mmzoo.training.step import Step
from mmzoo.training.strategy import Strategy


class Given(Encoder):
    """Hands its input on. `probe` is a parameter with no part in it, for gradients that a test makes up."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out_dim = width
        self.probe = nn.Parameter(torch.zeros(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x


def run_on(
    strategy: Strategy,
    features: Mapping[str, Tensor],
    target: Tensor,
    n_classes: int,
    *,
    epoch: int = 0,
    head: FusionHead | None = None,
) -> Run:
    """A run in float64 whose single batch has `features` for inputs and for encoder outputs; it is the slice too, for
    a strategy that requires one.

    head: with its weights; Concat where none is given.
    """
    encoders = {m: Given(z.shape[1]) for m, z in features.items()}
    head = Concat({m: e.out_dim for m, e in encoders.items()}, n_classes) if head is None else head
    model = MultimodalModel(encoders, head).double()
    batches = [Batch(dict(features), target, torch.arange(len(target)))]
    run = Run(model, strategy, train=batches, slice=batches if "slice" in strategy.requires else None)
    run.epoch = epoch
    return run


def step_of(run: Run) -> Step:
    return Step(run, next(iter(run.train())))


def terms_of(
    strategy: Strategy,
    features: Mapping[str, Tensor],
    logits: Tensor,
    target: Tensor,
    *,
    unimodal: Mapping[str, Tensor] | None = None,
    epoch: int = 0,
    **state: Any,
) -> dict[str, Tensor]:
    """The loss terms that `strategy` makes of given outputs. state: attributes it is to have by then."""
    run = run_on(strategy, features, target, logits.shape[1], epoch=epoch)
    for name, value in state.items():
        setattr(strategy, name, value)
    out = Outputs(logits, features, unimodal or {})
    return dict(strategy.losses(step_of(run), out, {"task": F.cross_entropy(logits, target)}))


def gradient_factors(strategy: Strategy, unimodal: Mapping[str, Tensor], target: Tensor) -> dict[str, Tensor]:
    """modality -> what the hook `gradients` multiplies the encoder's gradient by, given unimodal logits."""
    features = {m: torch.zeros(len(target), 1, dtype=torch.float64) for m in unimodal}
    n_classes = next(iter(unimodal.values())).shape[1]
    run = run_on(strategy, features, target, n_classes)
    step = step_of(run)
    probes: dict[str, Any] = {m: run.model.encoders[m].probe for m in unimodal}
    for probe in probes.values():
        probe.grad = torch.ones_like(probe)
    joint = torch.stack(list(unimodal.values())).sum(0)
    strategy.gradients(step, Outputs(joint, features, unimodal), Grads(run.model, step.pass_))
    return {m: probe.grad[0, 0] for m, probe in probes.items()}

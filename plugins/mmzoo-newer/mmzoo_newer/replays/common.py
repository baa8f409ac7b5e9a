"""One training pass of a strategy on the tensors of a vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.api import FusionHead, Grads, Outputs, Pass, Step, Strategy
from mmzoo.heads.concat import Concat
from mmzoo.heads.separate import Separate
from mmzoo.heads.sum import Sum
from mmzoo.testing.replay import Case
from mmzoo.testing.replay.harness import run_on, step_of


@dataclass
class Traced:
    """What one pass gave: outputs, terms, and the gradients of the features and of the head by parameter name."""

    step: Step
    out: Outputs
    terms: Mapping[str, Tensor]
    features: list[Tensor | None]
    head: Mapping[str, Tensor | None]

    @property
    def total(self) -> Tensor:
        return torch.stack(list(self.terms.values())).sum()


def listed(case: Case, key: str) -> list[Tensor]:
    """A list of tensors that may differ in width."""
    return [torch.tensor(x, dtype=torch.float64) for x in case.inputs[key]]


def named(tensors: Sequence[Tensor]) -> dict[str, Tensor]:
    return {f"m{i}": x for i, x in enumerate(tensors)}


def traced(
    strategy: Strategy,
    features: Sequence[Tensor],
    target: Tensor,
    head: FusionHead,
    *,
    epoch: int = 0,
    only: str | None = None,
) -> Traced:
    """Features, outputs and losses of a strategy, and the gradients of the sum of its terms.

    only: the modality of the planned pass to take; None for the first pass.
    """
    inputs = named(features)
    run = run_on(strategy, inputs, target, head.n_classes, epoch=epoch, head=head)
    planned = strategy.plan(step_of(run), [Pass()])
    step = step_of(run).at(next(p for p in planned if only is None or p.present == {only}))
    leaves = {m: z.clone().requires_grad_() for m, z in inputs.items()}
    read = strategy.features(step, {m: leaves[m] for m in step.pass_.fed(run.modalities)})
    out = strategy.outputs(step, run.model.outputs(read))
    terms = strategy.losses(step, out, {"task": step.loss(step.kept(out.logits))})
    found = Traced(step, out, terms, [], {})
    found.total.backward()
    found.features = [z.grad for z in leaves.values()]
    found.head = {name: p.grad for name, p in run.model.head.named_parameters()}
    return found


def gradients_of_features(found: Traced, features: Sequence[Tensor]) -> list[Tensor]:
    """Zeros for a modality that no gradient reached."""
    return [torch.zeros_like(z) if g is None else g for z, g in zip(features, found.features)]


def gradient_factors(found: Traced) -> list[Tensor]:
    """What the hook `gradients` then multiplies each encoder's gradient by."""
    run = found.step.run
    probes: dict[str, Any] = {m: run.model.encoders[m].probe for m in run.modalities}
    for probe in probes.values():
        probe.grad = torch.ones_like(probe)
    run.strategy.gradients(found.step, found.out, Grads(run.model, found.step.pass_))
    return [probe.grad[0, 0] for probe in probes.values()]


def concat_head(weight: Tensor, bias: Tensor, widths: Sequence[int]) -> Concat:
    """The head concat with a joint weight (C, sum of widths)."""
    head = Concat({f"m{i}": d for i, d in enumerate(widths)}, len(bias)).double()
    blocks = {f"weight.m{i}": w for i, w in enumerate(weight.split(list(widths), dim=1))}
    head.load_state_dict({**blocks, "bias": bias})
    return head


def sum_head(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Sum:
    """The head sum with a classifier a modality."""
    head = Sum({f"m{i}": w.shape[1] for i, w in enumerate(weights)}, len(biases[0])).double()
    for i, (w, b) in enumerate(zip(weights, biases)):
        _fill(head.linear[f"m{i}"], w, b)
    return head


def separate_head(weight: Tensor, bias: Tensor, own: Sequence[Tensor], own_biases: Sequence[Tensor]) -> Separate:
    """A linear classifier a modality beside one on all features."""
    head = Separate({f"m{i}": w.shape[1] for i, w in enumerate(own)}, len(bias), hidden=0).double()
    for i, (w, b) in enumerate(zip(own, own_biases)):
        _fill(head.linear[f"m{i}"], w, b)
    blocks = concat_head(weight, bias, [w.shape[1] for w in own])
    assert head.blocks is not None
    head.blocks.load_state_dict(blocks.state_dict())
    return head


def joined(head: Concat, grads: Mapping[str, Tensor | None]) -> Tensor:
    """The gradient of the joint weight of a head concat."""
    return torch.cat([g for m in head.dims if (g := grads[f"weight.{m}"]) is not None], 1)


@torch.no_grad()
def _fill(layer: Any, weight: Tensor, bias: Tensor) -> None:
    assert isinstance(layer, nn.Linear)
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)

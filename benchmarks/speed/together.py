"""Whether seeds of small models should train together: bare loops, one a seed, against one loop over stacked weights (vmap).

The models are two MLPs of the default size and a linear layer; both ways take the same batches. `ratio`: processor time of
the stacked loop over that of the separate loops; `difference`: the largest difference of a weight after all steps; `moved`:
how far the weight went that moved most.
"""

from __future__ import annotations

import copy
import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from benchmarks.speed.steps import kit_of
from mmzoo.benchmark.execution.building import build_model
from mmzoo.registry.plugins import catalogue


class _Joint(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        kit = kit_of("concat")
        torch.manual_seed(seed)
        self.encoders = build_model(catalogue(), kit.spec, kit.data).encoders
        self.head = nn.Linear(sum(int(e.out_dim) for e in self.encoders.values()), kit.data.n_classes)  # type: ignore[arg-type]

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        out: Tensor = self.head(torch.cat([e(inputs[m]) for m, e in self.encoders.items()], 1))
        return out


def measure(seeds: int = 3, steps: int = 200) -> dict[str, Any]:
    """One row: processor time together against apart, for SGD with momentum in float32 without dropout."""
    models = [_Joint(s).eval() for s in range(seeds)]  # no dropout: its draws could not be equal
    kit = kit_of("concat")
    run = kit.run()
    batches = list(run.epoch_batches())
    apart = copy.deepcopy(models)
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for m in apart]
    weights, buffers = stack_module_state(models)
    momentum = {k: torch.zeros_like(v) for k, v in weights.items()}
    base = copy.deepcopy(models[0]).to("meta")

    def loss(params: Any, held: Any, inputs: Any, target: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(base, (params, held), (inputs,)), target)

    together = vmap(grad(loss), in_dims=(0, 0, None, None))
    taken: list[float] = []
    for i in range(steps):
        batch = batches[i % len(batches)]
        inputs = dict(batch.inputs)
        a = time.process_time()
        for model, optimizer in zip(apart, optimizers):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), batch.target).backward()
            optimizer.step()
        b = time.process_time()
        grads = together(weights, buffers, inputs, batch.target)
        names = list(weights)
        torch._foreach_mul_([momentum[k] for k in names], 0.9)
        torch._foreach_add_([momentum[k] for k in names], [grads[k] for k in names])
        weights = {k: v.detach() for k, v in weights.items()}
        torch._foreach_add_([weights[k] for k in names], [momentum[k] for k in names], alpha=-0.01)
        taken.append((time.process_time() - b) / (b - a))
    far = moved = 0.0
    for i, (model, start) in enumerate(zip(apart, models)):
        for (k, now), then in zip(model.named_parameters(), start.parameters()):
            far = max(far, float((now - weights[k][i]).detach().abs().max()))
            moved = max(moved, float((now - then).detach().abs().max()))
    return {
        "what": f"{seeds} seeds together",
        "ratio": round(statistics.median(taken), 3),
        "difference": far,
        "moved": round(moved, 3),
    }

"""Runs of TMC and DOMFN, and their formulas in numpy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from helpers.by_hand import Linear
from mmzoo.api import Batch, Encoder, MultimodalModel, Run, Strategy
from mmzoo.core.head import FusionHead
from mmzoo.training.config import Training

N, C = 6, 3
IN = {"a": 3, "v": 2, "t": 2}


def rows(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------------- whole steps, by hand
def batches(modalities: Sequence[str], n: int = 2) -> list[Batch]:
    found = []
    for i in range(n):
        target = torch.cat([torch.arange(C), torch.arange(N - C)])
        inputs = {m: rows(10 * i + IN[m], N, IN[m]) + 0.7 * target[:, None] / (j + 1) for j, m in enumerate(modalities)}
        found.append(Batch(inputs, target, torch.arange(N) + N * i))
    return found


def run_of(strategy: Strategy, modalities: Sequence[str], head: Callable[..., FusionHead]) -> Run:
    torch.manual_seed(0)
    encoders: dict[str, Encoder] = {m: Linear(IN[m], 3) for m in modalities}
    model = MultimodalModel(encoders, head({m: e.out_dim for m, e in encoders.items()}, C)).double()
    with torch.no_grad():  # large enough for the modalities to disagree
        for p in model.head.parameters():
            p.mul_(3.0)
    training = Training(optimizer="sgd", lr=0.2, momentum=0.9, weight_decay=0.03, epochs=3)
    return Run(model, strategy, train=batches(modalities), training=training, seed=5)


def dempster(one: Any, two: Any) -> Any:
    """Evidence (C,) of two views by the rule as it is published: beliefs, uncertainties, and 1 - conflict below."""
    n = len(one)
    (b1, u1), (b2, u2) = ((e / (e.sum() + n), n / (e.sum() + n)) for e in (one, two))
    conflict = sum(b1[i] * b2[j] for i in range(n) for j in range(n) if i != j)
    b, u = (b1 * b2 + b1 * u2 + b2 * u1) / (1 - conflict), u1 * u2 / (1 - conflict)
    return b * (n / u)

"""Runs of UMT and UME with teachers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from helpers.by_hand import Linear
from mmzoo.api import Batch, MultimodalModel, Run, Strategy, Training
from mmzoo.core.seeding import seeded
from mmzoo.heads.concat import Concat

MODALITIES = ("a", "v", "t")
IN, OUT = {"a": 5, "v": 2, "t": 3}, {"a": 3, "v": 4, "t": 2}
N, C = 7, 4


# ---------------------------------------------------------------------- whole steps, by hand
class Needs(Strategy):
    """Plain training that has teachers."""

    requires = frozenset({"teachers"})


def batches(present: bool = False, seed: int = 3) -> list[Batch]:
    g = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(2):
        inputs = {m: torch.randn(N, d, generator=g, dtype=torch.float64) for m, d in IN.items()}
        there = torch.rand(N, len(IN), generator=g) < 0.6
        there[0] = True
        target = torch.cat([torch.arange(C), torch.randint(C, (N - C,), generator=g)])
        rows.append(Batch(inputs, target, torch.arange(N) + N * i, there if present else None))
    return rows


def linear_model(modalities: tuple[str, ...] = MODALITIES, seed: int = 0, head: Any = Concat) -> MultimodalModel:
    encoders = {}
    for m in modalities:
        with seeded(seed, "init", m):
            encoders[m] = Linear(IN[m], OUT[m])
    with seeded(seed, "head", *modalities):
        return MultimodalModel(encoders, head({m: OUT[m] for m in modalities}, C)).double()


def given_teachers(head: Any = Concat) -> dict[str, MultimodalModel]:
    return {m: linear_model((m,), seed=7, head=head) for m in MODALITIES}


def training(**changes: Any) -> Training:
    return Training(optimizer="sgd", lr=0.2, momentum=0.9, weight_decay=0.03, epochs=3).replace(**changes)


def linear_run(strategy: Strategy, present: bool = False, head: Any = Concat, **options: Any) -> Run:
    options = {"train": batches(present), "training": training(), "seed": 5, **options}
    return Run(linear_model(head=head), strategy, **options)


# ---------------------------------------------------------------------- what the mathematics promises
def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

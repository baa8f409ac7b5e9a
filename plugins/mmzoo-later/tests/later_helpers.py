"""What the tests of this package share."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from mmzoo.api import Run, Strategy, Training
from mmzoo.heads.concat import Concat
from mmzoo.testing.harness.tasks import build_model, make_task

SEEDS = st.integers(0, 10**6)
quick = settings(deadline=None, max_examples=25, derandomize=True)


def started(strategy: Strategy, modalities: int = 2, head: Any = Concat, **options: Any) -> Run:
    task = make_task(modalities, equal=True, dtype=torch.float64)
    with_slice = task.loader("slice") if "slice" in strategy.requires else None
    training = Training(lr=0.05, momentum=0.9, weight_decay=0.01, batch_size=5, epochs=options.pop("epochs", 4))
    return Run(
        build_model(task, head, **options), strategy, train=task.loader("train"), slice=with_slice, training=training
    )


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

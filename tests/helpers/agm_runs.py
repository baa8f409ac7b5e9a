"""Runs of AGM and MLA, and their factors written in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmzoo.api import Batch

N, C = 6, 3
IN = {"a": 4, "v": 2, "t": 3}


def rows(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------------- whole steps, by hand
def batches(modalities: Sequence[str], n: int = 3) -> list[Batch]:
    found = []
    for i in range(n):
        g = torch.Generator().manual_seed(i)
        target = torch.cat([torch.arange(C), torch.randint(C, (N - C,), generator=g)])
        inputs = {m: rows(10 * i + IN[m], N, IN[m]) + 0.5 * target[:, None] / (j + 1) for j, m in enumerate(modalities)}
        found.append(Batch(inputs, target, torch.arange(N) + N * i))
    return found

"""Small heads, and layers of them written in numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers.by_hand import Weights
from mmzoo.api import FusionHead

WIDTHS = {"a": 3, "b": 5, "c": 2, "d": 4}
N, C = 5, 3


def dims_of(m: int) -> dict[str, int]:
    return dict(list(WIDTHS.items())[:m])


def features_of(dims: Mapping[str, int], seed: int = 0, n: int = N) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {m: torch.randn(n, d, generator=g, dtype=torch.float64) for m, d in dims.items()}


def built(cls: Callable[..., FusionHead], dims: Mapping[str, int], seed: int = 0, **params: Any) -> Any:
    torch.manual_seed(seed)
    return cls(dims, C, **params).double()


# ---------------------------------------------------------------------- by hand, in numpy
def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def softmax(x: Any, axis: int) -> Any:
    e = np.exp(x - x.real.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def layer(w: Weights, name: str, x: Any) -> Any:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

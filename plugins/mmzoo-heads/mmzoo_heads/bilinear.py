"""Bilinear fusion and its smaller relatives: multiplicative interactions."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmzoo.api import FusionHead

Form = Literal["matrix", "vector", "scalar"]


def interaction(form: Form, x: Tensor, y: Tensor, w: Tensor, u: Tensor, v: Tensor, b: Tensor) -> Tensor:
    """One multiplicative interaction of two inputs (Jayakumar et al., ICLR 2020, table 1).

    Args:
        form: "matrix": y^T (W x + V) + U^T x + b. "vector": (x W + V) * y + x U + b. "scalar": (x . W + V) y + (x . U +
            b).
        x: (B, D1).
        y: (B, D2).
        w: (D1, D2, C) for "matrix", (D1, D2) for "vector", (D1,) for "scalar".
        u: (D1, C), (D1, D2) or (D1,).
        v: (D2, C), (D2,) or (1,).
        b: (C,), (D2,) or (1,).

    Returns:
        (B, C) for "matrix", otherwise (B, D2).
    """
    if form == "matrix":
        return torch.einsum("bi,ijc,bj->bc", x, w, y) + y @ v + x @ u + b
    if form == "vector":
        return (x @ w + v) * y + x @ u + b
    return (x @ w[:, None] + v) * y + (x @ u[:, None] + b)


class Bilinear(FusionHead):
    """Multiplicative interactions of modalities (Jayakumar et al., ICLR 2020).

    Args:
        dims: modality -> feature width, in order.
        n_classes: number of classes C.
        form: "matrix" (default): l = sum over pairs i < j of z_i^T W_ij z_j + sum_i U_i z_i + b, the paper's full
            bilinear form for two modalities; the sum over pairs is ours. "vector", "scalar": the concatenated features
            of all modalities but the last condition those of the last, and a linear layer reads the result.

    Raises:
        Incompatible: a single modality.

    Shape:
        features: modality -> (B, D_m). Logits: (B, C).
    """

    how = "ablated"
    min_modalities = 2

    def __init__(self, dims: Mapping[str, int], n_classes: int, *, form: Form = "matrix") -> None:
        super().__init__(dims, n_classes)
        self.form = form
        if form == "matrix":
            self.pairs = list(itertools.combinations(dims, 2))
            self.bilinear = nn.ParameterList(
                nn.Parameter(torch.randn(dims[i], dims[j], n_classes) / (dims[i] * dims[j]) ** 0.5)
                for i, j in self.pairs
            )
            self.linear = nn.ModuleDict({m: nn.Linear(d, n_classes, bias=False) for m, d in dims.items()})
            self.bias = nn.Parameter(torch.zeros(n_classes))
            return
        *others, last = dims
        given, taken = sum(dims[m] for m in others), dims[last]
        out = taken if form == "vector" else 1
        shape = (given, taken) if form == "vector" else (given,)
        self.w = nn.Parameter(torch.randn(shape) / given**0.5)
        self.u = nn.Parameter(torch.randn(shape) / given**0.5)
        self.v = nn.Parameter(torch.ones(out))
        self.b = nn.Parameter(torch.zeros(out))
        self.classify = nn.Linear(taken, n_classes)

    def own(self, modality: str) -> Any:
        return self.linear[modality].parameters() if self.form == "matrix" else ()

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        if self.form == "matrix":
            total = sum((self.linear[m](z) for m, z in features.items()), self.bias)
            for (i, j), w in zip(self.pairs, self.bilinear):
                total = total + torch.einsum("bi,ijc,bj->bc", features[i], w, features[j])
            return total, {}
        *others, last = features.values()
        fused = interaction(self.form, torch.cat(others, 1), last, self.w, self.u, self.v, self.b)
        return self.classify(fused), {"penultimate": fused}

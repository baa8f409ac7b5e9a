"""Prediction summation: one linear classifier a modality, their logits added or averaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmzoo.core.head import FusionHead, mean_over_present


class Sum(FusionHead):
    """l = sum_m (W_m z_m + b_m); with reduce="mean" the average instead, which scales gradients by 1/M.

    The unimodal logits are the terms with their full bias. (The authors' validation loop of OGM halves the bias,
    its training loop does not.) An absent modality contributes nothing.
    """

    how = "exact"

    def __init__(self, dims: Mapping[str, int], n_classes: int, *, reduce: Literal["sum", "mean"] = "sum") -> None:
        super().__init__(dims, n_classes)
        self.reduce = reduce
        self.additive = reduce == "sum"
        self.linear = nn.ModuleDict({m: nn.Linear(d, n_classes) for m, d in dims.items()})

    def own(self, modality: str) -> Iterable[nn.Parameter]:
        return self.linear[modality].parameters()

    def classifier(self, modality: str) -> tuple[Tensor, Tensor]:
        layer: Any = self.linear[modality]
        return layer.weight, layer.bias

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        parts = self._parts(features, present)
        if self.reduce == "sum":
            values = list(parts.values())
            return sum(values[1:], values[0]), {"parts": parts}
        return mean_over_present(torch.stack(list(parts.values()), 1), present), {"parts": parts}

    def split(
        self, features: Mapping[str, Tensor], present: Tensor | None, aux: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        found: Mapping[str, Tensor] = aux["parts"]
        return found

    def _parts(self, features: Mapping[str, Tensor], present: Tensor | None) -> dict[str, Tensor]:
        parts = {m: self.linear[m](z) for m, z in features.items()}
        if present is None:
            return parts
        return {m: torch.where(present[:, i, None], z, 0.0) for i, (m, z) in enumerate(parts.items())}

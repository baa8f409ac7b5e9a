"""Prediction summation: one linear classifier per modality, with logits added or averaged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmzoo.core.head import FusionHead, mean_over_present


class Sum(FusionHead):
    """l = sum_m (W_m z_m + b_m), or the mean over modalities.

    The unimodal logits are the terms with their full bias. (In the authors' code of OGM the training loop uses the full
    bias and the validation loop half of it.) An absent modality contributes nothing.

    Args:
        dims: modality -> feature width, in order.
        n_classes: number of classes C.
        reduce: "sum" (default) or "mean", which scales gradients by 1/M.

    Shape:
        features: modality -> (B, D_m). Logits: (B, C).
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

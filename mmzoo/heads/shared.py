"""One linear classifier shared by all modalities, as in alternating training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.core.head import FusionHead, mean_over_present


class Shared(FusionHead):
    """l_m = W z_m + b with the same W, b for every modality; l is the mean of l_m over the modalities present.

    The classifier of MLA (Zhang et al., CVPR 2024), whose decision rule belongs to the strategy. Needs equal widths,
    which `readout` provides.

    Args:
        dims: modality -> feature width, in order.
        n_classes: number of classes C.

    Shape:
        features: modality -> (B, D). Logits: (B, C).
    """

    how = "exact"
    equal_dims = True

    def __init__(self, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(dims, n_classes)
        self.linear = nn.Linear(next(iter(dims.values())), n_classes)

    def classifier(self, modality: str) -> tuple[Tensor, Tensor]:
        return self.linear.weight, self.linear.bias

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        own = {m: self.linear(z) for m, z in features.items()}
        return mean_over_present(torch.stack(list(own.values()), 1), present), {"own": own}

    def split(
        self, features: Mapping[str, Tensor], present: Tensor | None, aux: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        found: Mapping[str, Tensor] = aux["own"]
        return found

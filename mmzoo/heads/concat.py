"""Concatenation: one linear classifier on the concatenated features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmzoo.core.head import FusionHead


class Concat(FusionHead):
    """l = W [z_1; ...; z_M] + b.

    The unimodal logits are slices, l_m = W_m z_m + b / M, and add up to l (Peng et al., CVPR 2022, eq. 7; their code
    fixes M = 2). The feature of an absent modality is zeros.

    Args:
        dims: modality -> feature width, in order.
        n_classes: number of classes C.

    Shape:
        features: modality -> (B, D_m). Logits: (B, C).
    """

    how = "slice"
    additive = True

    def __init__(self, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(dims, n_classes)
        # One weight block a modality, so that each is a parameter group; together they are the joint layer.
        joint = nn.Linear(sum(dims.values()), n_classes)
        blocks = joint.weight.detach().split(list(dims.values()), dim=1)
        self.weight = nn.ParameterDict({m: nn.Parameter(w.clone()) for m, w in zip(dims, blocks)})
        self.bias = nn.Parameter(joint.bias.detach().clone())

    def own(self, modality: str) -> Iterable[nn.Parameter]:
        return [self.weight[modality]]

    def classifier(self, modality: str) -> tuple[Tensor, Tensor]:
        return self.weight[modality], self.bias.div(len(self.dims))

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        parts = [F.linear(z, self.weight[m]) for m, z in features.items()]
        return sum(parts[1:], parts[0]) + self.bias, {}

    def split(
        self, features: Mapping[str, Tensor], present: Tensor | None, aux: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        share = self.bias / len(self.dims)
        return {m: F.linear(z, self.weight[m], share) for m, z in features.items()}

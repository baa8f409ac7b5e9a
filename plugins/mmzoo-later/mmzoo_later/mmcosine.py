"""MMCosine: logits from the cosine of features and class weights, added over modalities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.api import FusionHead
from mmzoo.functional import unit


def cosine_logits(z: Tensor, weight: Tensor, scale: float = 10.0) -> Tensor:
    """(B, C) scale * cos(z_i, w_c); zero for a feature of zeros.

    Args:
        z: (B, D).
        weight: (C, D).
        scale: the largest logit.
    """
    return scale * (unit(z) @ unit(weight).T)


class MMCosine(FusionHead):
    """l = sum_m l_m, l_m,c = scale * cos(z_m, W_m,c) (Xu et al., ICASSP 2023), in training and in evaluation.

    No logit of a modality exceeds `scale`, however long its features are. There is no bias. An absent modality
    contributes nothing.

    Args:
        dims: modality -> feature width, in order.
        n_classes: number of classes C.
        scale: the largest logit of a modality.

    Shape:
        features: modality -> (B, D_m). Logits: (B, C).
    """

    how = "exact"
    additive = True

    def __init__(self, dims: Mapping[str, int], n_classes: int, *, scale: float = 10.0) -> None:
        super().__init__(dims, n_classes)
        self.scale = scale
        joint = nn.Linear(sum(dims.values()), n_classes, bias=False)  # the authors' classifier, cut up afterwards
        blocks = joint.weight.detach().split(list(dims.values()), dim=1)
        self.weight = nn.ParameterDict({m: nn.Parameter(w.clone()) for m, w in zip(dims, blocks)})

    def own(self, modality: str) -> Iterable[nn.Parameter]:
        return [self.weight[modality]]

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        own = {m: cosine_logits(z, self.weight[m], self.scale) for m, z in features.items()}
        return torch.stack(list(own.values())).sum(0), {"own": own}

    def split(
        self, features: Mapping[str, Tensor], present: Tensor | None, aux: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        return aux["own"]

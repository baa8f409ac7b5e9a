"""Low-rank multimodal fusion: the tensor of all modalities, contracted with a low-rank weight and never formed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmzoo.api import FusionHead


class LowRank(FusionHead):
    """l = sum_r w_r prod_m ([1; z_m] F_m[r]) + b (Liu et al., ACL 2018, eq. 6).

    F_m: (R, D_m + 1, C), ones first. Equals a linear layer of rank R on the outer product of all [1; z_m]. The factors
    are parameters; a widely used copy keeps them in a list, where they are never trained, moved or saved.

    Args:
        dims: modality -> feature width, in order.
        n_classes: number of classes C.
        rank: the rank R.
        init: "slice" (default): Xavier for each (D_m + 1, C) slice. "authors": Xavier for the three axes at once, which
            treats the last two as a convolution's and starts smaller.

    Shape:
        features: modality -> (B, D_m). Logits: (B, C).
    """

    how = "ablated"

    def __init__(
        self, dims: Mapping[str, int], n_classes: int, *, rank: int = 8, init: Literal["slice", "authors"] = "slice"
    ) -> None:
        super().__init__(dims, n_classes)
        self.rank, self.init = rank, init
        self.factors = nn.ParameterDict({m: nn.Parameter(torch.empty(rank, d + 1, n_classes)) for m, d in dims.items()})
        self.weight = nn.Parameter(torch.empty(1, rank))
        self.bias = nn.Parameter(torch.zeros(n_classes))
        for factor in self.factors.values():
            for part in factor if init == "slice" else [factor]:
                nn.init.xavier_normal_(part)
        nn.init.xavier_normal_(self.weight)

    def own(self, modality: str) -> Iterable[nn.Parameter]:
        return [self.factors[modality]]

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        product = self.weight.new_ones(())
        for m, z in features.items():
            factor = self.factors[m]
            product = product * (factor[:, None, 0] + torch.einsum("bd,rdc->rbc", z, factor[:, 1:]))
        return torch.einsum("r,rbc->bc", self.weight[0], product) + self.bias, {}

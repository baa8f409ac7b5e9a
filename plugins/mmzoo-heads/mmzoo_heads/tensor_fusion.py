"""Tensor fusion: the outer product of all modalities."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.api import FusionHead, Incompatible

#: entries of the outer product up to which a width is chosen, and beyond which one is refused
USUAL, MOST = 4096, 1_000_000


def outer(features: Sequence[Tensor]) -> Tensor:
    """(B, prod (D_m + 1)), the outer product of all [1; z_m], ones first, row-major (Zadeh et al., EMNLP 2017, eq. 2).

    Args:
        features: (B, D_m) of each modality.
    """
    total = features[0].new_ones(len(features[0]), 1)
    for z in features:
        one = torch.cat([z.new_ones(len(z), 1), z], 1)
        total = (total.unsqueeze(2) * one.unsqueeze(1)).flatten(1)
    return total


class TensorFusion(FusionHead):
    """l = f(vec([1; P_1 z_1] x ... x [1; P_M z_M])), with f two hidden layers and a linear one.

    Tensor fusion (Zadeh et al., EMNLP 2017). The ones keep each modality and each smaller set of them in the product.
    The authors' network ends in a scaled sigmoid for regression; here it ends in logits.

    Args:
        dims: modality -> feature width, in order.
        n_classes: number of classes C.
        width: output width of P_m; None: the largest up to 32 with at most 4,096 entries in the product (32 for two
            modalities, 15 for three).
        hidden: width of the two hidden layers; None: f is linear.

    Raises:
        Incompatible: the product would have more than a million entries.

    Shape:
        features: modality -> (B, D_m). Logits: (B, C).
    """

    how = "ablated"

    def __init__(
        self, dims: Mapping[str, int], n_classes: int, *, width: int | None = None, hidden: int | None = 128
    ) -> None:
        super().__init__(dims, n_classes)
        self.width, self.hidden = width, hidden
        n = len(dims)
        chosen = width or max(w for w in range(1, 33) if w == 1 or (w + 1) ** n <= USUAL)
        size = (chosen + 1) ** n
        if size > MOST:
            raise Incompatible(
                f"head TensorFusion of {n} modalities at width {chosen} has a product of {size:,} entries. Choose a smaller "
                "width."
            )
        self.project = nn.ModuleDict({m: nn.Linear(d, chosen) for m, d in dims.items()})
        widths = [size] if hidden is None else [size, hidden, hidden]
        layers: list[nn.Module] = []
        for i, o in itertools.pairwise(widths):
            layers += [nn.Linear(i, o), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], n_classes))

    def own(self, modality: str) -> Any:
        return self.project[modality].parameters()

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        parts = []
        for i, (m, z) in enumerate(features.items()):
            p = self.project[m](z)
            parts.append(p if present is None else torch.where(present[:, i, None], p, 0.0))
        read = self.layers[:-1](outer(parts))
        return self.layers[-1](read), {"penultimate": read}

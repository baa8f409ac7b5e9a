"""Gated multimodal units: tanh projections weighted by gates that read all modalities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmzoo.core.head import FusionHead


class GMU(FusionHead):
    """h = sum_m g_m * tanh(W_m z_m), l = W h + b, with gates g_m in (0, 1)^width (Arevalo et al., ICLR workshop 2017).

    The unit has no biases, as in the paper. The authors' batch normalisation before it and maxout layers after it are
    not included. Unimodal logits are ablated. The feature of an absent modality is zeros, so its term is exactly zero.
    `Outputs.aux` holds gates (B, M, width) and hidden (B, M, width), the tanh.

    Args:
        dims: modality -> feature width, in order.
        n_classes: number of classes C.
        gates: "tied": softmax over modalities of V_m x, the score of the last fixed at zero; for two modalities g_1 =
            sigmoid(V x), g_2 = 1 - g_1, the paper's bimodal unit; ours for more. "independent": g_m = sigmoid(V_m x),
            the paper's unit for more than two. "paper" (default): tied for two modalities, independent for more.
        reads: what x is: "features" (default), all features concatenated, as in the paper; "projections", the W_m z_m,
            as in the authors' code.
        width: width of the unit; None: the largest feature width.

    Raises:
        Incompatible: fewer than two modalities.

    Shape:
        features: modality -> (B, D_m). Logits: (B, C).
    """

    how = "ablated"
    min_modalities = 2

    def __init__(
        self,
        dims: Mapping[str, int],
        n_classes: int,
        *,
        gates: Literal["paper", "tied", "independent"] = "paper",
        reads: Literal["features", "projections"] = "features",
        width: int | None = None,
    ) -> None:
        super().__init__(dims, n_classes)
        self.tied = gates == "tied" or (gates == "paper" and len(dims) == 2)
        self.reads = reads
        self.width = width or max(dims.values())
        self.project = nn.ModuleDict({m: nn.Linear(d, self.width, bias=False) for m, d in dims.items()})
        seen = sum(dims.values()) if reads == "features" else self.width * len(dims)
        self.score = nn.Linear(seen, self.width * (len(dims) - self.tied), bias=False)
        self.linear = nn.Linear(self.width, n_classes)

    def own(self, modality: str) -> Iterable[nn.Parameter]:
        return self.project[modality].parameters()

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        projected = [self.project[m](z) for m, z in features.items()]
        seen = list(features.values()) if self.reads == "features" else projected
        gates = self._gates(self.score(torch.cat(seen, 1)).unflatten(1, (-1, self.width)))
        hidden = torch.stack(projected, 1).tanh()
        joint = (gates * hidden).sum(1)
        return self.linear(joint), {"gates": gates, "hidden": hidden, "penultimate": joint}

    def _gates(self, score: Tensor) -> Tensor:
        if not self.tied:
            return score.sigmoid()
        return torch.cat([score, torch.zeros_like(score[:, :1])], 1).softmax(1)

"""Gated multimodal units: every modality squashed, and gates that look at all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmzoo.core.head import FusionHead


class GMU(FusionHead):
    """h = sum_m g_m * tanh(W_m z_m), l = W h + b, with gates g_m in (0, 1)^width (Arevalo et al., ICLR workshop 2017).

    gates="tied": the gates of all modalities add up to one, a softmax of V_m x over modalities with the score of the
    last at zero. At two modalities that is g_1 = sigmoid(V x), g_2 = 1 - g_1, the paper's bimodal unit; for more it is
    ours. gates="independent": g_m = sigmoid(V_m x), the paper's unit for more than two. gates="paper" (default): tied
    at two modalities, independent at more.

    reads="features": x are all features side by side, as in the paper. reads="projections": x are the W_m z_m, as in
    the authors' code. Their batch normalisation before the unit and maxout layers after it are not part of it. No
    biases in the unit, as there. width: of the unit (none: the largest feature width).

    Unimodal logits: by ablation. An absent modality is a feature of zeros, so its own term is exactly zero. Raises
    Incompatible for fewer than two modalities.

    aux: gates (B, M, width). hidden (B, M, width), the tanh.
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

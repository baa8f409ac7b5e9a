"""Gated fusion: a sigmoid of one modality decides how much of another passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.core.head import FusionHead, conditioners


class Gated(FusionHead):
    """l = W (sigmoid(h_c) * h_t) + b with h_m = W_m z_m + b_m, one-sided: c gates, t passes or not.

    The gate of Kiela et al. (AAAI 2018) as in the code of OGM-GE. More than two modalities (ours): a gate is the
    sigmoid of the sum of what its modalities project to, and gated features are added up before W.

    condition, target: which modality gates and which is gated, as for the head affine: a name, "first", "last" or
    "others". The authors' two directions are target="last" (default) and target="first". width: of the projections
    (none: the largest feature width).

    Unimodal logits: by ablation, the others being zeros and their projections the biases (the authors slice W, which
    fails). Absent modalities are features of zeros. Raises Incompatible for fewer than two modalities and for roles
    that no modality of these can have.

    aux: hidden: modality -> (B, width), the h_m. gate: gated modality -> (B, width).
    """

    how = "ablated"
    min_modalities = 2

    def __init__(
        self,
        dims: Mapping[str, int],
        n_classes: int,
        *,
        condition: str = "others",
        target: str = "last",
        width: int | None = None,
    ) -> None:
        super().__init__(dims, n_classes)
        self.conditioners = conditioners(self.modalities, condition, target)
        common = width or max(dims.values())
        self.project = nn.ModuleDict({m: nn.Linear(d, common) for m, d in dims.items()})
        self.linear = nn.Linear(common, n_classes)

    def own(self, modality: str) -> Iterable[nn.Parameter]:
        return self.project[modality].parameters()

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        hidden = {m: self.project[m](z) for m, z in features.items()}
        gate = {t: torch.stack([hidden[m] for m in by]).sum(0).sigmoid() for t, by in self.conditioners.items()}
        passed = torch.stack([g * hidden[t] for t, g in gate.items()]).sum(0)
        return self.linear(passed), {"hidden": hidden, "gate": gate, "penultimate": passed}

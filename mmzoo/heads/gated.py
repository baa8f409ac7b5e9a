"""Gated fusion: a sigmoid of one modality decides how much of another passes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.core.head import FusionHead, conditioners


class Gated(FusionHead):
    """l = W (sigmoid(h_c) * h_t) + b with h_m = W_m z_m + b_m: modality c gates modality t.

    The gate of Kiela et al. (AAAI 2018) as in the code of OGM-GE. Ours for more than two modalities: a gate is the
    sigmoid of the sum of its modalities' projections, and gated features are added before W.

    Unimodal logits are ablated: the other features are zeros and their projections the biases (slicing W, as in that
    code, fails). The features of absent modalities are zeros. `Outputs.aux` holds hidden: modality -> (B, width), the
    h_m, and gate: gated modality -> (B, width).

    Args:
        dims: modality -> feature width, in order.
        n_classes: number of classes C.
        condition: the modality that gates: a name, "first", "last", or "others" (default): all but `target`.
        target: the modality that is gated, in the same form. "last" (default) and "first" are the authors' two
            directions.
        width: width of the projections; None: the largest feature width.

    Raises:
        Incompatible: fewer than two modalities, or roles that these modalities cannot fill.

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

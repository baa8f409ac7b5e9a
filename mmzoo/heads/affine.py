"""Affine modulation (FiLM): the features of one modality are scaled and shifted by a function of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.core.head import FusionHead, conditioners


class Affine(FusionHead):
    """l = W (gamma * z_t + beta) + b, with [dgamma; beta] = V [z_c; ...] + v and gamma = gamma_baseline + dgamma.

    Feature-wise linear modulation (Perez et al., AAAI 2018, eqs. 1-2) of pooled features, as in the code of OGM-GE:
    without a residual, normalisation or non-linearity around it. With the defaults the last modality, z_t, is modulated
    by all others, concatenated. If several modalities are modulated, each has its own V and W, and the logits add up.
    With two modalities, target="last" and target="first" are the two directions of that code.

    Unimodal logits are ablated, since a product has no parts (slicing W, as in that code, fails). The features of
    absent modalities are zeros: they contribute v to gamma and beta. `Outputs.aux` holds gamma and beta: modulated
    modality -> (B, D_t).

    Args:
        dims: modality -> feature width, in order.
        n_classes: number of classes C.
        gamma_baseline: 0 as in the code of OGM-GE (default); 1 as in the code of Perez et al., where features initially
            pass unchanged.
        condition: the modality that conditions: a name, "first", "last", or "others" (default): all but `target`.
        target: the modality that is modulated, in the same form; "last" by default. "others" for both: each modality is
            modulated by all the rest.

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
        gamma_baseline: int = 0,
        condition: str = "others",
        target: str = "last",
    ) -> None:
        super().__init__(dims, n_classes)
        self.gamma_baseline = gamma_baseline
        self.conditioners = conditioners(self.modalities, condition, target)
        self.generate = nn.ModuleDict(
            {t: nn.Linear(sum(dims[m] for m in by), 2 * dims[t]) for t, by in self.conditioners.items()}
        )
        self.linear = nn.ModuleDict({t: nn.Linear(dims[t], n_classes) for t in self.conditioners})

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        gamma, beta, modulated = {}, {}, {}
        for t, by in self.conditioners.items():
            change, beta[t] = self.generate[t](torch.cat([features[m] for m in by], 1)).chunk(2, dim=1)
            gamma[t] = self.gamma_baseline + change
            modulated[t] = gamma[t] * features[t] + beta[t]
        parts = [self.linear[t](x) for t, x in modulated.items()]
        aux = {"gamma": gamma, "beta": beta, "penultimate": torch.cat(list(modulated.values()), 1)}
        return sum(parts[1:], parts[0]), aux

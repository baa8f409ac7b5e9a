"""Affine modulation (FiLM): the features of one modality are scaled and shifted by what others say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.core.head import FusionHead, conditioners


class Affine(FusionHead):
    """l = W (gamma * z_t + beta) + b with [dgamma; beta] = V [z_c; ...] + v and gamma = gamma_baseline + dgamma.

    Feature-wise linear modulation (Perez et al., AAAI 2018, eqs. 1-2) of pooled features, as in the code of OGM-GE:
    no residual, normalisation or non-linearity around it. gamma_baseline: 0 as in that code; 1 as in the code of
    Perez et al., where the features pass unchanged as long as nothing has been learned.

    condition, target: which modality conditions and which is modulated: a name, "first", "last", or "others", all but
    the one named on the other side. With the defaults the last modality, z_t, is modulated by all others side by side.
    Where several are modulated, each has V, W of its own and the logits add up; "others" on both sides modulates every
    modality by all the rest. Two modalities give the authors' two directions: target="last" and target="first".

    Unimodal logits: by ablation, since a product has no parts (the authors slice W, which fails). Absent modalities
    are features of zeros: their say in gamma and beta is v. Raises Incompatible for fewer than two modalities and for
    roles that no modality of these can have.

    aux: gamma, beta: modulated modality -> (B, D_t).
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

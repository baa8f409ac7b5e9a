"""Evidential fusion: every view gives a subjective opinion, and Dempster's rule combines them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmzoo.core.head import FusionHead
from mmzoo.errors import Incompatible
from mmzoo.heads.concat import Concat

Evidence = Literal["softplus", "relu", "exp"]

#: the name of the view that sees the features of all modalities at once
PSEUDO = "pseudo"


def log_gain(logits: Tensor, evidence: Evidence = "softplus") -> Tensor:
    """log(1 + e / C) for the evidence e >= 0 of `logits`; never overflows.

    Dempster's rule adds these: 1 + e / C = prod_m (1 + e_m / C), since the conflict of each pair cancels against the
    normalisation. No evidence (a vacuous opinion) is zero and changes nothing.

    Args:
        logits: (..., C).
        evidence: the function from logits to evidence.

    Returns:
        (..., C).
    """
    n_classes = logits.shape[-1]
    if evidence == "exp":
        return F.softplus(logits - math.log(n_classes))
    return torch.log1p((F.softplus(logits) if evidence == "softplus" else logits.relu()) / n_classes)


def log_alpha(gain: Tensor) -> Tensor:
    """log(1 + e) from log(1 + e / C), (..., C): exactly zero at zero, and without computing e, which may overflow."""
    n_classes = gain.shape[-1]
    small = torch.log1p(n_classes * torch.expm1(gain.clamp_max(1.0)))
    large = gain + math.log(n_classes) + torch.log1p((1.0 / n_classes - 1.0) * torch.exp(-gain.clamp_min(1.0)))
    return torch.where(gain < 1.0, small, large)


def log_uncertainty(opinion: Tensor) -> Tensor:
    """(...) log of u = C / S, with S the sum of alpha, from the log alpha (..., C) of an opinion."""
    return math.log(opinion.shape[-1]) - opinion.logsumexp(-1)


class Evidential(FusionHead):
    """TMC and, with pseudo=True, ETMC (Han et al., ICLR 2021 and TPAMI 2022): fusion of subjective opinions.

    View m turns e_m = evidence(W_m z_m + b_m) >= 0 into Dirichlet parameters alpha_m = e_m + 1, that is into belief e_m
    / S_m in each class and uncertainty u_m = C / S_m, with S_m the sum of alpha_m. The opinions are combined by the
    reduced rule of Dempster (eqs. 3-4 of the conference paper), here in closed form over any number of views: 1 + e / C
    = prod_m (1 + e_m / C). The authors apply the rule pair by pair, which divides by 1 - conflict and gives NaN for
    large evidence in float32.

    Logits are log alpha of the fused opinion and unimodal logits are log alpha_m, both exact, so that softmax(logits) =
    alpha / S is the expected probability. `Outputs.aux` holds `uncertainty` (B,) of the fused opinion, `conflict` (B,),
    the mass on contradicting classes that the rule leaves out, 1 - prod_m u_m / u, and `opinions`: view -> log alpha of
    views that are no modality. An absent modality is a vacuous opinion; the pseudo view reads its features as zeros,
    and is vacuous for a sample without any modality.

    Args:
        dims: modality -> feature width, in order.
        n_classes: number of classes C.
        evidence: function from logits to evidence; "softplus" by default.
        pseudo: add a view with one linear layer on the concatenated features (ETMC).

    Raises:
        Incompatible: a modality is named `pseudo` and `pseudo` is set.

    Shape:
        features: modality -> (B, D_m). Logits: (B, C).
    """

    how = "exact"
    evidential = True

    def __init__(
        self, dims: Mapping[str, int], n_classes: int, *, evidence: Evidence = "softplus", pseudo: bool = False
    ) -> None:
        super().__init__(dims, n_classes)
        if pseudo and PSEUDO in dims:
            raise Incompatible(
                f"head {type(self).__name__} calls its joint view {PSEUDO!r}, but there is a modality of that name "
                f"among {', '.join(dims)}. Rename the modality, or take pseudo=false."
            )
        self.evidence: Evidence = evidence
        self.linear = nn.ModuleDict({m: nn.Linear(d, n_classes) for m, d in dims.items()})
        self.pseudo = Concat(dims, n_classes) if pseudo else None

    def own(self, modality: str) -> Iterable[nn.Parameter]:
        blocks = [] if self.pseudo is None else self.pseudo.own(modality)
        return [*self.linear[modality].parameters(), *blocks]

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        logits = [self.linear[m](z) for m, z in features.items()]
        if self.pseudo is not None:
            logits.append(self.pseudo.fuse(features, present)[0])
        gains = log_gain(torch.stack(logits), self.evidence)
        if present is not None:
            there = present if self.pseudo is None else torch.cat([present, present.any(1, keepdim=True)], 1)
            gains = torch.where(there.T.unsqueeze(-1), gains, 0.0)
        fused, views = log_alpha(gains.sum(0)), log_alpha(gains)
        own = dict(zip(self.dims, views))
        u = log_uncertainty(fused)
        return fused, {
            "own": own,
            "opinions": {} if self.pseudo is None else {PSEUDO: views[-1]},
            "uncertainty": u.exp(),
            "conflict": -torch.expm1((log_uncertainty(views).sum(0) - u).clamp_max(0.0)),
        }

    def split(
        self, features: Mapping[str, Tensor], present: Tensor | None, aux: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        found: Mapping[str, Tensor] = aux["own"]
        return found

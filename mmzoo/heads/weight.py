"""Weighted fusion: attention over features or over predictions, or a parameter-free gate."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmzoo.core.head import FusionHead


class Weight(FusionHead):
    """Weights the modalities for each sample: h = sum_m a_m h_m, l = W h + b.

    The weights a are a softmax over modalities of one small network k(h_m), shared by all modalities (CMML, Yang et
    al., IJCAI 2019). h_m = z_m if all widths are equal, otherwise a linear projection of z_m to `width`.

    Unimodal logits are those of the head with only modality m present; they are exact, since the weights are then 1. An
    absent modality has weight zero.

    Args:
        dims: modality -> feature width, in order.
        n_classes: number of classes C.
        level: "feature" (default): as above, the released code of CMML, although the method is often described as a
            weighting of predictions. "logit": l = sum_m a_m (W_m h_m + b_m). "gate": no attention network; the weight
            of feature d of modality m is softmax_d(h_m), normalised over modalities, as in later code of the same
            group.
        attention: hidden widths of k; (64, 32) on features of width 128 in CMML.
        width: width of h_m; None: the largest feature width.

    Shape:
        features: modality -> (B, D_m). Logits: (B, C).
    """

    how = "exact"

    def __init__(
        self,
        dims: Mapping[str, int],
        n_classes: int,
        *,
        level: Literal["feature", "logit", "gate"] = "feature",
        attention: Sequence[int] = (32,),
        width: int | None = None,
    ) -> None:
        super().__init__(dims, n_classes)
        self.level = level
        common = width or max(dims.values())
        self.project = nn.ModuleDict()
        if set(dims.values()) != {common}:
            self.project.update({m: nn.Linear(d, common) for m, d in dims.items()})
        if level != "gate":
            self.attend = _perceptron(common, *attention, 1)
        if level == "logit":
            self.each = nn.ModuleDict({m: nn.Linear(common, n_classes) for m in dims})
        else:
            self.linear = nn.Linear(common, n_classes)

    def own(self, modality: str) -> list[nn.Parameter]:
        modules = [self.project[modality]] if self.project else []
        modules += [self.each[modality]] if self.level == "logit" else []
        return [p for module in modules for p in module.parameters()]

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        hidden = torch.stack([self.project[m](z) if self.project else z for m, z in features.items()], 1)
        own = self._classify(hidden)
        if self.level == "gate":
            weight = self._gate(hidden, present)
            joint = (weight * hidden).sum(1)
            return self.linear(joint), {"own": own, "attention": weight, "penultimate": joint}
        score = self.attend(hidden).squeeze(-1)
        if present is not None:
            # An item without any modality keeps finite weights; its features are zeros anyway.
            score = score.masked_fill(~present & present.any(1, keepdim=True), -torch.inf)
        attention = score.softmax(1)
        # With one classifier for all, weighting the logits is weighting the features: the weights add up to one.
        weighted = attention.unsqueeze(-1) * hidden
        read = weighted.sum(1) if self.level == "feature" else torch.cat([weighted.flatten(1), attention], 1)
        logits = (attention.unsqueeze(-1) * own).sum(1)
        return logits, {"own": own, "attention": attention, "penultimate": read}

    def split(
        self, features: Mapping[str, Tensor], present: Tensor | None, aux: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        return {m: aux["own"][:, i] for i, m in enumerate(self.dims)}

    def _classify(self, hidden: Tensor) -> Tensor:
        """(B, M, C): each modality's logits."""
        if self.level != "logit":
            found: Tensor = self.linear(hidden)
            return found
        return torch.stack([self.each[m](hidden[:, i]) for i, m in enumerate(self.dims)], 1)

    def _gate(self, hidden: Tensor, present: Tensor | None) -> Tensor:
        log_weight = hidden.log_softmax(-1)
        if present is not None:
            absent = ~present & present.any(1, keepdim=True)
            log_weight = log_weight.masked_fill(absent.unsqueeze(-1), -torch.inf)
        return log_weight.softmax(1)  # e^{w_m} / sum_m e^{w_m}: the normalised softmax weights


def _perceptron(*widths: int) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers = [layer for n, m in itertools.pairwise(widths) for layer in (nn.Linear(n, m), nn.ReLU())]
    return nn.Sequential(*layers[:-1])

"""Bottleneck attention (MBT): modalities exchange what they know through a few shared tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo_heads.tokens import TokenHead


class Bottleneck(TokenHead):
    """Fusion layers with bottleneck tokens (Nagrani et al., NeurIPS 2021, eq. 8 and 9).

    In each layer a modality attends over its own tokens followed by the bottlenecks, [z_m; b], through a transformer layer of
    its own (normalised first, GELU); the new bottlenecks are the mean over modalities of what each made of them. The first b
    is learned, from N(0, 0.02^2). The layers before the fusion layers are the encoders themselves: stages of a transformer give
    the paper's network, with its fusion layers in the head; maps of a convolutional network are read as tokens too.

    The paper takes 4 bottlenecks, fuses in the last 4 of 12 layers, and averages the logits of each modality through one
    output layer (shared_classifier). An item that lacks a modality has the mean over those that are there.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        n_classes: int,
        *,
        dim: int = 64,
        heads: int = 4,
        layers: int = 2,
        bottlenecks: int = 4,
        ratio: float = 2.0,
        shared_classifier: bool = False,
    ) -> None:
        super().__init__(dims, n_classes, dim=dim, heads=heads, layers=layers, shared_classifier=shared_classifier)
        self.bottlenecks, self.ratio = bottlenecks, ratio
        self.first = nn.Parameter(0.02 * torch.randn(bottlenecks, dim))
        self.blocks = nn.ModuleDict()

    def build_layers(self, modalities: Sequence[str]) -> None:
        for m in modalities:
            self.blocks[m] = nn.ModuleList(
                nn.TransformerEncoderLayer(
                    self.dim, self.heads, int(self.ratio * self.dim), 0.0, "gelu", batch_first=True, norm_first=True
                )
                for _ in range(self.layers)
            )

    def own(self, modality: str) -> Any:
        blocks = self.blocks[modality].parameters() if modality in self.blocks else ()
        return [*super().own(modality), *blocks]

    def bypass(self, modality: str) -> Any:
        """The first bottlenecks, which serve all. (A modality's blocks carry its own tokens as well.)"""
        return [self.first]

    def mix(
        self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor], here: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        n = len(next(iter(tokens.values())))
        shared, state = self.first.expand(n, -1, -1), dict(tokens)
        weight = torch.stack([here[m] for m in state], 1).to(shared.dtype)
        for layer in range(self.layers):
            blocks: dict[str, Any] = {m: self.blocks[m][layer] for m in state}
            state, each = exchange(state, shared, blocks, masks)
            total = (torch.stack(list(each.values()), 1) * weight[..., None, None]).sum(1)
            shared = total / weight.sum(1).clamp_min(1.0)[:, None, None]
        return state


def exchange(
    tokens: Mapping[str, Tensor], shared: Tensor, blocks: Mapping[str, Any], masks: Mapping[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """One fusion layer: the new tokens (B, N_m, D) of each modality, and the bottlenecks (B, K, D) that it made."""
    new, each = {}, {}
    for m, x in tokens.items():
        hidden = None
        if masks is not None:
            open_ = torch.zeros(len(x), shared.shape[1], dtype=torch.bool, device=x.device)
            hidden = torch.cat([~masks[m], open_], 1)
        out = blocks[m](torch.cat([x, shared], 1), src_key_padding_mask=hidden)
        new[m], each[m] = out[:, : x.shape[1]], out[:, x.shape[1] :]
    return new, each

"""Bottleneck attention (MBT): modalities exchange information through a few shared tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo_heads.tokens import TokenHead


class Bottleneck(TokenHead):
    """Fusion layers with bottleneck tokens (MBT, Nagrani et al., NeurIPS 2021, eqs. 8 and 9).

    In each layer a modality attends over its own tokens and the bottlenecks, [z_m; b], through its own pre-norm
    transformer layer with GELU; the new bottlenecks are the mean over modalities of their outputs. The first b is
    learned, from N(0, 0.02^2). The layers before the fusion layers are the encoders: with the stages of a transformer
    the network is the paper's; the maps of a convolutional network are read as tokens too. A sample without a modality
    has the mean over those present.

    Args:
        dims: modality -> feature width, in order.
        n_classes: number of classes C.
        dim: width of the tokens.
        heads: number of attention heads.
        layers: number of fusion layers; the paper fuses in the last 4 of 12.
        bottlenecks: number of bottleneck tokens; 4 in the paper.
        ratio: hidden width of the feed-forward layers over `dim`.
        shared_classifier: one output layer for all modalities, as in the paper.

    Shape:
        maps: modality -> (B, C_m, *spatial). features: modality -> (B, D_m). Logits: (B, C).
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
        """The first bottlenecks, which all modalities share; the blocks of a modality also carry its own tokens."""
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
    """One fusion layer.

    Args:
        tokens: modality -> (B, N_m, D).
        shared: (B, K, D), the bottlenecks.
        blocks: modality -> its transformer layer.
        masks: modality -> (B, N_m) bool, False at padding.

    Returns:
        modality -> new tokens (B, N_m, D), and modality -> its bottlenecks (B, K, D).
    """
    new, each = {}, {}
    for m, x in tokens.items():
        hidden = None
        if masks is not None:
            open_ = torch.zeros(len(x), shared.shape[1], dtype=torch.bool, device=x.device)
            hidden = torch.cat([~masks[m], open_], 1)
        out = blocks[m](torch.cat([x, shared], 1), src_key_padding_mask=hidden)
        new[m], each[m] = out[:, : x.shape[1]], out[:, x.shape[1] :]
    return new, each

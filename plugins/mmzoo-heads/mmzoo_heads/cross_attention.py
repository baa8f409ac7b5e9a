"""Cross-attention: the tokens of each modality attend to those of all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo_heads.tokens import TokenHead


class Block(nn.Module):
    """x <- x + MHA(LN x, LN c, LN c); x <- x + FFN(LN x), with c the tokens of the other modalities.

    Args:
        dim: width of the tokens.
        heads: number of attention heads.
        ratio: hidden width of the feed-forward layer over `dim`.
    """

    def __init__(self, dim: int, heads: int, ratio: float) -> None:
        super().__init__()
        self.norm, self.norm_context, self.norm_out = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attend = nn.MultiheadAttention(dim, heads, batch_first=True)
        hidden = int(ratio * dim)
        self.feed = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor, context: Tensor, mask: Tensor) -> Tensor:
        """The new tokens (B, N, D).

        Args:
            x: (B, N, D).
            context: (B, K, D).
            mask: (B, K) bool, the context tokens that can be attended to; a row without any receives nothing.
        """
        some = mask.any(1, keepdim=True)
        c = self.norm_context(context)
        heard, _ = self.attend(self.norm(x), c, c, key_padding_mask=~mask & some, need_weights=False)
        x = x + torch.where(some[..., None], heard, 0.0)
        return x + self.feed(self.norm_out(x))


class CrossAttention(TokenHead):
    """Symmetric pre-norm cross-attention between all modalities, after Tsai et al. (ACL 2019).

    In each layer every modality attends to the tokens of all others, concatenated, as the previous layer left them;
    with a single modality only the feed-forward layers remain. Differs from the paper, whose network also has temporal
    convolutions before and self-attention after it, and one stack per ordered pair. Encoders of vectors give one token
    each: with two modalities attention then sees a single token, and only its values matter.

    Args:
        dims: modality -> feature width, in order.
        n_classes: number of classes C.
        dim: width of the tokens.
        heads: number of attention heads.
        layers: number of layers.
        ratio: hidden width of the feed-forward layers over `dim`.
        shared_classifier: one output layer for all modalities.

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
        layers: int = 1,
        ratio: float = 2.0,
        shared_classifier: bool = False,
    ) -> None:
        super().__init__(dims, n_classes, dim=dim, heads=heads, layers=layers, shared_classifier=shared_classifier)
        self.ratio = ratio
        self.blocks = nn.ModuleDict()

    def build_layers(self, modalities: Sequence[str]) -> None:
        for m in modalities:
            self.blocks[m] = nn.ModuleList(Block(self.dim, self.heads, self.ratio) for _ in range(self.layers))

    def own(self, modality: str) -> Any:
        blocks = self.blocks[modality].parameters() if modality in self.blocks else ()
        return [*super().own(modality), *blocks]

    def bypass(self, modality: str) -> Any:
        """The parameters that read the tokens of the other modalities."""
        blocks: Any = dict(self.blocks.items()).get(modality, ())
        return [p for b in blocks for part in (b.attend, b.norm_context) for p in part.parameters()]

    def mix(
        self, tokens: Mapping[str, Tensor], masks: Mapping[str, Tensor], here: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        state = dict(tokens)
        for layer in range(self.layers):
            new = {}
            for m, x in state.items():
                others = [k for k in state if k != m]
                block: Any = self.blocks[m]
                if others:
                    context = torch.cat([state[k] for k in others], 1)
                    mask = torch.cat([masks[k] for k in others], 1)
                else:
                    context, mask = x, torch.zeros_like(masks[m])
                new[m] = block[layer](x, context, mask)
            state = new
        return state

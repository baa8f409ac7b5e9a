"""The base of text encoders, and three that are small enough for a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmzoo.core.encoder import Encoder, InputSpec
from mmzoo.errors import BadValue


class Words(NamedTuple):
    """The state of a text encoder.

    Args:
        map: (B, L, C), one vector per token.
        mask: (B, L) bool, True at a token.
    """

    map: Tensor
    mask: Tensor


def check_text(spec: InputSpec) -> tuple[InputSpec, int]:
    """The spec of a text and the size of its vocabulary.

    Raises:
        Incompatible: another kind of input.
        BadValue: the vocabulary is missing.
    """
    spec = InputSpec.of(spec).of_kind("text")
    if not spec.vocabulary:
        raise BadValue("a text encoder needs the size of the vocabulary: InputSpec('text', (L,), vocabulary=N).")
    return spec, spec.vocabulary


class TokenEncoder(Encoder):
    """Base of encoders whose maps are vectors of tokens, with a mask of those that are there."""

    def view(self, state: Words) -> Tensor:
        return state.map.transpose(1, 2)

    def mask(self, state: Words) -> Tensor:
        return state.mask

    def replace(self, state: Words, map_: Tensor) -> Words:
        return state._replace(map=map_.transpose(1, 2))


class TransformerLayers(TokenEncoder):
    """Base of encoders that are transformer layers (normalised first), each a stage, and the mean over tokens."""

    def add_layers(self, dim: int, depth: int, heads: int, dropout: float) -> None:
        """Make `depth` layers of width `dim` with `heads` attention heads, and the normalisation after them."""
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, heads, 2 * dim, dropout, batch_first=True, norm_first=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.out_dim, self.n_stages, self.stage_dims = dim, depth, (dim,) * depth

    def run_stage(self, stage: int, state: Words) -> Words:
        hidden = ~state.mask
        hidden = hidden & ~hidden.all(1, keepdim=True)  # without any token, attention over nothing has no value
        return state._replace(map=self.layers[stage](state.map, src_key_padding_mask=hidden))

    def finish(self, state: Words) -> Tensor:
        return masked_mean(self.norm(state.map), state.mask)


class Textual(TokenEncoder):
    """Base of text encoders; the view of a text is (B, C, L).

    Args:
        spec: a text with its vocabulary.

    Raises:
        Incompatible: another kind of input.
        BadValue: the vocabulary is missing.

    Shape:
        Input: {"ids": (B, L), "mask": (B, L)}. Output: (B, out_dim).
    """

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.spec, self.vocabulary = check_text(spec)


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """(B, C), the mean of `x` (B, L, C) over the tokens in `mask` (B, L); zeros without a token."""
    weight = mask.to(x.dtype)[..., None]
    return (x * weight).sum(1) / weight.sum(1).clamp_min(1.0)


def last_token(mask: Tensor) -> Tensor:
    """(B,) int64, the position of the last token in `mask` (B, L); 0 without a token."""
    places = torch.arange(mask.shape[1], device=mask.device)
    return (places * mask).amax(1)


class TextBag(Textual):
    """An embedding and a layer on each token, the mean over tokens, then a linear layer; word order is lost.

    Args:
        spec: a text with its vocabulary.
        embed: width of a token's vector.
        width: width of the output.
        dropout: dropout probability.

    Shape:
        Input: {"ids": (B, L), "mask": (B, L)}. Output: (B, width).
    """

    def __init__(self, spec: InputSpec, *, embed: int = 64, width: int = 64, dropout: float = 0.0) -> None:
        super().__init__(spec)
        self.embedding = nn.Embedding(self.vocabulary, embed)
        self.layer = nn.Sequential(nn.Linear(embed, embed), nn.ReLU(), nn.Dropout(dropout))
        self.project = nn.Linear(embed, width)
        self.out_dim, self.n_stages, self.stage_dims = width, 1, (embed,)

    def begin(self, x: Mapping[str, Tensor]) -> Words:
        return Words(self.embedding(x["ids"]), x["mask"])

    def run_stage(self, stage: int, state: Words) -> Words:
        return state._replace(map=self.layer(state.map))

    def finish(self, state: Words) -> Tensor:
        found: Tensor = self.project(masked_mean(state.map, state.mask))
        return found


class TextWords(Textual):
    """The sum of one vector per token over the square root of their number, with dropout; word order is lost.

    With a linear head this is logistic regression on words in `embed` dimensions, and trains as fast: no layer stands
    between a word and the classes. Vectors start near zero, so that words absent from training have little effect.

    Args:
        spec: a text with its vocabulary.
        embed: width of a token's vector and of the output.
        scale: factor on the vectors, and thus on how far a step of a given learning rate moves the features.
        dropout: dropout probability.

    Shape:
        Input: {"ids": (B, L), "mask": (B, L)}. Output: (B, embed).
    """

    def __init__(self, spec: InputSpec, *, embed: int = 64, scale: float = 4.0, dropout: float = 0.5) -> None:
        super().__init__(spec)
        self.embedding = nn.Embedding(self.vocabulary, embed)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.scale, self.dropout = scale, nn.Dropout(dropout)
        self.out_dim, self.n_stages, self.stage_dims = embed, 1, (embed,)

    def begin(self, x: Mapping[str, Tensor]) -> Words:
        return Words(self.embedding(x["ids"]), x["mask"])

    def run_stage(self, stage: int, state: Words) -> Words:
        return state._replace(map=self.scale * state.map)

    def finish(self, state: Words) -> Tensor:
        there = state.mask.to(state.map.dtype)[..., None]
        found: Tensor = self.dropout((state.map * there).sum(1) / there.sum(1).clamp_min(1.0).sqrt())
        return found


class TextTransformer(TransformerLayers, Textual):
    """Pre-norm transformer layers over embeddings and learned positions, then the mean over tokens.

    Each layer is a stage.

    Args:
        spec: a text with its vocabulary.
        dim: width of a token's vector and of the output.
        depth: number of layers.
        heads: number of attention heads; must divide `dim`.
        dropout: dropout probability.

    Shape:
        Input: {"ids": (B, L), "mask": (B, L)}. Output: (B, dim).
    """

    def __init__(self, spec: InputSpec, *, dim: int = 64, depth: int = 2, heads: int = 4, dropout: float = 0.1) -> None:
        super().__init__(spec)
        if dim % heads:
            raise BadValue(f"heads must divide dim, and {heads} does not divide {dim}.")
        self.embedding = nn.Embedding(self.vocabulary, dim)
        self.position = nn.Parameter(0.02 * torch.randn(self.spec.shape[0], dim))
        self.add_layers(dim, depth, heads, dropout)

    def begin(self, x: Mapping[str, Tensor]) -> Words:
        ids = x["ids"]
        return Words(self.embedding(ids) + self.position[: ids.shape[1]], x["mask"])

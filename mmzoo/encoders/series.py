"""Encoders of series of measurements: convolutions over time, and a small transformer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmzoo.core.encoder import Encoder, InputSpec
from mmzoo.encoders.tokens import TransformerLayers, Words
from mmzoo.errors import BadValue
from mmzoo.functional import in_steps


class Steps(NamedTuple):
    """The state of an encoder of series.

    Args:
        map: (B, C, T), zeros where there is padding.
        mask: (B, T) bool, False at padding.
        summary: (B, S), of the input as it was, where the encoder keeps one.
    """

    map: Tensor
    mask: Tensor
    summary: Tensor | None = None


def _given(x: Mapping[str, Tensor], dtype: torch.dtype) -> Steps:
    """A batch of series, zeros under their padding."""
    mask = x["mask"].bool()
    return Steps(torch.where(mask[:, None], x["values"].to(dtype), 0.0), mask)


def _summary(given: Steps, pieces: int) -> Tensor:
    """(B, C * (pieces + 2)) of a series (B, C, T): mean and standard deviation of each channel, and the means of `pieces` runs."""
    there = given.mask[:, None].to(given.map.dtype)
    n = there.sum(2).clamp_min(1.0)
    mean = given.map.sum(2) / n
    spread = (((given.map - mean[..., None]) * there).square().sum(2) / n + 1e-6).sqrt()
    return torch.cat([mean, spread, in_steps(given.map, given.mask, pieces).flatten(1)], 1)


class SeriesCNN(Encoder):
    """Convolutions over time with ReLU, one per stage, then pooling, dropout and a linear layer.

    All stages but the first halve the steps. Pooled are the means of `grid` runs of steps and the maximum over all, side by side.
    Padding is zero before every convolution and left out of means and maximum, so that it changes nothing. The view of a
    series is (B, C, T). With `pieces` the linear layer also reads mean, standard deviation and averaged runs of the input
    itself, which are much of what tells short series apart (as linear floors do).

    Args:
        spec: A series.
        widths: Channels after each stage.
        kernel: Steps that a filter reaches over; odd.
        width: Output width.
        grid: Runs of steps that are averaged, so that it matters when something happens; 1: one mean.
        dropout: Of what the convolutions give, before the linear layer.
        pieces: Runs of steps of the input that are averaged for the linear layer; 0: it reads no input.

    Raises:
        BadValue: A width, kernel or grid is not positive, pieces is negative, or the kernel is even.
    """

    def __init__(
        self,
        spec: InputSpec | Sequence[int],
        *,
        widths: Sequence[int] = (32, 64, 64),
        kernel: int = 5,
        width: int = 64,
        grid: int = 4,
        dropout: float = 0.0,
        pieces: int = 0,
    ) -> None:
        super().__init__()
        self.spec = InputSpec.of(spec).of_kind("series")
        if not widths or min((kernel, width, grid, pieces + 1, *widths)) < 1 or kernel % 2 == 0:
            raise BadValue(
                f"widths, width, grid and kernel must be positive, kernel odd and pieces not negative; not widths="
                f"{tuple(widths)}, width={width}, grid={grid}, kernel={kernel}, pieces={pieces}."
            )
        pairs = itertools.pairwise([self.spec.shape[0], *widths])
        self.convolutions = nn.ModuleList(
            nn.Conv1d(i, o, kernel, 1 if n == 0 else 2, kernel // 2) for n, (i, o) in enumerate(pairs)
        )
        self.grid, self.pieces, self.dropout = grid, pieces, nn.Dropout(dropout)
        summary = self.spec.shape[0] * (pieces + 2) if pieces else 0
        self.project = nn.Linear(widths[-1] * (grid + 1) + summary, width)
        self.out_dim, self.n_stages, self.stage_dims = width, len(widths), tuple(widths)

    def begin(self, x: Mapping[str, Tensor]) -> Steps:
        state = _given(x, self.project.weight.dtype)
        return state._replace(summary=_summary(state, self.pieces)) if self.pieces else state

    def run_stage(self, stage: int, state: Steps) -> Steps:
        mask = state.mask if stage == 0 else state.mask[:, ::2]
        map_ = torch.where(mask[:, None], F.relu(self.convolutions[stage](state.map)), 0.0)
        return state._replace(map=map_, mask=mask)

    def view(self, state: Steps) -> Tensor:
        return state.map

    def mask(self, state: Steps) -> Tensor:
        return state.mask

    def replace(self, state: Steps, map_: Tensor) -> Steps:
        return state._replace(map=map_)

    def finish(self, state: Steps) -> Tensor:
        largest = torch.where(state.mask[:, None], state.map, 0.0).amax(2)  # after ReLU nothing is below zero
        means = in_steps(state.map, state.mask, self.grid).flatten(1)
        read = self.dropout(torch.cat([means, largest], 1))
        found: Tensor = self.project(read if state.summary is None else torch.cat([read, state.summary], 1))
        return found


class SeriesTransformer(TransformerLayers):
    """Transformer layers (normalised first) over pieces of `patch` steps and their learned positions, then the mean.

    Args:
        spec: A series.
        patch: Steps of a piece.
        dim: Width of a piece's vector and of the output.
        depth: Layers, each a stage.
        heads: Of attention; they must divide dim.
        dropout: Within the layers.

    Raises:
        BadValue: heads does not divide dim, or a number is not positive.
    """

    def __init__(
        self,
        spec: InputSpec | Sequence[int],
        *,
        patch: int = 4,
        dim: int = 64,
        depth: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.spec = InputSpec.of(spec).of_kind("series")
        if min(patch, dim, depth, heads) < 1 or dim % heads:
            raise BadValue(
                f"patch, dim, depth and heads must be positive, and heads must divide dim; not patch={patch}, dim={dim}, "
                f"depth={depth}, heads={heads}."
            )
        self.patch = patch
        self.embedding = nn.Conv1d(self.spec.shape[0], dim, patch, patch)
        self.position = nn.Parameter(0.02 * torch.randn(-(-self.spec.shape[1] // patch), dim))
        self.add_layers(dim, depth, heads, dropout)

    def begin(self, x: Mapping[str, Tensor]) -> Words:
        steps = _given(x, self.norm.weight.dtype)
        short = -steps.map.shape[2] % self.patch
        pieces = self.embedding(F.pad(steps.map, (0, short))).transpose(1, 2)
        mask = F.pad(steps.mask, (0, short)).unflatten(1, (-1, self.patch)).any(2)
        return Words(pieces + self.position[: pieces.shape[1]], mask)

"""A small convolutional network for images, spectrograms and video frames, fast enough for a CPU."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mmzoo.core.encoder import InputSpec
from mmzoo.encoders.planar import Planar, Temporal
from mmzoo.errors import BadValue


class CNN(Planar):
    """3 x 3 convolutions of stride 2 with batch norm and ReLU, one per stage, then a linear layer.

    Args:
        spec: an image, a spectrogram or a video.
        widths: channels after each stage.
        width: width of the output.
        shrink: average the input over squares of this many pixels first.
        grid: average the last map to grid x grid cells, concatenated for the linear layer; the mean over the whole map
            of a spectrogram would lose the pitch.
        dropout: dropout probability of those cells, before the linear layer.
        temporal: how the features of a video's frames are pooled: "mean" (default) or "max".

    Raises:
        BadValue: a width, `shrink` or `grid` is not positive.

    Shape:
        Input: (B, C, H, W), (B, F, T) or (B, T, C, H, W). Output: (B, width).
    """

    def __init__(
        self,
        spec: InputSpec | Sequence[int],
        *,
        widths: Sequence[int] = (16, 32, 64),
        width: int = 64,
        shrink: int = 1,
        grid: int = 4,
        dropout: float = 0.0,
        temporal: Temporal = "mean",
    ) -> None:
        super().__init__(spec, temporal=temporal)
        if min((width, shrink, grid, *widths)) < 1 or not widths:
            raise BadValue(
                f"widths must be positive and at least one, and so must width, shrink and grid; not widths="
                f"{tuple(widths)}, width={width}, shrink={shrink}, grid={grid}."
            )
        self.shrink, self.grid, self.dropout = shrink, grid, nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, 2, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
            for i, o in itertools.pairwise([self.channels, *widths])
        )
        self.project = nn.Linear(widths[-1] * grid * grid, width)
        self.out_dim, self.n_stages, self.stage_dims = width, len(widths), tuple(widths)

    def stem(self, x: Tensor) -> Tensor:
        return x if self.shrink == 1 else F.avg_pool2d(x, self.shrink, ceil_mode=True)

    def block(self, stage: int, x: Tensor) -> Tensor:
        found: Tensor = self.blocks[stage](x)
        return found

    def pool(self, x: Tensor) -> Tensor:
        found: Tensor = self.project(self.dropout(F.adaptive_avg_pool2d(x, self.grid).flatten(1)))
        return found

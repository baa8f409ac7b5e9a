"""A small convolutional network for images, spectrograms and frames on a CPU."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from mmzoo.core.encoder import InputSpec
from mmzoo.encoders.planar import Planar, Temporal
from mmzoo.errors import BadValue


class CNN(Planar):
    """Convolutions of 3 x 3 and stride 2 with batch statistics and ReLU, one a stage; then a linear layer.

    widths: channels after each stage. width: output width. shrink: the input is averaged over squares of that many pixels
    first. grid: the last map is averaged to grid x grid cells, which the linear layer reads side by side: of a spectrogram
    a mean over everything would forget the pitch. Raises BadValue for a width, shrink or grid that is not positive.
    """

    def __init__(
        self,
        spec: InputSpec | Sequence[int],
        *,
        widths: Sequence[int] = (16, 32, 64),
        width: int = 64,
        shrink: int = 1,
        grid: int = 4,
        temporal: Temporal = "mean",
    ) -> None:
        super().__init__(spec, temporal=temporal)
        if min((width, shrink, grid, *widths)) < 1 or not widths:
            raise BadValue(
                f"widths must be positive and at least one, and so must width, shrink and grid; not widths="
                f"{tuple(widths)}, width={width}, shrink={shrink}, grid={grid}."
            )
        self.shrink, self.grid = shrink, grid
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
        found: Tensor = self.project(F.adaptive_avg_pool2d(x, self.grid).flatten(1))
        return found

"""A multilayer perceptron for vectors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from mmzoo.core.encoder import Encoder, InputSpec
from mmzoo.errors import BadValue


class MLP(Encoder):
    """Flattens its input and applies linear layers with ReLU; the last layer is linear.

    Each hidden layer is a stage.

    Args:
        spec: any input but text.
        hidden: width of each hidden layer.
        width: width of the output.
        dropout: dropout probability after each hidden layer.

    Raises:
        BadValue: a width is not positive.

    Shape:
        Input: (B, *spec.shape). Output: (B, width).
    """

    def __init__(
        self, spec: InputSpec | Sequence[int], *, hidden: Sequence[int] = (64,), width: int = 32, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if width < 1 or any(h < 1 for h in hidden):
            raise BadValue(f"widths must be positive, not hidden={tuple(hidden)}, width={width}.")
        spec = InputSpec.of(spec).of_kind("vector", "image", "spectrogram", "video")
        widths = [math.prod(spec.shape), *hidden]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(i, o), nn.ReLU(), nn.Dropout(dropout)) for i, o in itertools.pairwise(widths)
        )
        self.project = nn.Linear(widths[-1], width)
        self.out_dim = width
        self.n_stages = len(self.layers)
        self.stage_dims = tuple(hidden)

    def begin(self, x: Tensor) -> Tensor:
        return x.flatten(1).to(self.project.weight.dtype)

    def run_stage(self, stage: int, state: Tensor) -> Tensor:
        found: Tensor = self.layers[stage](state)
        return found

    def finish(self, state: Tensor) -> Tensor:
        found: Tensor = self.project(state)
        return found

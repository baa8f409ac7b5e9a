"""A multilayer perceptron for vectors."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
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
        skip: each hidden layer's output has the input beside it, as in Cheng et al., Wide & Deep Learning for Recommender
            Systems, DLRS 2016; so the output is that of the layers plus a linear map of the input.
        bound: hidden layers read x / sqrt(1 + (x / bound)^2) in place of the input x, which stays within the bound, as in
            Holzmüller et al., Better by Default: Strong Pre-Tuned MLPs and Boosted Trees on Tabular Data, NeurIPS 2024;
            0: x itself. A linear map beside them always reads x.

    Raises:
        BadValue: a width is not positive, or the bound is negative.

    Shape:
        Input: (B, *spec.shape). Output: (B, width).
    """

    def __init__(
        self,
        spec: InputSpec | Sequence[int],
        *,
        hidden: Sequence[int] = (64,),
        width: int = 32,
        dropout: float = 0.0,
        skip: bool = False,
        bound: float = 0.0,
    ) -> None:
        super().__init__()
        if not bound >= 0:
            raise BadValue(f"bound must not be negative, not {bound}; 0 is none.")
        if width < 1 or any(h < 1 for h in hidden):
            raise BadValue(f"widths must be positive, not hidden={tuple(hidden)}, width={width}.")
        spec = InputSpec.of(spec).of_kind("vector", "image", "spectrogram", "video")
        beside = math.prod(spec.shape) if skip and hidden else 0
        widths = [math.prod(spec.shape), *(h + beside for h in hidden)]
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(i, o - beside), nn.ReLU(), nn.Dropout(dropout))
            for i, o in itertools.pairwise(widths)
        )
        self.beside, self.bound = beside, bound
        self.project = nn.Linear(widths[-1], width)
        self.out_dim = width
        self.n_stages = len(self.layers)
        self.stage_dims = tuple(widths[1:])

    def begin(self, x: Tensor) -> Tensor:
        return x.flatten(1).to(self.project.weight.dtype)

    def run_stage(self, stage: int, state: Tensor) -> Tensor:
        found: Tensor = self.layers[stage](self._bounded(state, stage) if self.bound else state)
        return torch.cat([found, state[:, -self.beside :]], 1) if self.beside else found

    def _bounded(self, state: Tensor, stage: int) -> Tensor:
        """A state with what it holds of the input within the bound."""
        of_layers = state.shape[1] - self.beside if stage else 0
        x = state[:, of_layers:]
        return torch.cat([state[:, :of_layers], x / (1 + (x / self.bound).square()).sqrt()], 1)

    def finish(self, state: Tensor) -> Tensor:
        found: Tensor = self.project(state)
        return found

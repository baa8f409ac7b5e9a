"""Encoders as a head reads them, where that is not by the feature as it is: as a sequence, or in another width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mmzoo.core.encoder import Encoder
from mmzoo.errors import BadValue, Incompatible


class Readout(Encoder):
    """An encoder around another one, stage for stage the same. What is made of the last state is for subclasses to say."""

    def __init__(self, encoder: Encoder, out_dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.out_dim = out_dim
        self.n_stages = encoder.n_stages
        self.stage_dims = tuple(encoder.stage_dims)
        self.lr_scale = encoder.lr_scale

    def begin(self, x: Any) -> Any:
        return self.encoder.begin(x)

    def advance(self, stage: int, state: Any) -> Any:
        return self.encoder.advance(stage, state)

    def run_stage(self, stage: int, state: Any) -> Any:
        return self.encoder.run_stage(stage, state)

    def view(self, state: Any) -> Tensor:
        return self.encoder.view(state)

    def mask(self, state: Any) -> Tensor | None:
        return self.encoder.mask(state)

    def replace(self, state: Any, map_: Tensor) -> Any:
        return self.encoder.replace(state, map_)

    def sequence(self, state: Any, steps: int) -> Tensor:
        return self.encoder.sequence(state, steps)


class Steps(Readout):
    """Gives the map after an encoder's last stage as a sequence of `steps` steps side by side, (B, steps * C), in place
    of its feature (`Encoder.sequence` says how). What the encoder itself makes of that map (`finish`) is not used.

    Raises BadValue for less than one step, Incompatible for an encoder without stages or without their widths.
    """

    def __init__(self, encoder: Encoder, steps: int) -> None:
        if steps < 1:
            raise BadValue(f"a sequence needs at least one step, not {steps}.")
        if not encoder.n_stages or not len(encoder.stage_dims):
            raise Incompatible(
                f"a sequence is read from the map after the last stage, and {type(encoder).__name__} has no "
                f"{'widths of its stages (stage_dims)' if encoder.n_stages else 'stages'}. Take a staged encoder, or a "
                "head that reads features."
            )
        super().__init__(encoder, steps * encoder.stage_dims[-1])
        self.steps = steps

    def finish(self, state: Any) -> Tensor:
        return self.encoder.sequence(state, self.steps).flatten(1)


class Projected(Readout):
    """Gives W z + b, (B, width), in place of an encoder's feature z. W and b are trained with the encoder, at its learning
    rate, also where the encoder itself is frozen."""

    def __init__(self, encoder: Encoder, width: int) -> None:
        super().__init__(encoder, width)
        self.linear = nn.Linear(encoder.out_dim, width)

    def forward(self, x: Any) -> Tensor:
        return super().forward(x) if self.n_stages else self.linear(self.encoder(x))

    def finish(self, state: Any) -> Tensor:
        found: Tensor = self.linear(self.encoder.finish(state))
        return found


def to_one_width(encoders: Mapping[str, Encoder]) -> dict[str, Encoder]:
    """The encoders with all features as wide as the narrowest: those of other widths are `Projected`."""
    width = min(e.out_dim for e in encoders.values())
    return {m: e if e.out_dim == width else Projected(e, width) for m, e in encoders.items()}

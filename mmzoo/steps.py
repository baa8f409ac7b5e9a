"""A staged encoder read as a sequence, for heads that follow each modality through time or over its tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mmzoo.encoder import Encoder
from mmzoo.errors import BadValue, Incompatible


class Steps(Encoder):
    """Gives the map after an encoder's last stage as a sequence of `steps` steps side by side, (B, steps * C), in place
    of its feature (`Encoder.sequence` says how). What the encoder itself makes of that map (`finish`) is not used.

    Raises BadValue for less than one step, Incompatible for an encoder without stages or without their widths.
    """

    def __init__(self, encoder: Encoder, steps: int) -> None:
        super().__init__()
        if steps < 1:
            raise BadValue(f"a sequence needs at least one step, not {steps}.")
        if not encoder.n_stages or not len(encoder.stage_dims):
            raise Incompatible(
                f"a sequence is read from the map after the last stage, and {type(encoder).__name__} has no "
                f"{'widths of its stages (stage_dims)' if encoder.n_stages else 'stages'}. Take a staged encoder, or a "
                "head that reads features."
            )
        self.encoder = encoder
        self.steps = steps
        self.n_stages = encoder.n_stages
        self.stage_dims = tuple(encoder.stage_dims)
        self.out_dim = steps * self.stage_dims[-1]
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

    def finish(self, state: Any) -> Tensor:
        return self.encoder.sequence(state, self.steps).flatten(1)

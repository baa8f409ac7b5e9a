"""Encoders read by a head in another form than their feature: as a sequence, or projected to another width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mmzoo.core.encoder import Encoder
from mmzoo.errors import BadValue, Incompatible


class Readout(Encoder):
    """Base of the wrappers around an encoder; all stages are the encoder's own. Subclasses define `finish`.

    Args:
        encoder: the encoder that is wrapped.
        out_dim: width of the feature of the wrapper.
    """

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
    """Reads the map after an encoder's last stage as a sequence, in place of its feature.

    `Encoder.sequence` makes the sequence; the encoder's own `finish` is not used.

    Args:
        encoder: a staged encoder with `stage_dims`.
        steps: length of the sequence.

    Raises:
        BadValue: fewer than one step.
        Incompatible: the encoder has no stages, or does not give their widths.

    Shape:
        Output: (B, steps * C), the steps side by side.
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
    """Projects an encoder's feature z to W z + b.

    W and b are trained with the encoder, at its learning rate, even if the encoder itself is frozen.

    Args:
        encoder: the encoder that is wrapped.
        width: width of the projection.

    Shape:
        Output: (B, width).
    """

    def __init__(self, encoder: Encoder, width: int) -> None:
        super().__init__(encoder, width)
        self.linear = nn.Linear(encoder.out_dim, width)

    def forward(self, x: Any) -> Tensor:
        return super().forward(x) if self.n_stages else self.linear(self.encoder(x))

    def finish(self, state: Any) -> Tensor:
        found: Tensor = self.linear(self.encoder.finish(state))
        return found


def to_one_width(encoders: Mapping[str, Encoder]) -> dict[str, Encoder]:
    """The encoders with all features as wide as the narrowest: wider ones are `Projected`.

    Args:
        encoders: modality -> encoder.
    """
    width = min(e.out_dim for e in encoders.values())
    return {m: e if e.out_dim == width else Projected(e, width) for m, e in encoders.items()}

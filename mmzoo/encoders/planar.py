"""The base of two-dimensional backbones: images, spectrograms, and videos frame by frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from mmzoo.core.encoder import Encoder, InputSpec
from mmzoo.errors import BadValue, undefined
from mmzoo.functional import in_steps

Temporal = Literal["mean", "max"]


class Planes(NamedTuple):
    """map: (B * frames, C, H, W). frames: of one item, None where the input is no video."""

    map: Tensor
    frames: int | None


class Planar(Encoder):
    """Reads an image, a spectrogram as an image of one channel, or the frames of a video one by one.

    A subclass defines `stem`, `block` and `pool`, each on maps (N, C, H, W), and sets n_stages, stage_dims and out_dim. One
    that keeps its maps in another form says in `to_map` and `from_map` how they become (N, C, *spatial).
    The features of a video's frames become those of the video by their mean or maximum (temporal). The view of a video
    is (B, C, T, H, W). Raises Incompatible for an input of another kind, BadValue for `temporal` where there is no time.
    """

    def __init__(self, spec: InputSpec | Sequence[int], *, temporal: Temporal = "mean") -> None:
        super().__init__()
        self.spec = InputSpec.of(spec).of_kind("image", "spectrogram", "video")
        if temporal != "mean" and self.spec.kind != "video":
            raise BadValue(f"temporal pools over the frames of a video; this input is {self.spec.kind}. Leave it out.")
        self.temporal = temporal
        #: the input channels: one for a spectrogram
        self.channels: int = 1 if self.spec.kind == "spectrogram" else self.spec.shape[-3]

    def stem(self, x: Tensor) -> Tensor:
        """What comes before the first stage."""
        return x

    def block(self, stage: int, x: Tensor) -> Tensor:
        """One stage."""
        raise undefined(self, "block")

    def pool(self, x: Tensor) -> Tensor:
        """(N, out_dim) from the map of the last stage."""
        raise undefined(self, "pool")

    def to_map(self, x: Tensor) -> Tensor:
        """(N, C, *spatial) of a map in the backbone's own form."""
        return x

    def from_map(self, map_: Tensor) -> Tensor:
        """The inverse of `to_map`."""
        return map_

    def begin(self, x: Tensor) -> Planes:
        x = x.to(next(self.parameters()).dtype)
        if self.spec.kind == "video":
            return Planes(self.stem(x.flatten(0, 1)), x.shape[1])
        return Planes(self.stem(x[:, None] if self.spec.kind == "spectrogram" else x), None)

    def run_stage(self, stage: int, state: Planes) -> Planes:
        return state._replace(map=self.block(stage, state.map))

    def view(self, state: Planes) -> Tensor:
        map_ = self.to_map(state.map)
        return map_ if state.frames is None else map_.unflatten(0, (-1, state.frames)).transpose(1, 2)

    def sequence(self, state: Planes, steps: int) -> Tensor:
        """Along the frames of a video, the time of a spectrogram, and an image from top to bottom."""
        map_ = self.view(state)
        return in_steps(map_.transpose(2, 3) if self.spec.kind == "spectrogram" else map_, None, steps)

    def replace(self, state: Planes, map_: Tensor) -> Planes:
        return state._replace(map=self.from_map(map_ if state.frames is None else map_.transpose(1, 2).flatten(0, 1)))

    def finish(self, state: Planes) -> Tensor:
        z = self.pool(state.map)
        if state.frames is None:
            return z
        z = z.unflatten(0, (-1, state.frames))
        found: Tensor = z.amax(1) if self.temporal == "max" else z.mean(1)
        return found

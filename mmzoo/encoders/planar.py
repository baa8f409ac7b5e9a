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
    """The state of a `Planar` encoder.

    Args:
        map: (B * frames, C, H, W).
        frames: frames per sample; None if the input is no video.
    """

    map: Tensor
    frames: int | None


class Planar(Encoder):
    """Base of encoders that read an image, a spectrogram as an image of one channel, or a video frame by frame.

    A subclass defines `stem`, `block` and `pool`, each on maps (N, C, H, W), and sets n_stages, stage_dims and out_dim.
    If its maps have another layout, `to_map` and `from_map` convert them to and from (N, C, *spatial). The view of a
    video is (B, C, T, H, W).

    Args:
        spec: an image, a spectrogram or a video.
        temporal: how the features of a video's frames are pooled: "mean" (default) or "max".

    Raises:
        Incompatible: another kind of input.
        BadValue: `temporal` was given for an input without time.

    Shape:
        Input: (B, C, H, W), (B, F, T) or (B, T, C, H, W). Output: (B, out_dim).
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
        """The layers before the first stage."""
        return x

    def block(self, stage: int, x: Tensor) -> Tensor:
        """One stage."""
        raise undefined(self, "block")

    def pool(self, x: Tensor) -> Tensor:
        """(N, out_dim), the features from the map of the last stage."""
        raise undefined(self, "pool")

    def to_map(self, x: Tensor) -> Tensor:
        """(N, C, *spatial), from a map in the backbone's own layout."""
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
        """Along the frames of a video, the time axis of a spectrogram, or an image from top to bottom."""
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

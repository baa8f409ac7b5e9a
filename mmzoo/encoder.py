"""The encoder of one modality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mmzoo.errors import BadValue, Incompatible
from mmzoo.functional import in_steps

#: what a bare shape is taken for, by its number of axes
_BY_AXES = {1: "vector", 2: "spectrogram", 3: "image", 4: "video"}


@dataclass(frozen=True)
class InputSpec:
    """What an encoder is told of its input.

    kind and shape of one item: vector (D,), spectrogram (F, T), image (C, H, W), video (T, C, H, W), text (L,). A batch
    has one more axis in front; of text it is {"ids": (B, L) int64, "mask": (B, L) bool, True where there is a token},
    with "segment": (B, L) int64 where there are pairs. Eval may come with more frames or fewer tokens than `shape` says.
    vocabulary: of text, how many different ids there are.
    """

    kind: str
    shape: tuple[int, ...]
    vocabulary: int | None = None

    @classmethod
    def of(cls, given: InputSpec | Sequence[int]) -> InputSpec:
        """A spec as it is; a bare shape as that of the kind that has as many axes. Raises BadValue for another one."""
        if isinstance(given, InputSpec):
            return given
        if len(given) not in _BY_AXES:
            listed = ", ".join(f"{n} ({kind})" for n, kind in _BY_AXES.items())
            raise BadValue(f"a shape has one axis to four: {listed}; {tuple(given)} has {len(given)}.")
        return cls(_BY_AXES[len(given)], tuple(given))

    def of_kind(self, *kinds: str) -> InputSpec:
        """The spec itself. Raises Incompatible unless its kind is one of these."""
        if self.kind not in kinds:
            raise Incompatible(f"this encoder takes {' or '.join(kinds)}, not {self.kind} {self.shape}.")
        return self


class Encoder(nn.Module):
    """Turns the input of one modality into a feature vector. Built as `Class(spec, **params)`, spec an InputSpec.

    `forward(x)` maps B rows to (B, out_dim). Video is (B, T, C, H, W), folded and unfolded in here; tokens are a
    mapping with their padding mask. Rows whose modality is absent are never given to an encoder.

    A staged encoder sets `n_stages` and defines begin, run_stage and finish instead of `forward`, so that a head can act
    between stages (MMTM, bottlenecks). `forward` is then their composition. stage_dims: the width C of the map after
    each stage, so that such a head knows its layers before it has seen a map.
    """

    out_dim: int
    n_stages: int = 0
    stage_dims: Sequence[int] = ()

    def begin(self, x: Any) -> Any:
        """The state before stage 0."""
        raise TypeError(f"{type(self).__name__} defines neither forward nor the stages begin/run_stage/finish")

    def run_stage(self, stage: int, state: Any) -> Any:
        """The state after one stage."""
        raise TypeError(f"{type(self).__name__} has no stages")

    def view(self, state: Any) -> Tensor:
        """The map of a state, (B, C, *spatial): time is a spatial axis, and of tokens C is the width, not the number."""
        return state

    def sequence(self, state: Any, steps: int) -> Tensor:
        """(B, steps, C): the map of a state as a sequence of that many steps, each the mean of a run of positions.

        Positions are taken row by row, so that a sequence goes along the first spatial axis: override this where time
        is another one.
        """
        return in_steps(self.view(state), self.mask(state), steps)

    def mask(self, state: Any) -> Tensor | None:
        """(B, *spatial) bool, which positions of the map hold data rather than padding. None: all of them."""
        return None

    def replace(self, state: Any, map_: Tensor) -> Any:
        """The state with another map of the same shape."""
        return map_

    def finish(self, state: Any) -> Tensor:
        """(B, out_dim) from the last state."""
        raise TypeError(f"{type(self).__name__} has no stages")

    def forward(self, x: Any) -> Tensor:
        state = self.begin(x)
        for stage in range(self.n_stages):
            state = self.run_stage(stage, state)
        return self.finish(state)

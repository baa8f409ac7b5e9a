"""The protocol of an encoder: one modality's input to a feature vector, optionally in stages."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed

from mmzoo.core.modes import buffers_kept, in_mode
from mmzoo.core.values import map_tensors
from mmzoo.errors import BadValue, Incompatible
from mmzoo.functional import in_steps

#: what a bare shape is taken for, by its number of axes
_BY_AXES = {1: "vector", 2: "spectrogram", 3: "image", 4: "video"}


@dataclass(frozen=True)
class InputSpec:
    """The input of an encoder: what kind of data, and the shape of one sample.

    A batch has one more axis in front. A batch of text is a mapping {"ids": (B, L) int64, "mask": (B, L) bool, True at
    a token}, with "segment": (B, L) int64 for pairs; one of series is {"values": (B, C, T), "mask": (B, T) bool}. A
    batch may have more frames, or fewer tokens or steps, than `shape`.

    Args:
        kind: vector (D,), series (C, T), spectrogram (F, T), image (C, H, W), video (T, C, H, W) or text (L,).
        shape: the shape of one sample, as listed under `kind`.
        vocabulary: number of different token ids; of text only.
    """

    kind: str
    shape: tuple[int, ...]
    vocabulary: int | None = None

    @classmethod
    def of(cls, given: InputSpec | Sequence[int]) -> InputSpec:
        """An InputSpec as it is, or a bare shape as the kind with that number of axes.

        Raises:
            BadValue: no kind has that number of axes.
        """
        if isinstance(given, InputSpec):
            return given
        if len(given) not in _BY_AXES:
            listed = ", ".join(f"{n} ({kind})" for n, kind in _BY_AXES.items())
            raise BadValue(f"a shape has one axis to four: {listed}; {tuple(given)} has {len(given)}.")
        return cls(_BY_AXES[len(given)], tuple(given))

    def of_kind(self, *kinds: str) -> InputSpec:
        """The spec itself, if its kind is one of `kinds`.

        Raises:
            Incompatible: it is not.
        """
        if self.kind not in kinds:
            raise Incompatible(f"this encoder takes {' or '.join(kinds)}, not {self.kind} {self.shape}.")
        return self

    def example(self, n: int = 2) -> Any:
        """A random batch of `n` such inputs: normal numbers, or tokens; without padding. Uses the global generator."""
        if self.kind == "series":
            return {"values": torch.randn(n, *self.shape), "mask": torch.ones(n, self.shape[-1], dtype=torch.bool)}
        if self.kind != "text":
            return torch.randn(n, *self.shape)
        ids = torch.randint(self.vocabulary or 2, (n, *self.shape))
        return {"ids": ids, "mask": torch.ones_like(ids, dtype=torch.bool)}


class Encoder(nn.Module):
    """Base of all encoders: turns the input of one modality into a feature vector. Built as `Class(spec, **params)`.

    An encoder sets `out_dim` and defines `forward`. Rows whose modality is absent never reach it.

    A staged encoder sets `n_stages` and defines `begin`, `run_stage` and `finish` instead of `forward`, which is then
    their composition. A head can act between its stages (MMTM, attention bottlenecks).

    Attributes:
        out_dim: width of the feature.
        n_stages: number of stages; 0 for an encoder without stages.
        stage_dims: width C of the map after each stage, from which such a head builds its layers.
        lr_scale: factor on the learning rate; see `configure`.

    Shape:
        Input: (B, *spec.shape), or a mapping of tensors for text. Output: (B, out_dim).
    """

    out_dim: int
    n_stages: int = 0
    stage_dims: Sequence[int] = ()
    #: the factor on the learning rate of its parameters; see `configure`
    lr_scale: float = 1.0
    _still: Sequence[nn.Module] = ()
    _recompute: bool = False

    def configure(
        self,
        spec: InputSpec | Sequence[int],
        *,
        lr_scale: float = 1.0,
        frozen: bool = False,
        frozen_stages: int = 0,
        checkpoint: bool = False,
        channels_last: bool = False,
    ) -> Encoder:
        """Apply the options that every encoder takes, and return the encoder.

        Args:
            spec: the input, a random batch of which finds what `frozen_stages` freezes.
            lr_scale: factor on the scheduled learning rate.
            frozen: freeze all parameters, batch statistics and dropout.
            frozen_stages: freeze the stem and this many stages.
            checkpoint: recompute stages in the backward pass to save memory; the results are the same.
            channels_last: store convolution weights in this memory format.

        Raises:
            BadValue: two options exclude each other.
            Incompatible: the encoder has nothing that an option could act on.
        """
        name = type(self).__name__
        if frozen and (frozen_stages or checkpoint or lr_scale != 1.0):
            raise BadValue("frozen leaves nothing for frozen_stages, checkpoint or lr_scale to act on. Set it or them.")
        if frozen_stages > self.n_stages or (checkpoint and not self.n_stages):
            what = f"frozen_stages={frozen_stages}" if frozen_stages > self.n_stages else "checkpoint=true"
            raise Incompatible(f"{name} has {self.n_stages or 'no'} stages, too few for {what}.")
        self.lr_scale, self._recompute = lr_scale, checkpoint
        if channels_last:
            self._to_channels_last()
        if frozen:
            self._still = [self]
            self.requires_grad_(False)
        elif frozen_stages:
            self._freeze_stages(frozen_stages, InputSpec.of(spec).example())
        self.train(self.training)
        return self

    def train(self, mode: bool = True) -> Encoder:
        """Set train or eval mode as `nn.Module.train` does; frozen modules stay in eval mode."""
        super().train(mode)
        for module in self._still:
            for inner in module.modules():
                inner.training = False
        return self

    def _to_channels_last(self) -> None:
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        found = [p for p in self.parameters() if p.ndim in formats]
        if not found:
            raise Incompatible(f"{type(self).__name__} has no convolution for channels_last to act on.")
        for p in found:
            p.data = p.data.contiguous(memory_format=formats[p.ndim])

    def _freeze_stages(self, stages: int, x: Any) -> None:
        """Find the parameters that the map after so many stages depends on, and the modules that hold nothing else."""
        called: list[nn.Module] = []
        x = map_tensors(x, lambda t: t.to(next(self.parameters()).device))
        hooks = [m.register_forward_pre_hook(lambda m, _: called.append(m)) for m in self.modules() if m is not self]
        try:
            with in_mode(False, self), torch.random.fork_rng(devices=[]), torch.enable_grad():
                state = self.begin(x)
                for stage in range(stages):
                    state = self.run_stage(stage, state)
                params = list(self.parameters())
                grads = torch.autograd.grad(self.view(state).sum(), params, allow_unused=True)
        finally:
            for hook in hooks:
                hook.remove()
        early = {id(p) for p, g in zip(params, grads) if g is not None}
        self._still = [m for m in dict.fromkeys(called) if all(id(p) in early for p in m.parameters())]
        for p in params:
            p.requires_grad_(p.requires_grad and id(p) not in early)

    def advance(self, stage: int, state: Any) -> Any:
        """`run_stage` of a `stage` on a `state`, recomputed in the backward pass if configured with `checkpoint`."""
        # torch.func has no place for what checkpointing hangs on saved tensors.
        if not self._recompute or not torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
            return self.run_stage(stage, state)
        # The second time runs on copies of the buffers: batch statistics have moved already.
        return recomputed(
            self.run_stage,
            stage,
            state,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), _OnCopies(self)),
        )

    def begin(self, x: Any) -> Any:
        """The state before stage 0, from the input `x`."""
        raise TypeError(f"{type(self).__name__} defines neither forward nor the stages begin/run_stage/finish")

    def run_stage(self, stage: int, state: Any) -> Any:
        """The state after a `stage`, counted from 0, given the `state` before it."""
        raise TypeError(f"{type(self).__name__} has no stages")

    def view(self, state: Any) -> Tensor:
        """The map of a state, (B, C, *spatial).

        Time is a spatial axis. For tokens C is their width, and their number is the spatial axis.
        """
        found: Tensor = state
        return found

    def sequence(self, state: Any, steps: int) -> Tensor:
        """The map of a `state` as a sequence of `steps` vectors, each the mean of a run of positions.

        Positions are read row by row, so that the sequence follows the first spatial axis. Override this if time is
        another.

        Returns:
            (B, steps, C).
        """
        return in_steps(self.view(state), self.mask(state), steps)

    def mask(self, state: Any) -> Tensor | None:
        """(B, *spatial) bool, True where the map holds data and False at padding. None: no padding."""
        return None

    def replace(self, state: Any, map_: Tensor) -> Any:
        """The `state` with another map `map_` of the same shape."""
        return map_

    def finish(self, state: Any) -> Tensor:
        """The feature (B, out_dim) of the last state."""
        raise TypeError(f"{type(self).__name__} has no stages")

    def forward(self, x: Any) -> Tensor:
        """The features (B, out_dim) of B inputs: all stages in order."""
        state = self.begin(x)
        for stage in range(self.n_stages):
            state = self.advance(stage, state)
        return self.finish(state)


class _OnCopies:
    """`buffers_kept`, to be entered as often as a graph is gone through."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._open: list[Any] = []

    def __enter__(self) -> None:
        self._open.append(buffers_kept(self._module))
        self._open[-1].__enter__()

    def __exit__(self, *error: Any) -> None:
        self._open.pop().__exit__(*error)

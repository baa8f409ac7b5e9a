"""The values that flow through a training pass. Mappings are keyed by modality name, in the data's order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One batch of B samples.

    Args:
        inputs: modality -> tensor with B rows, or a mapping of such tensors (token ids and their mask).
        target: (B,) int64 class indices.
        index: (B,) int64, the sample's row in its data set.
        present: (B, M) bool, columns in the order of `inputs`; None if every sample has every modality.
    """

    inputs: Mapping[str, Any]
    target: Tensor
    index: Tensor
    present: Tensor | None = None

    def __len__(self) -> int:
        return len(self.target)

    def map(self, fn: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with `fn` applied to every tensor in it."""
        inputs = {m: map_tensors(x, fn) for m, x in self.inputs.items()}
        present = None if self.present is None else fn(self.present)
        return Batch(inputs, fn(self.target), fn(self.index), present)

    def to(self, device: torch.device | str) -> Batch:
        """The batch on another device."""
        # Towards the CPU nothing would wait for a copy that is still under way.
        waits = torch.device(device).type != "cuda"
        return self.map(lambda x: x.to(device, non_blocking=not waits))


def map_tensors(value: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    """Apply `fn` to a tensor, or to every tensor of a (nested) mapping."""
    if isinstance(value, Mapping):
        return {k: map_tensors(v, fn) for k, v in value.items()}
    return fn(value)


def batch_bounds(n: int, size: int) -> list[tuple[int, int]]:
    """(start, end) of each batch of `size` among `n` samples.

    A last batch of one sample joins the batch before it: batch statistics of one sample do not exist.
    """
    starts = list(range(0, n, size))
    if len(starts) > 1 and n - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], n]))


@dataclass(frozen=True)
class Pass:
    """One forward and backward over a batch, as data.

    Args:
        name: names the pass in logs and random streams.
        present: the modalities that are fed; None: all.
        update: the modalities whose encoder and own part of the head are updated; None: all. The gradients of the
            others are removed, not zeroed: a zero gradient still moves weights through momentum and weight decay.
        freeze: modalities encoded without a graph and in eval mode, so that batch statistics do not change either.
        flags: values that a head reads (`{"mean_gates": ...}`, see `FusionHead`).
    """

    name: str = "joint"
    present: frozenset[str] | None = None
    update: frozenset[str] | None = None
    freeze: frozenset[str] = frozenset()
    flags: Mapping[str, Any] = field(default_factory=dict)

    def fed(self, modalities: tuple[str, ...]) -> tuple[str, ...]:
        """Those of `modalities` that this pass feeds, in their order."""
        return tuple(m for m in modalities if self.present is None or m in self.present)

    def moves(self, modality: str) -> bool:
        """Whether this pass may change the parameters of a modality: it is fed, updated and not frozen."""
        fed = self.present is None or modality in self.present
        return fed and (self.update is None or modality in self.update) and modality not in self.freeze


class Lazy(Mapping[str, Tensor]):
    """A mapping that is computed as a whole on first access, and then kept.

    Args:
        compute: returns the mapping.
    """

    def __init__(self, compute: Callable[[], Mapping[str, Tensor]]) -> None:
        self._compute: Callable[[], Mapping[str, Tensor]] | None = compute
        self._values: Mapping[str, Tensor] = {}

    def _filled(self) -> Mapping[str, Tensor]:
        if self._compute is not None:
            self._values, self._compute = self._compute(), None
        return self._values

    def __getitem__(self, modality: str) -> Tensor:
        return self._filled()[modality]

    def __iter__(self) -> Iterator[str]:
        return iter(self._filled())

    def __len__(self) -> int:
        return len(self._filled())


@dataclass(frozen=True)
class Outputs:
    """The outputs of a fusion head.

    Args:
        logits: (B, C), on which the model is trained.
        features: modality -> (B, D_m), the encoders' outputs.
        unimodal: modality -> (B, C), each modality's own logits; `FusionHead.how` says how they arise.
        aux: anything else (attention weights, evidence).
        ranking: (B, C) scores that decide a prediction if softmax(logits) does not.
        present: modality -> (B,) bool, which samples have it, for the modalities in `features`; None if all have all.
    """

    logits: Tensor
    features: Mapping[str, Tensor]
    unimodal: Mapping[str, Tensor]
    aux: Mapping[str, Any] = field(default_factory=dict)
    ranking: Tensor | None = None
    present: Mapping[str, Tensor] | None = None

    @property
    def scores(self) -> Tensor:
        """(B, C), the scores that decide a prediction: `ranking`, or softmax(logits)."""
        return self.logits.softmax(-1) if self.ranking is None else self.ranking

    def replace(self, **changes: Any) -> Outputs:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


class DecisionRule(Protocol):
    """How a model's outputs become a prediction. Every strategy is one."""

    def predict(self, out: Outputs) -> Outputs:
        """The outputs with the `ranking` that decides."""
        ...

"""Training data of a `Run`: the `Batches` protocol that loaders implement, and `as_batches`, which wraps any iterable.

Used by `Run`, the training verbs, teachers and `mmzoo.attach`. A wrapped iterable cannot be sharded or resampled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from mmzoo.core.values import Batch
from mmzoo.errors import BadValue, Incompatible


class Batches(Protocol):
    """A loader: re-iterable batches in an order that a generator decides (None: the stored order)."""

    def __len__(self) -> int: ...
    def batches(self, generator: torch.Generator | None = None) -> Iterator[Batch]: ...
    def part(self, number: int, of: int) -> Batches: ...
    def sampled(self, rows: Tensor, drop: Tensor | None, ordered: bool = False) -> Batches: ...


class _ListBatches:
    """Wraps any iterable of batches; iterates in the order of the iterable and ignores the generator."""

    def __init__(self, source: Iterable[Batch]) -> None:
        self._source = source

    def __len__(self) -> int:
        try:
            return len(self._source)  # type: ignore[arg-type]
        except TypeError:
            raise BadValue("give Run a list of batches or a loader: it is gone through once an epoch.") from None

    def batches(self, generator: torch.Generator | None = None) -> Iterator[Batch]:
        return iter(self._source)

    def part(self, number: int, of: int) -> Batches:
        raise Incompatible("this loader cannot be divided among processes: give Run an mmzoo Loader.")

    def sampled(self, rows: Tensor, drop: Tensor | None, ordered: bool = False) -> Batches:
        raise Incompatible("this loader cannot be resampled: give Run an mmzoo Loader.")


def as_batches(source: Any) -> Batches:
    return source if hasattr(source, "batches") else _ListBatches(source)

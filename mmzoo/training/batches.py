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
    """A loader: batches that can be iterated any number of times."""

    def __len__(self) -> int: ...
    def batches(self, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """Iterate over the batches, shuffled by `generator` or, without one, in stored order."""

    def part(self, number: int, of: int) -> Batches:
        """The share of one process, `number` of `of`."""

    def sampled(self, rows: Tensor, drop: Tensor | None, ordered: bool = False) -> Batches:
        """The loader over other rows; see `Run.set_sampling`."""


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
    """A loader as it is; any other iterable of batches as a loader in its own order."""
    return source if hasattr(source, "batches") else _ListBatches(source)

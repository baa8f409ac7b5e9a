"""What a data set offers to the bench, and the loader that reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmzoo.errors import BadValue, unknown
from mmzoo.types import Batch, batch_bounds, map_tensors


@dataclass(frozen=True)
class DataModule:
    """A data set with fixed splits.

    inputs: modality -> tensor with one row an item (or a mapping of such). target: (N,) int64. splits: train (without
    the slice), slice, holdout and test -> sorted row numbers. split_hash, recipe_hash: which item lies where, and how
    the inputs were made. present: (N, M) bool, or None when no modality is ever missing.
    """

    name: str
    inputs: Mapping[str, Any]
    target: Tensor
    n_classes: int
    splits: Mapping[str, Sequence[int]]
    split_hash: str
    recipe_hash: str
    metric: str = "acc"
    present: Tensor | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.inputs)

    def shape(self, modality: str) -> tuple[int, ...]:
        """The shape of one item's input."""
        return tuple(self.inputs[modality].shape[1:])

    def only(self, modalities: Sequence[str]) -> DataModule:
        """The same items with some of the modalities, in the data set's order."""
        for m in modalities:
            if m not in self.inputs:
                raise unknown(f"modality of {self.name}", m, self.inputs)
        columns = [i for i, m in enumerate(self.inputs) if m in modalities]
        present = None if self.present is None else self.present[:, columns]
        inputs = {m: x for m, x in self.inputs.items() if m in modalities}
        return DataModule(
            self.name, inputs, self.target, self.n_classes, self.splits, self.split_hash, self.recipe_hash,
            self.metric, present,
        )  # fmt: skip

    def loader(self, *splits: str, batch_size: int) -> Loader:
        """A loader of the items of one or several splits, holding a copy of those rows and no others."""
        for name in splits:
            if name not in self.splits:
                raise unknown(f"split of {self.name}", name, self.splits)
        rows = torch.tensor(sorted(r for name in splits for r in self.splits[name]), dtype=torch.int64)
        inputs = {m: map_tensors(x, lambda t: t[rows]) for m, x in self.inputs.items()}
        present = None if self.present is None else self.present[rows]
        return Loader(inputs, self.target[rows], rows, present, batch_size=batch_size)


class Loader:
    """Batches gathered from tensors in memory.

    index: (n,) the rows' numbers in the data set. The order of an epoch is decided by the generator alone and by
    `order_by` (default: `index`), so that two loaders that differ by some rows show the common rows in the same
    order. A last batch of one item is merged into the one before it: batch statistics of one item do not exist.
    """

    def __init__(
        self, inputs: Mapping[str, Any], target: Tensor, index: Tensor, present: Tensor | None = None,
        *, batch_size: int, order_by: Tensor | None = None,
    ) -> None:  # fmt: skip
        if batch_size < 1:
            raise BadValue(f"batch_size must be at least 1, not {batch_size}.")
        self._all = Batch(inputs, target, index, present)
        self._batch_size = batch_size
        self._order_by = index if order_by is None else order_by

    def __len__(self) -> int:
        return len(self._bounds())

    @property
    def n_items(self) -> int:
        return len(self._all)

    @property
    def n_seen(self) -> int:
        """How many items have any of the modalities: the others teach nothing."""
        return self.n_items if self._all.present is None else int(self._all.present.any(1).sum())

    @property
    def index(self) -> Tensor:
        return self._all.index

    def batches(self, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """All items once: in stored order, or in the order that the generator draws."""
        order = None if generator is None else self._order(generator)
        for start, end in self._bounds():
            rows = torch.arange(start, end) if order is None else order[start:end]
            yield self._all.map(partial(_rows, rows=rows))

    def sampled(self, rows: Tensor, drop: Tensor | None = None) -> Loader:
        """The loader of other rows; see Run.set_sampling."""
        own = rows if rows.ndim == 2 else rows[:, None].expand(-1, len(self._all.inputs))
        inputs = {
            m: map_tensors(x, partial(_rows, rows=own[:, i])) for i, (m, x) in enumerate(self._all.inputs.items())
        }
        present = None if self._all.present is None else self._all.present.gather(0, own)
        if drop is not None:
            present = ~drop if present is None else present & ~drop
        first = own[:, 0]
        return Loader(
            inputs, self._all.target[first], self._all.index[first], present, batch_size=self._batch_size,
            order_by=torch.arange(len(rows)),  # a row may occur twice, and the order must tell the copies apart
        )  # fmt: skip

    def _order(self, generator: torch.Generator) -> Tensor:
        """Sort by a key drawn for each row number, so that leaving rows out does not reorder the rest."""
        keys = torch.rand(int(self._order_by.max()) + 1, generator=generator, dtype=torch.float64)
        return keys[self._order_by].argsort(stable=True)

    def _bounds(self) -> list[tuple[int, int]]:
        return batch_bounds(len(self._all), self._batch_size)


def _rows(t: Tensor, rows: Tensor) -> Tensor:
    return t[rows]

"""One modality of some items, in memory or mapped from a store: what a loader reads, and all that it can reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mmzoo.core.values import map_tensors


class Column(Protocol):
    """n rows of one modality."""

    def __len__(self) -> int: ...

    def take(self, rows: Tensor) -> Any:
        """The rows of these positions, as a tensor or a mapping of tensors."""

    def select(self, rows: Tensor) -> Column:
        """A column of these rows and no others."""


class InMemory:
    """A tensor with one row an item, or a (nested) mapping of such."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __len__(self) -> int:
        return len(_first(self.value))

    def take(self, rows: Tensor) -> Any:
        return map_tensors(self.value, lambda t: t[rows.to(t.device)])

    def select(self, rows: Tensor) -> InMemory:
        return InMemory(self.take(rows))


class Mapped:
    """Arrays of a store, part -> (N, ...), of which only `rows` can be reached. Nothing is read before it is taken."""

    def __init__(self, arrays: Mapping[str, np.ndarray], rows: np.ndarray) -> None:
        self._arrays, self._rows = arrays, rows
        self._device: dict[str, Mapping[str, Tensor]] = {}

    def __repr__(self) -> str:
        return f"Mapped({len(self)} rows of {', '.join(f'{a.dtype}{a.shape[1:]}' for a in self._arrays.values())})"

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """part -> shape of one row"""
        return {part: a.shape[1:] for part, a in self._arrays.items()}

    @property
    def n_bytes(self) -> int:
        """The size of the arrays as they are stored, all rows of the store included."""
        return sum(a.nbytes for a in self._arrays.values())

    def select(self, rows: Tensor) -> Mapped:
        chosen = Mapped(self._arrays, self._rows[rows.numpy()])
        chosen._device = self._device
        return chosen

    def take(self, rows: Tensor, *, pinned: bool = False, buffers: Buffers | None = None) -> Any:
        """buffers: where the rows are put; they then stay as they are until the next batch is taken with these buffers."""
        wanted = self._rows[rows.cpu().numpy()]
        taken = {}
        for part, a in self._arrays.items():
            shape, dtype = (len(wanted), *a.shape[1:]), _torch_dtype(a)
            if buffers is None:
                out = torch.empty(shape, dtype=dtype, pin_memory=pinned)
            else:
                out = buffers.of((id(self), part), shape, dtype)
            taken[part] = _gather(a, wanted, out)
        return _unwrapped(taken)

    def is_on(self, device: torch.device) -> bool:
        return str(device) in self._device

    def on(self, device: torch.device) -> Resident:
        """The same rows, read from a copy of the whole arrays on a device, which all columns of a data set share."""
        if str(device) not in self._device:
            whole = {
                part: torch.empty(a.shape, dtype=_torch_dtype(a), device=device) for part, a in self._arrays.items()
            }
            for part, a in self._arrays.items():
                step = max(1, (64 << 20) // max(1, a[:1].nbytes))
                for start in range(0, len(a), step):
                    whole[part][start : start + step] = torch.from_numpy(np.array(a[start : start + step])).to(device)
            self._device[str(device)] = whole
        return Resident(self._device[str(device)], torch.from_numpy(self._rows.copy()).to(device))


class Buffers:
    """Memory that the rows of one batch after the other are put into. The system clears memory before it hands it out, which
    takes twice as long as copying the rows there."""

    def __init__(self) -> None:
        self._kept: dict[Any, Tensor] = {}

    def of(self, key: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor, uninitialised or with what an earlier one of this key held."""
        kept = self._kept.get(key)
        if kept is None or len(kept) < shape[0] or kept.shape[1:] != shape[1:] or kept.dtype != dtype:
            kept = self._kept[key] = torch.empty(shape, dtype=dtype)
        return kept[: shape[0]]

    def give_up(self, value: Any) -> None:
        """Leave to a tensor, or a mapping of such, the memory that it looks at."""
        found = {t.untyped_storage().data_ptr() for t in _tensors(value)}
        self._kept = {k: t for k, t in self._kept.items() if t.untyped_storage().data_ptr() not in found}


class Resident:
    """Rows of arrays that lie on a device as a whole."""

    def __init__(self, arrays: Mapping[str, Tensor], rows: Tensor) -> None:
        self._arrays, self._rows = arrays, rows

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, rows: Tensor) -> Any:
        wanted = self._rows[rows.to(self._rows.device, non_blocking=True)]
        return _unwrapped({part: a.index_select(0, wanted) for part, a in self._arrays.items()})

    def select(self, rows: Tensor) -> Resident:
        return Resident(self._arrays, self._rows[rows.to(self._rows.device)])


def column(value: Any) -> Column:
    return value if isinstance(value, (InMemory, Mapped, Resident)) else InMemory(value)


def _gather(array: np.ndarray, rows: np.ndarray, out: Tensor) -> Tensor:
    """The rows, each copied once and straight to where `out` has them."""
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(array):
        raise IndexError(f"rows {rows.min()} to {rows.max()} of an array of {len(array)}")
    np.take(array, rows, axis=0, out=out.numpy(), mode="clip")  # any other mode copies all of it once more
    return out


def _torch_dtype(array: np.ndarray) -> torch.dtype:
    return torch.from_numpy(np.empty(0, array.dtype)).dtype


def _unwrapped(parts: Mapping[str, Any]) -> Any:
    """A field with one nameless part is a tensor, any other a mapping."""
    return parts[""] if list(parts) == [""] else dict(parts)


def _tensors(value: Any) -> Iterator[Tensor]:
    if not isinstance(value, Mapping):
        yield value
        return
    for inner in value.values():
        yield from _tensors(inner)


def _first(value: Any) -> Tensor:
    return _first(next(iter(value.values()))) if isinstance(value, Mapping) else value

"""Vectors of numbers, from the cells of a table or from .npy files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from mmzoo.data.fields.files import decoding, head
from mmzoo.data.sources.field import Array, Field, MediaFault
from mmzoo.data.sources.source import File, Media, Values
from mmzoo.errors import BadValue

if TYPE_CHECKING:
    import numpy as np


#: the largest number that is stored
LARGEST = 3.4028234663852886e38


@dataclass(frozen=True)
class Vector(Field):
    """`width` numbers, (width,) float32.

    standardise: each less its mean over the training items, over its deviation; one that is constant there is only
    centred. fill: what stands for a number that is not there (nan): "mean", that of the training items, or a number; None:
    such a vector cannot be read. mean, deviation: what `fitted` has found.
    """

    width: int
    standardise: bool = True
    fill: float | Literal["mean"] | None = None
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    kind = "vector"
    later = ("fill",)

    def __post_init__(self) -> None:
        if not 1 <= self.width <= 1 << 24:
            raise BadValue(f"width must be from 1 to {1 << 24}, not {self.width!r}.")
        number = isinstance(self.fill, (int, float)) and not isinstance(self.fill, bool) and abs(self.fill) < LARGEST
        if not (self.fill in (None, "mean") or number):
            raise BadValue(f"fill must be mean or a number, not {self.fill!r}.")

    def arrays(self) -> Mapping[str, Array]:
        return {"": Array((self.width,), "float32")}

    def fitted(self, media: Iterable[Media]) -> Vector:
        import numpy as np

        if not (self.standardise or self.fill == "mean"):
            return self
        rows = []
        for one in media:
            try:
                rows.append(self._raw(one))
            except MediaFault:  # reported when it is read
                continue
        if not rows:
            return dataclasses.replace(self, mean=(0.0,) * self.width, deviation=(1.0,) * self.width)
        mean, deviation = _statistics(np.array(rows))
        deviation = np.where(deviation > 0, deviation, 1.0)
        return dataclasses.replace(self, mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))

    def read(self, media: Media) -> Mapping[str, np.ndarray]:
        import numpy as np

        value = self._raw(media)
        if (self.standardise or self.fill == "mean") and not self.mean:
            raise BadValue("a Vector with means must be fitted on the training samples before it reads.")
        if self.fill == "mean":
            value = np.where(np.isnan(value), np.array(self.mean), value)
        if self.standardise:
            value = (value - np.array(self.mean)) / np.array(self.deviation)
        return {"": value.astype(np.float32)}

    def _raw(self, media: Media) -> np.ndarray:
        import numpy as np

        if isinstance(media, Values):
            value = np.array(media.values, np.float64)
        elif isinstance(media, File):
            head(media.path)
            with decoding("the vector"):
                stored = np.load(media.path, mmap_mode="r", allow_pickle=False)
                if stored.size > self.width or stored.dtype.kind not in "fiub":
                    raise MediaFault(
                        "value", f"{stored.size} values of {stored.dtype} where {self.width} numbers are asked for"
                    )
                value = np.array(stored, np.float64).ravel()
        else:
            raise MediaFault("value", f"a vector is numbers or a .npy file, not {type(media).__name__}")
        if value.shape != (self.width,):
            raise MediaFault("value", f"{value.size} numbers where {self.width} are asked for")
        if self.fill is not None and np.isnan(value).all():
            raise MediaFault("value", "no number at all")
        if isinstance(self.fill, (int, float)):
            value = np.where(np.isnan(value), self.fill, value)
        if not ((np.abs(value) <= LARGEST) | (np.isnan(value) & (self.fill == "mean"))).all():
            said = "" if self.fill else "; `fill: mean` puts the mean of training in place of nan"
            raise MediaFault("value", f"a number that is not finite, or too large for 32 bits{said}")
        return value


def _statistics(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each column without what is not there; 0 and 1 of one that nowhere is."""
    import numpy as np

    if not np.isnan(rows).any():
        return np.mean(rows, axis=0), np.std(rows, axis=0)
    there = ~np.isnan(rows)
    n = np.maximum(there.sum(0), 1)
    mean = np.where(there, rows, 0.0).sum(0) / n
    return mean, np.sqrt((np.where(there, rows - mean, 0.0) ** 2).sum(0) / n)

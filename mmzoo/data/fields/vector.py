"""Vectors of numbers, from the cells of a table or from .npy files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmzoo.data.fields.files import decoding, head
from mmzoo.data.sources.field import Array, Field, MediaFault
from mmzoo.data.sources.source import File, Media, Values
from mmzoo.errors import BadValue

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Vector(Field):
    """`width` numbers, (width,) float32.

    standardise: each less its mean over the training items, over its deviation; one that is constant there is only
    centred. mean, deviation: what `fitted` has found.
    """

    width: int
    standardise: bool = True
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    kind = "vector"

    def __post_init__(self) -> None:
        if not 1 <= self.width <= 1 << 24:
            raise BadValue(f"width must be from 1 to {1 << 24}, not {self.width!r}.")

    def arrays(self) -> Mapping[str, Array]:
        return {"": Array((self.width,), "float32")}

    def fitted(self, media: Iterable[Media]) -> Vector:
        import numpy as np

        if not self.standardise:
            return self
        rows = []
        for one in media:
            try:
                rows.append(self._raw(one))
            except MediaFault:  # reported when it is read
                continue
        if not rows:
            return dataclasses.replace(self, mean=(0.0,) * self.width, deviation=(1.0,) * self.width)
        mean, deviation = np.mean(rows, axis=0), np.std(rows, axis=0)
        deviation = np.where(deviation > 0, deviation, 1.0)
        return dataclasses.replace(self, mean=tuple(mean.tolist()), deviation=tuple(deviation.tolist()))

    def read(self, media: Media) -> Mapping[str, np.ndarray]:
        import numpy as np

        value = self._raw(media)
        if self.standardise:
            if not self.mean:
                raise BadValue("Vector(standardise=True) must be fitted on the training items before it reads.")
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
        if not (np.abs(value) <= float(np.finfo(np.float32).max)).all():
            raise MediaFault("value", "a number that is not finite, or too large for 32 bits")
        return value

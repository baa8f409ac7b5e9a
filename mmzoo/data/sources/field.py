"""How one modality is stored and handed on. No torch at import: preparing data does not need it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from mmzoo.errors import BadValue, undefined

if TYPE_CHECKING:
    import numpy as np

    from mmzoo.data.sources.source import Media, Recipe


class MediaFault(Exception):
    """A file that cannot be used, or hardly. kind: a key of mmzoo.data.sources.source.FAULTS. arrays: what `read` would have returned
    but for this fault (a silent recording, a clip of too few frames), for those who want to keep such items."""

    def __init__(self, kind: str, message: str, arrays: Mapping[str, np.ndarray] | None = None) -> None:
        super().__init__(message)
        self.kind, self.message, self.arrays = kind, message, arrays


@dataclass(frozen=True)
class Array:
    """One stored array of a field: its shape for one item, and its numpy dtype by name."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Field:
    """One modality of a recipe; subclasses are frozen dataclasses whose values are the whole of what decides the bytes.

    kind: what an encoder is told it gets: vector, series, image, spectrogram, video or text. version: bumped whenever `read` may
    give other bytes; part of the recipe's hash.
    """

    kind: ClassVar[str]
    version: ClassVar[int] = 1
    #: values that came after stores had been made: left out of the recipe's hash while they are at their default
    later: ClassVar[tuple[str, ...]] = ()

    def arrays(self) -> Mapping[str, Array]:
        """Name of a part -> its form; the name is empty where there is one part only (`<modality>.npy`)."""
        raise undefined(self, "arrays")

    def read(self, media: Media) -> Mapping[str, np.ndarray]:
        """Part -> array of exactly that form. Deterministic. Raises MediaFault for whatever is wrong with the file; any
        other exception is a defect of the field."""
        raise undefined(self, "read")

    def blank(self) -> Mapping[str, np.ndarray]:
        """What stands for an item that cannot be read."""
        import numpy as np

        return {name: np.zeros(a.shape, a.dtype) for name, a in self.arrays().items()}

    def fitted(self, media: Iterable[Media]) -> Field:
        """The field with what it has to learn from the training items (a vocabulary, a mean): itself where that is
        nothing. `media` are this modality's, of training items only, in the order of the listing. Deterministic."""
        return self

    def facts(self) -> Mapping[str, Any]:
        """What an encoder has to know besides the arrays' forms, e.g. `{"vocabulary": 30522}`. Of the fitted field."""
        return {}

    def as_dict(self) -> dict[str, Any]:
        """All that decides the bytes, for the recipe's hash."""
        usual = {f.name: f.default for f in dataclasses.fields(self) if f.name in self.later}
        values = {k: v for k, v in dataclasses.asdict(self).items() if k not in usual or v != usual[k]}
        return {"field": type(self).__name__, "version": self.version, **values}


#: bytes of one item that are stored at most
LARGEST_ITEM = 1 << 30


def too_large(field: Field) -> str | None:
    """In words, with the arithmetic, that one item of a field takes more than LARGEST_ITEM; None where it does not."""
    import math

    sizes = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "float16": 2, "uint8": 1, "bool": 1}
    for form in field.arrays().values():
        size = math.prod(form.shape) * sizes.get(form.dtype, 8)
        if size > LARGEST_ITEM:
            counted = " x ".join(f"{n:,}" for n in form.shape)
            return (
                f"one sample would take {counted} x {sizes.get(form.dtype, 8)} bytes = {size / 2**30:.1f} GiB, and at most "
                f"{LARGEST_ITEM >> 30} GiB is stored of one. Ask for fewer frames, a smaller size or a shorter length"
            )
    return None


def refuse_too_large(recipe: Recipe) -> None:
    """Raise BadValue for a recipe of which one item does not fit into memory."""
    for modality, field in recipe.fields.items():
        if (fault := too_large(field)) is not None:
            raise BadValue(f"{modality}: {fault}.")

"""The columns of a table as their cells look: what kind of content each may be. No torch, no numpy at import."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mmzoo.data.own import cells
from mmzoo.io.regular import kind_fault

#: a column of words is a category up to so many different ones, and at least so many rows for each
MOST_WORDS, ROWS_A_WORD = 30, 4
#: end of a file's name -> kind
_ENDS = {
    **dict.fromkeys(["jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff", "gif", "avif", "pgm", "ppm"], "image"),
    **dict.fromkeys(["wav", "flac", "ogg", "mp3", "aiff", "aif", "au", "m4a", "opus", "aac", "sph"], "audio"),
    **dict.fromkeys(["mp4", "avi", "mov", "mkv", "webm", "mpg", "mpeg", "m4v", "mxf", "y4m", "wmv", "flv"], "video"),
    "npy": "vector",
    **dict.fromkeys(["csv", "tsv"], "series"),
}
#: .npy files that are looked at: those of two axes, or of different sizes, are series
_ARRAYS = 5


@dataclass(frozen=True, eq=False)
class Column:
    """A column and its cells that hold something. kind: of a manifest, or "number", "word", "id", "empty". folder: of the
    table, which paths are relative to. cells: of all rows that were looked at, in order; None where nobody asks."""

    name: str
    values: list[str]
    rows: int
    folder: Path
    cells: Sequence[str] | None = None

    @cached_property
    def kind(self) -> str:
        if not self.values:
            return "empty"
        if all(cells.as_number(v) is not None for v in self.values):
            return "number"
        ends = Counter(_ENDS.get(v.rpartition(".")[2].lower(), "") for v in self.values)
        kind, n = ends.most_common(1)[0]
        if kind and n >= 0.9 * len(self.values):
            return "series" if kind == "vector" and _are_series(self.folder, self.values) else kind
        if all(v[:1] in "[(" and v[-1:] in "])" for v in self.values):
            return "vector"
        different = len(set(self.values))
        if different <= MOST_WORDS and different * ROWS_A_WORD <= len(self.values):
            return "word"
        alone = all(len(v.split()) == 1 for v in self.values)
        return "id" if alone and different == len(self.values) else "text"

    @property
    def lacks(self) -> bool:
        """Whether some cells hold nothing."""
        return len(self.values) < self.rows


def _are_series(folder: Path, names: Sequence[str]) -> bool:
    import numpy as np

    shapes = set()
    for name in names[:_ARRAYS]:
        try:
            if kind_fault(folder / name) is not None:  # opening a pipe would wait for ever
                continue
            shapes.add(np.load(folder / name, mmap_mode="r", allow_pickle=False).shape)
        except (OSError, ValueError, EOFError):
            continue
    return len(shapes) > 1 or any(len(shape) == 2 and min(shape) > 1 for shape in shapes)

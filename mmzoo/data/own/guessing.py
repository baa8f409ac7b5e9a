"""A first manifest for a table, guessed from its header and cells. No torch, no numpy at import."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmzoo.data.own import cells
from mmzoo.data.own.reading import Rows
from mmzoo.data.own.table import SIDES
from mmzoo.errors import BadValue, short
from mmzoo.io.regular import kind_fault

#: rows that are looked at
LOOKED_AT = 500
#: a column of words is a category up to so many different ones, and at least so many rows for each
MOST_WORDS, ROWS_A_WORD = 30, 4
#: how a column is called that has a part of its own
_NAMES: Mapping[str, tuple[str, ...]] = {
    "label": ("label", "labels", "class", "target", "y", "category", "outcome", "diagnosis"),
    "id": ("id", "uid", "uuid", "sample_id", "item_id", "index"),
    "split": ("split", "fold", "set", "subset", "partition"),
    "group": ("group", "speaker", "subject", "patient", "patient_id", "subject_id", "user", "owner"),
}
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
#: columns of numbers side by side that may well be steps in time
_LIKE_STEPS = 20


@dataclass(frozen=True)
class _Column:
    """A column and its cells that hold something. kind: of a manifest, or "number", "word", "id", "empty". folder: of the
    table, which paths are relative to."""

    name: str
    values: list[str]
    rows: int
    folder: Path

    @property
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


def guessed(table: Path) -> str:
    """A commented manifest for a table, as YAML. Raises BadValue where the table cannot be read, or nothing tells the label."""
    rows = Rows(table)
    some = list(itertools.islice(rows, LOOKED_AT))
    if not some:
        raise BadValue(f"{table} has no rows below its header.")
    columns = []
    for name, at in rows.places.items():
        values = [row.cells[at] for row in some if at < len(row.cells) and not cells.missing(row.cells[at])]
        columns.append(_Column(name, values, len(some), table.parent))
    parts = _parts(columns, table)
    rest = [c for c in columns if c.name not in parts.values()]
    lines = [
        f"# guessed from the first {len(some):,} rows of {table.name}: correct what is wrong, then",
        "# mmzoo data check THIS_FILE",
        f"name: {_identifier(table.name.split('.')[0])}",
        f"table: {_written(table.name)}",
        *(f"{part}: {_written(name)}" for part, name in parts.items() if part != "label" or name != "label"),
    ]
    classes = Counter(next(c for c in columns if c.name == parts["label"]).values)
    shown = ", ".join(f"{_written(name)} {n}" for name, n in classes.most_common(8))
    lines.append(f"# classes: {shown}{' ...' if len(classes) > 8 else ''}")
    return "\n".join([*lines, "modalities:", *_modalities(rest), *_passed_over(rest), ""])


def _parts(columns: Sequence[_Column], table: Path) -> dict[str, str]:
    """part -> its column: of the label, the id, the split and the group, as far as names and cells tell."""
    found: dict[str, str] = {}
    for part, names in _NAMES.items():
        for name in names:
            column = next((c for c in columns if c.name.lower() == name and c.name not in found.values()), None)
            if column is not None and _fits(part, column):
                found[part] = column.name
                break
    if "label" not in found:
        few = [c for c in columns if c.kind == "word" and c.name not in found.values()]
        few = few or [
            c for c in columns if c.kind == "number" and 2 <= len(set(c.values)) <= 10 and len(c.values) >= 40
        ]
        if not few:
            raise BadValue(_unclear(columns, table))
        found = {"label": few[-1].name, **found}
    return found


def _unclear(columns: Sequence[_Column], table: Path) -> str:
    """In words, why no column can be taken for the label, and what to do."""
    called = next((c for c in columns if c.name.lower() in _NAMES["label"]), None)
    if called is not None and len(set(called.values)) < 2:
        only = f"only the class {short(called.values[0])}" if called.values else "no class"
        return (
            f"the column {called.name} of {table.name} holds {only} in what was looked at, the first {called.rows:,} "
            f"row{'' if called.rows == 1 else 's'}. A label has two classes or more: add samples of the others, or mix the rows."
        )
    if called is not None:
        return (
            f"the column {called.name} of {table.name} has another value in every row, so it cannot be the label. With several "
            "samples of each class, run this again; or write the manifest by hand: mmzoo/docs/own_data.md has an example."
        )
    return (
        f"it is unclear which column of {table.name} is the label ({', '.join(c.name for c in columns[:20])}). Call it label, "
        "or write the manifest by hand: mmzoo/docs/own_data.md has an example."
    )


def _fits(part: str, column: _Column) -> bool:
    different = set(column.values)
    if part == "split":
        return bool(different) and all(v.lower() in SIDES for v in different)
    if part == "id":
        return len(different) == column.rows
    return 2 <= len(different) < column.rows


def _modalities(columns: Sequence[_Column]) -> Iterator[str]:
    taken: set[str] = set()

    def named(text: str) -> str:
        name = base = _identifier(text)
        number = 2
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        taken.add(name)
        return name

    numbers = [c for c in columns if c.kind == "number"]
    for prefix, several in _grouped(numbers).items():
        fill = ", fill: mean" if any(c.lacks for c in several) else ""
        yield f"  {named(prefix)}: {{kind: vector, columns: [{', '.join(_spans(several, columns))}]{fill}}}"
        if len(several) >= _LIKE_STEPS:
            yield "  # are these columns steps in time? then kind: series"
    if words := [c for c in columns if c.kind == "word"]:
        yield f"  {named('categories')}: {{kind: category, columns: [{', '.join(_written(c.name) for c in words)}]}}"
    for c in columns:
        if c.kind in ("text", "image", "audio", "video", "vector", "series"):
            yield f"  {named(c.name)}: {{kind: {c.kind}, column: {_written(c.name)}}}"
    if len(taken) == 1:
        yield "  # one modality only: give two or more, such as columns that were measured by different instruments"
    if not taken:
        yield "  {}  # no column looks like content: name them by hand"


def _grouped(columns: Sequence[_Column]) -> dict[str, list[_Column]]:
    """Columns of numbers by what their names begin with, where that parts all of them in groups; else together."""
    groups: dict[str, list[_Column]] = {}
    for c in columns:
        groups.setdefault(re.split(r"[\d_.\s-]", c.name, maxsplit=1)[0] or "numbers", []).append(c)
    parted = 2 <= len(groups) <= 8 and all(len(g) > 1 for g in groups.values())
    return groups if parted else {"numbers": list(columns)} if columns else {}


def _spans(some: Sequence[_Column], columns: Sequence[_Column]) -> Iterator[str]:
    """The names of columns, three or more that stand side by side as a span."""
    order = {c.name: i for i, c in enumerate(columns)}
    for _, run in itertools.groupby(enumerate(some), lambda pair: order[pair[1].name] - pair[0]):
        names = [c.name for _, c in run]
        plain = all(".." not in n for n in (names[0], names[-1]))
        yield from [_written(f"{names[0]}..{names[-1]}")] if len(names) > 2 and plain else map(_written, names)


def _passed_over(columns: Sequence[_Column]) -> Iterator[str]:
    """A comment on what is left out."""
    for kind, why in (("id", "a different name in every row"), ("empty", "no content")):
        if names := [_written(c.name) for c in columns if c.kind == kind]:
            yield f"# left out, {why}: {', '.join(names[:20])}{' ...' if len(names) > 20 else ''}"


def _written(name: str) -> str:
    """A name as YAML reads it back: plain where it can be."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(\.\.[A-Za-z_][A-Za-z0-9_]*)?|[A-Za-z_][\w-]*\.(csv|tsv|txt)", name)
    return name if plain else json.dumps(name, ensure_ascii=False)


def _identifier(text: str) -> str:
    from mmzoo.core.head import name_fault

    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:60] or "data"
    name = name if name[0].isalpha() else f"x_{name}"
    return f"{name}_x" if name in ("present", "index") or name_fault(name) else name

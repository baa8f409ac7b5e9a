"""The table of a user's own data: one row an item, every fault told with its line. No torch, no numpy at import."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mmzoo.data.sources.source import Fault, File, Item, Media, Text, Values
from mmzoo.errors import BadValue, near_miss

#: what may stand in the column of the split -> side
SIDES = {
    "train": "train",
    "training": "train",
    "val": "holdout",
    "valid": "holdout",
    "validation": "holdout",
    "dev": "holdout",
    "holdout": "holdout",
    "test": "test",
    "testing": "test",
    "": "",
}
#: rows of a table that are looked at for the width of vectors in .npy files
LOOKED_AT = 1000


@dataclass(frozen=True)
class Wanted:
    """What is read from a table. media: modality -> its kind and columns. The others are columns, None where there is none.
    classes: the names in order; empty: those that occur, sorted."""

    media: Mapping[str, tuple[str, tuple[str, ...]]]
    classes: tuple[str | int, ...]
    label: str
    id: str | None
    split: str | None
    group: str | None


@dataclass(frozen=True)
class Line:
    """One row: the line that it begins on, and its cells by column without the blanks around them."""

    number: int
    cells: Mapping[str, str]
    fault: str | None = None


class Table:
    """A CSV file: UTF-8 with or without a byte-order mark, any line ends, quoted cells, a header. Columns are parted by
    comma, semicolon, tab or bar; by default the one of these that occurs most in the header."""

    def __init__(self, path: Path, delimiter: str | None = None) -> None:
        self.path = path
        self._delimiter = delimiter

    @cached_property
    def _text(self) -> str:
        try:
            return self.path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise BadValue(f"{self.path}, line {line}: not UTF-8 text. Save the table as UTF-8.") from None
        except (OSError, ValueError) as error:
            raise BadValue(f"cannot read the table {self.path}: {getattr(error, 'strerror', None) or error}.") from None

    @cached_property
    def _reader_arguments(self) -> dict[str, str]:
        first = self._text.splitlines()[0] if self._text.strip() else ""
        return {"delimiter": self._delimiter or max(",;\t|", key=first.count)}

    @cached_property
    def header(self) -> list[str]:
        """The columns. Raises BadValue for none, and for one that is there twice."""
        header = next((cells for _, cells in self._raw()), [])
        header = [cell.strip() for cell in header]
        named = [cell for cell in header if cell]
        if not named:
            raise BadValue(f"the table {self.path} is empty: its first line must name the columns.")
        if twice := next((c for c in named if named.count(c) > 1), None):
            raise BadValue(f"{self.path}: the column {twice!r} is there twice.")
        return header

    def _raw(self) -> Iterator[tuple[int, list[str]]]:
        """Line number and cells of each row that is not blank."""
        lines = self._text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        reader = csv.reader((line + "\n" for line in lines), strict=True, **self._reader_arguments)  # type: ignore[arg-type]
        start = 1
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise BadValue(f"{self.path}, line {start}: cannot be read as a row: {error}.") from None
            if any(cell.strip() for cell in cells):
                yield start, cells
            start = reader.line_num + 1

    def lines(self) -> Iterator[Line]:
        rows = self._raw()
        next(rows, None)
        for number, cells in rows:
            fault = None
            if len(cells) != len(self.header) and any(cell.strip() for cell in cells[len(self.header) :]):
                fault = (
                    f"{len(cells)} cells where the header has {len(self.header)}; quote cells that hold the delimiter"
                )
            padded = [*cells, *[""] * (len(self.header) - len(cells))]
            yield Line(number, {c: v.strip() for c, v in zip(self.header, padded) if c}, fault)

    def items(self, wanted: Wanted, root: Path) -> tuple[list[Item], list[str], list[Fault]]:
        """The items, the classes, and the faults by line. A line with a fault of its own gives no item."""
        faults: list[Fault] = []
        usable = []
        known = [str(c) for c in wanted.classes]
        inside = root.resolve()
        placed = bool(wanted.split) and any(line.cells[str(wanted.split)] for line in self.lines())
        for line in self.lines():
            where = f"{self.path.name}, line {line.number}"
            name = line.cells[wanted.id] if wanted.id else ""
            item_id = name or "row-" + _digest(line.cells)
            told = [
                Fault("annotation", message, item_id, None, where)
                for message in _row_faults(line, wanted, known, placed)
            ]
            media: dict[str, Media] = {}
            for m, (kind, columns) in wanted.media.items():
                found = media_of(kind, [line.cells[c] for c in columns], columns, root, inside)
                if isinstance(found, tuple):
                    told.append(Fault(found[0], found[1], item_id, m, where))
                elif found is not None:
                    media[m] = found
            if not media and not told:
                told.append(Fault("annotation", "no modality of this row has content", item_id, None, where))
            faults += told
            if not told:
                usable.append((item_id, line, media, where))
        classes = known or sorted({line.cells[wanted.label] for _, line, _, _ in usable}, key=_natural)
        numbers = {name: i for i, name in enumerate(classes)}
        items = [
            Item(
                item_id,
                numbers[line.cells[wanted.label]],
                media,
                SIDES[_side(line, wanted)] or None,
                line.cells[wanted.group] or None if wanted.group else None,
                where,
            )
            for item_id, line, media, where in usable
        ]
        return items, classes, faults


def npy_width(table: Table, column: str, root: Path) -> int:
    """How many numbers the .npy files of a column hold, by the first that can be read. Raises BadValue."""
    import numpy as np

    inside = root.resolve()
    for n, line in enumerate(table.lines()):
        found = media_of("vector", [line.cells[column]], (column,), root, inside)
        if isinstance(found, File):
            try:
                if size := int(np.load(found.path, mmap_mode="r", allow_pickle=False).size):
                    return size
            except (OSError, ValueError, EOFError, SyntaxError, TypeError, AttributeError):
                pass
        if n > LOOKED_AT:
            break
    raise BadValue(
        f"{table.path}: no .npy file of the column {column!r} can be read, so that nothing says how many numbers they hold. Give "
        "width, or with numbers in the table itself columns: [A, B, ...]."
    )


def _row_faults(line: Line, wanted: Wanted, known: Sequence[str], placed: bool) -> Iterator[str]:
    if line.fault:
        yield line.fault
        return
    if wanted.id and not line.cells[wanted.id]:
        yield f"no id in the column {wanted.id}"
    label = line.cells[wanted.label]
    if not label:
        yield f"no label in the column {wanted.label}"
    elif known and label not in known:
        yield f"the label {label!r} is none of classes.{near_miss(label, known)}"
    side = _side(line, wanted)
    if side not in SIDES:
        yield f"the split {side!r} is none of train, holdout (or val), test.{near_miss(side, SIDES)}"
    elif placed and not side:
        yield f"no split in the column {wanted.split}, while other rows have one"


def _side(line: Line, wanted: Wanted) -> str:
    return line.cells[wanted.split].lower() if wanted.split else ""


def media_of(
    kind: str, cells: Sequence[str], columns: Sequence[str], root: Path, inside: Path
) -> Media | tuple[str, str] | None:
    """What the cells of one modality mean: None where it is missing; kind and message of a fault."""
    if not any(cells):
        return None
    if kind == "text":
        if not cells[0]:
            return ("annotation", f"a second text in the column {columns[1]}, but no first in {columns[0]}")
        return Text(cells[0], cells[1] if len(cells) > 1 else None)
    if kind == "vector" and (len(cells) > 1 or not cells[0].endswith(".npy")):
        return _numbers(cells, columns)
    return _file(cells[0], root, inside)


def _numbers(cells: Sequence[str], columns: Sequence[str]) -> Media | tuple[str, str]:
    values = []
    for cell, column in zip(cells, columns):
        try:
            number = float(cell) if "_" not in cell else math.nan  # Python would take 1_000
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            said = (
                f"{cell!r} is no finite number"
                if cell
                else "a number is missing (leave all empty where there is no vector)"
            )
            return ("value", f"column {column}: {said}")
        values.append(number)
    return Values(tuple(values))


def _file(cell: str, root: Path, inside: Path) -> Media | tuple[str, str]:
    if Path(cell).is_absolute():
        return ("outside", f"the path {cell!r} is absolute: give it relative to {root}")
    try:
        resolved = (root / cell).resolve()
    except (OSError, ValueError, RuntimeError):  # a NUL, or links in a circle
        return ("missing", f"the path {cell!r} cannot be followed")
    if not resolved.is_relative_to(inside):
        return ("outside", f"the path {cell!r} leads out of {root}")
    return File(root / cell)


def _digest(cells: Mapping[str, str]) -> str:
    return hashlib.sha256(
        "\x1f".join(f"{c}={v}" for c, v in cells.items()).encode("utf-8", "surrogateescape")
    ).hexdigest()[:12]


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers by size, then words."""
    try:
        return (0, float(name), name)
    except ValueError:
        return (1, 0.0, name)

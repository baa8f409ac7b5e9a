"""The table of a user's own data: one row an item, every fault told with its line. No torch, no numpy at import."""

from __future__ import annotations

import hashlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmzoo.data.own import cells
from mmzoo.data.own.reading import Row, Rows
from mmzoo.data.sources.source import Fault, Faulty, File, Item, Media, Values
from mmzoo.errors import BadValue, near_miss, short
from mmzoo.io.regular import kind_fault

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
#: and for the channels and steps of series
MOST_SERIES = 200
#: different words that a column of a category holds at most
MOST_LEVELS = 1000


@dataclass(frozen=True)
class Wanted:
    """What is read from a table. media: by modality. The others are columns, None where there is none. classes: the names in
    order; empty: those that occur, sorted."""

    media: Mapping[str, cells.Wanted]
    classes: tuple[str, ...]
    label: str
    id: str | None
    split: str | None
    group: str | None


class Table:
    """The items of a table. rows: as they stand in the file. root: the folder that all paths must stay in."""

    def __init__(self, rows: Rows, wanted: Wanted, root: Path) -> None:
        self.rows, self.wanted = rows, wanted
        self.place = cells.Place.of(root)
        self.known = list(wanted.classes)
        self._media = {m: [rows.places[c] for c in w.columns] for m, w in wanted.media.items()}

    def items(self) -> tuple[list[Item], list[str], list[Fault]]:
        """The items, the classes, and the faults by line. A row that is faulty as a whole gives no item; one with a modality
        that cannot be read has it as Faulty."""
        faults: list[Fault] = []
        usable: list[tuple[str, str, dict[str, Media], str | None, str | None, str]] = []
        labels = {self._cell(row, self.wanted.label) for row in self.rows if row.first == row.last}
        placed = bool(self.wanted.split) and any(self._cell(row, self.wanted.split) for row in self.rows)
        for row in self.rows:
            where = f"{self.rows.path.name}, line {row.first}"
            item_id = (self._cell(row, self.wanted.id) if self.wanted.id else "") or "row-" + self._digest(row)
            whole = list(self._row_faults(row, labels, placed))
            found = {m: cells.media(w, self._cells(row, m), self.place) for m, w in self.wanted.media.items()}
            media = {m: value for m, value in found.items() if value is not None}
            if not media and not whole:
                whole.append("no modality of this row has content")
            faults += [Fault("annotation", message, item_id, None, where) for message in whole]
            faults += [Fault(v.kind, v.message, item_id, m, where) for m, v in media.items() if isinstance(v, Faulty)]
            if not whole:
                label, group = sys.intern(self._cell(row, self.wanted.label)), self._cell(row, self.wanted.group)
                usable.append((item_id, label, media, SIDES[self._side(row)] or None, group or None, where))
        classes = self.known or sorted({label for _, label, *_ in usable}, key=_natural)
        numbers = {name: i for i, name in enumerate(classes)}
        items = [Item(name, numbers[label], *rest) for name, label, *rest in usable]  # type: ignore[arg-type]
        return items, classes, faults

    def sides(self) -> Counter[str]:
        """Side -> rows, of those whose split can be read; nothing where a row cannot be read at all, which `items` tells."""
        try:
            found = Counter(SIDES.get(self._side(row), "") for row in self.rows)
        except BadValue:
            return Counter()
        return Counter({side: n for side, n in found.items() if side})

    def _cell(self, row: Row, column: str | None) -> str:
        """The cell of a row in a column; rows may be shorter than the header."""
        if column is None:
            return ""
        place = self.rows.places[column]
        return row.cells[place] if place < len(row.cells) else ""

    def _cells(self, row: Row, modality: str) -> list[str]:
        n = len(row.cells)
        return [row.cells[i] if i < n else "" for i in self._media[modality]]

    def _side(self, row: Row) -> str:
        return self._cell(row, self.wanted.split).lower()

    def _digest(self, row: Row) -> str:
        """A hash of all cells under a name, for a row without an id."""
        padded = [*row.cells, *[""] * (len(self.rows.header) - len(row.cells))]
        text = "\x1f".join(f"{c}={v}" for c, v in zip(self.rows.header, padded) if c)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:12]

    def _row_faults(self, row: Row, labels: set[str], placed: bool) -> Iterator[str]:
        """What is wrong with a row as a whole."""
        wanted, width = self.wanted, len(self.rows.header)
        if (fault := self._swallowed(row, labels)) is not None:
            yield fault
            return
        if any(row.cells[width:]):
            yield f"{len(row.cells)} cells where the header has {width}; quote cells that hold the delimiter"
            return
        if wanted.id and not self._cell(row, wanted.id):
            yield f"no id in the column {wanted.id}"
        label = self._cell(row, wanted.label)
        if not label:
            yield f"no label in the column {wanted.label}"
        elif self.known and label not in self.known:
            yield f"the label {short(label)} is none of classes.{near_miss(label, self.known)}"
        side = self._side(row)
        if side not in SIDES:
            yield f"the split {short(side)} is none of train, holdout (or val), test.{near_miss(side, SIDES)}"
        elif placed and not side:
            yield f"no split in the column {wanted.split}, while other rows have one"

    def _swallowed(self, row: Row, labels: set[str]) -> str | None:
        """In words, that a quotation mark has made one row of several; None where it has not.

        A cell may hold line ends and delimiters. But where each line of a row is a row of its own by the count of its
        delimiters, and has a label that other rows have, or where a cell holds a line end and a tab or bar, which texts
        do not, the mark was a plain character.
        """
        if row.first == row.last:
            return None
        mark, width = self.rows.delimiter, len(self.rows.header)
        lines = self.rows.lines[row.first - 1 : row.last]
        place = self.rows.places[self.wanted.label]
        pieces = [line.split(mark) for line in lines]
        # The first and last lines hold a mark each, so that they may be cut otherwise than the others.
        alone = [len(p) == width and p[place].strip().strip('"') in labels for p in pieces]
        mixed = mark in "\t|" and any(mark in cell and "\n" in cell for cell in row.cells)
        if not (all(alone) or mixed or sum(alone) > 1):
            return None
        return (
            f"lines {row.first} to {row.last} are one row, since a quotation mark opens on one and closes on another, and they "
            "look like rows of their own. If quotation marks are plain characters in this table, write `quotes: false` in "
            "the manifest; otherwise correct this one"
        )


def levels(rows: Rows, column: str) -> tuple[str, ...]:
    """The different words of a column, sorted; those that say that something is missing are none. Raises BadValue."""
    place = rows.places[column]
    found = {row.cells[place] for row in rows if place < len(row.cells) and not cells.missing(row.cells[place])}
    if not found or len(found) > MOST_LEVELS:
        raise BadValue(
            f"the column {short(column)} holds {len(found):,} different words, and a category has from 1 to {MOST_LEVELS:,}. "
            "Is it a text (kind text), or an id?"
        )
    return tuple(sorted(found, key=_natural))


def first_width(rows: Rows, column: str, root: Path) -> int:
    """How many numbers the cells of a column hold, or the .npy files that they name: by the first that can be read.

    Raises BadValue.
    """
    import numpy as np

    place, at = cells.Place.of(root), rows.places[column]
    for n, row in enumerate(rows):
        found = cells.media(cells.Wanted("vector", (column,)), row.cells[at : at + 1] or [""], place)
        if isinstance(found, Values):
            return len(found.values)
        if isinstance(found, File):
            try:
                if kind_fault(found.path) is None and (
                    size := int(np.load(found.path, mmap_mode="r", allow_pickle=False).size)
                ):
                    return size
            except (OSError, ValueError, EOFError, SyntaxError, TypeError, AttributeError):
                pass
        if n > LOOKED_AT:
            break
    raise BadValue(
        f"{rows.path}: neither a .npy file nor a list of numbers in the column {column!r} can be read, so that nothing says how many numbers "
        "there are. Give width, or with numbers in the table itself columns: [A, B, ...]."
    )


def first_size(rows: Rows, column: str, root: Path, time: str | None, pick: Sequence[str]) -> tuple[int, int]:
    """Channels and the largest number of steps of the series in a column, by the first that can be read.

    Args:
        time: Which axis of a .npy file is time; None where the manifest does not say.
        pick: The channels that are read.

    Raises:
        BadValue: None can be read, or the axes of the files cannot be told apart.
    """
    from mmzoo.data.fields.series import steps_of
    from mmzoo.data.sources.field import MediaFault

    place, at = cells.Place.of(root), rows.places[column]
    sizes: list[tuple[int, int]] = []
    first_fault = ""
    for n, row in enumerate(rows):
        found = cells.media(cells.Wanted("series", (column,)), row.cells[at : at + 1] or [""], place)
        if isinstance(found, (Values, File)):
            try:
                x = steps_of(found, time or "last", pick)
                sizes.append((len(x), x.shape[1]))
            except MediaFault as fault:
                first_fault = first_fault or f" The first of them: {fault.message}."
        if n > MOST_SERIES:
            break
    if not sizes:
        raise BadValue(
            f"{rows.path}: neither a .npy nor a .csv file nor a list of numbers in the column {column!r} can be read as a series."
            f"{first_fault} With one number a step in the table itself, give columns: [A, B, ...]."
        )
    channels = sizes[0][0]
    if time is None and channels > 1 and (len({c for c, _ in sizes}) > 1 or channels > max(t for _, t in sizes)):
        raise BadValue(
            f"{rows.path}: the arrays in the column {column!r} have the shape {sizes[0]}: say which axis is time, `time: first` or "
            "`time: last`."
        )
    return channels, max(t for _, t in sizes)


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers by size, then words."""
    try:
        return (0, float(name), name)
    except ValueError:
        return (1, 0.0, name)

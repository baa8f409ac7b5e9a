"""What the cells of one modality of one row mean. No torch, no numpy."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mmzoo.data.sources.source import Faulty, File, Media, Text, Values
from mmzoo.data.store.classes import MISSING

#: what may stand between the numbers of a list in one cell
_BETWEEN = re.compile(r"[\s,;|()\[\]{}]+")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")

#: texts that are looked at for names of files
TEXTS_LOOKED_AT = 20


@dataclass(frozen=True)
class Wanted:
    """One modality as it stands in a table.

    kind: of the manifest. columns: where its content is. levels: of a column that holds words, those that occur. fill:
    whether single numbers may be missing.
    """

    kind: str
    columns: tuple[str, ...]
    levels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fill: bool = False

    @property
    def width(self) -> int:
        """How many numbers the columns give."""
        return sum(len(self.levels[c]) if c in self.levels else 1 for c in self.columns)


@dataclass(frozen=True)
class Place:
    """The folder that all paths must stay in: as it is named, and without links."""

    root: Path
    inside: Path

    @classmethod
    def of(cls, root: Path) -> Place:
        return cls(root, root.resolve())


def media(wanted: Wanted, cells: Sequence[str], place: Place) -> Media | None:
    """What the cells of one modality hold: None where it is missing, Faulty with the reason where it cannot be read."""
    if not any(cells):
        return None
    if wanted.kind == "text":
        if not cells[0]:
            message = f"a second text in the column {wanted.columns[1]}, but no first in {wanted.columns[0]}"
            return Faulty("annotation", message)
        return Text(cells[0], cells[1] if len(cells) > 1 else None)
    if wanted.kind == "series" and len(cells) > 1:
        return _steps(wanted, cells)
    if wanted.levels or len(cells) > 1:
        return _numbers(wanted, cells)
    if wanted.kind in ("vector", "series") and (numbers := _listed(cells[0])) is not None:
        return numbers if isinstance(numbers, Faulty) else Values(numbers)
    if wanted.kind == "vector" and not cells[0].lower().endswith(".npy"):
        return _numbers(wanted, cells)
    if wanted.kind == "series" and (one := as_number(cells[0])) is not None:
        return Values((one,))
    return _file(cells[0], place)


def _numbers(wanted: Wanted, cells: Sequence[str]) -> Media | None:
    if (wanted.fill or wanted.levels) and all(missing(cell) for cell in cells):
        return None
    if not wanted.levels and (plain := _plain(cells)) is not None:
        return Values(plain)
    values: list[float] = []
    for cell, column in zip(cells, wanted.columns):
        if column in wanted.levels:
            values += [float(cell == level) for level in wanted.levels[column]]
        elif (number := as_number(cell)) is not None:
            values.append(number)
        elif missing(cell) and wanted.fill:
            values.append(math.nan)
        else:
            return Faulty("value", f"column {column}: {_no_number(cell, wanted.kind)}")
    return Values(tuple(values))


def _steps(wanted: Wanted, cells: Sequence[str]) -> Media | None:
    """One number a step, a column each. A series that ends early leaves its last cells empty."""
    last = max((i for i, cell in enumerate(cells) if not missing(cell)), default=-1) + 1
    return _numbers(replace(wanted, columns=wanted.columns[:last]), cells[:last]) if last else None


def _plain(cells: Sequence[str]) -> tuple[float, ...] | None:
    """The numbers of cells that are numbers all, of which there may be many thousands. None for others."""
    try:
        values = tuple(map(float, cells))
    except ValueError:
        return None
    return values if math.isfinite(sum(values)) and "_" not in "".join(cells) else None


def _no_number(cell: str, kind: str) -> str:
    if kind == "series":
        return f"{cell!r} is not a finite number (`fill: interpolate` fills steps that are missing between others)"
    if not missing(cell):
        return f"{cell!r} is not a finite number (words are read by kind category, or by `categories` of a vector)"
    said = f"{cell!r} is no number" if cell else "a number is missing"
    return f"{said} (`fill: mean` puts the mean of training there; leave all cells empty where there is no vector)"


def as_number(cell: str) -> float | None:
    """The finite number in a cell, None for anything else."""
    try:
        number = float(cell) if "_" not in cell else math.nan  # Python would take 1_000
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def missing(cell: str) -> bool:
    """Whether a cell says that there is nothing: empty, NA, nan, ..."""
    return cell.casefold() in MISSING


def _listed(cell: str) -> tuple[float, ...] | Faulty | None:
    """The numbers of a cell that holds several, as Python, numpy and JSON write them: [0.1, 0.2]. None for another cell."""
    framed = cell[:1] in "[(" and cell[-1:] in "])"
    pieces = [p for p in _BETWEEN.split(cell) if p]
    if not framed and (len(pieces) < 2 or any(as_number(p) is None for p in pieces)):
        return None
    if "..." in pieces:
        return Faulty("value", "a list of numbers that was shortened (...) when it was written: write it whole")
    numbers = [as_number(p) for p in pieces]
    if None in numbers or not pieces:
        bad = pieces[numbers.index(None)] if pieces else cell
        return Faulty("value", f"{bad!r} in a list is not a finite number")
    return tuple(n for n in numbers if n is not None)


def _file(cell: str, place: Place) -> Media:
    if _ADDRESS.match(cell):
        return Faulty(
            "outside", f"{cell!r} is an address: download the file, and give its path relative to {place.root}"
        )
    if _DRIVE.match(cell):
        return Faulty("outside", f"the path {cell!r} is absolute on Windows: give it relative to {place.root}")
    if "\\" in cell and not _is_there(place.root / cell):  # written on Windows
        cell = cell.replace("\\", "/")
    if Path(cell).is_absolute():
        return Faulty("outside", f"the path {cell!r} is absolute: give it relative to {place.root}")
    try:
        resolved = (place.root / cell).resolve()
    except (OSError, ValueError, RuntimeError):  # a NUL, or links in a circle
        return Faulty("missing", f"the path {cell!r} cannot be followed")
    if not resolved.is_relative_to(place.inside):
        return Faulty("outside", f"the path {cell!r} leads out of {place.root}")
    return File(place.root / cell)


def file_named(texts: Sequence[str], root: Path) -> str | None:
    """The first of some texts that is the path of a file below `root`, where most of those looked at are; else None."""
    looked = texts[:TEXTS_LOOKED_AT]
    named = [t for t in looked if len(t) < 1000 and _is_there(root / t.replace("\\", "/")) and (root / t).suffix]
    return named[0] if 2 * len(named) > len(looked) else None


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False

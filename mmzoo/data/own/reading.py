"""The rows of a CSV file as spreadsheets, pandas and databases write it. No torch, no numpy."""

from __future__ import annotations

import csv
import hashlib
import itertools
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mmzoo.errors import BadValue
from mmzoo.io.regular import read_regular

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
#: bytes of the largest table, and what a packed one may become
LARGEST = 1 << 31
#: characters of the longest cell
LONGEST_CELL = 1 << 28
#: rows that are looked at to find the delimiter
LOOKED_AT = 50
#: how files begin that are no text, and what they are
_OTHERS = (
    (b"PK\x03\x04", "an Excel workbook or another zip archive"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook of the old form"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"FEA1", "a Feather file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a numpy array"),
    (b"SQLite format 3", "a SQLite database"),
    (b"BZh", "packed with bzip2"),
    (b"\xfd7zXZ", "packed with xz"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"%PDF", "a PDF"),
    (b"\x80\x04", "a pickle, which is never read"),
    (b"\x80\x05", "a pickle, which is never read"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One row: the lines of the file that it stands on, from 1, and its cells without the blanks around them."""

    first: int
    last: int
    cells: list[str]


class Rows:
    """The rows of a CSV file: UTF-8 with or without a byte-order mark, or UTF-16 with one, also packed with gzip; any line
    ends; a header.

    Args:
        delimiter: Of the columns. None: of comma, semicolon, tab and bar the one under which the first rows agree with the
            header, and the header holds most of `likely`.
        quotes: Whether a cell may stand in quotation marks, and then hold delimiters and line ends. Without, a quotation mark
            is a character like any other.
        likely: Names that the header should hold.
    """

    def __init__(
        self, path: Path, delimiter: str | None = None, *, quotes: bool = True, likely: Collection[str] = ()
    ) -> None:
        self.path, self.quotes = path, quotes
        self._given, self._likely = delimiter, frozenset(likely)

    @cached_property
    def lines(self) -> list[str]:
        """The lines of the file without their ends. Raises BadValue."""
        data = self._data()
        self._hash = hashlib.sha256(data).digest()
        if data[:2] == b"\x1f\x8b":
            data = _unpacked(self.path, data)
        text = _decoded(self.path, data)
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        if lines[0].lower().startswith("sep=") and lines[0][4:] in DELIMITERS:  # a word of Excel's to itself
            self._given = self._given or lines[0][4:]
            lines[0] = ""
        return lines

    def _data(self) -> bytes:
        return read_regular(self.path, "the table", LARGEST)

    def current(self) -> bool:
        """Whether the file still holds what was read. Raises BadValue where it cannot be read any more."""
        return bool(self.lines) and hashlib.sha256(self._data()).digest() == self._hash

    @cached_property
    def delimiter(self) -> str:
        lines = self.lines
        if self._given:
            return self._given
        return max(DELIMITERS, key=lambda mark: self._fit(lines[:LOOKED_AT], mark))

    def _fit(self, start: list[str], mark: str) -> tuple[int, bool, int]:
        """How well a delimiter suits the first lines; the greatest is taken, the first of equals."""
        dialect = self._dialect(mark)
        try:
            rows = [r for r in csv.reader((line + "\n" for line in start), **dialect) if any(map(str.strip, r))]
        except csv.Error:
            return (0, False, 0)
        if not rows or len(rows[0]) < 2:
            return (0, False, 0)
        header = [cell.strip() for cell in rows[0]]
        alike = sum(1 < len(r) <= len(header) for r in rows[1:])
        return (len(self._likely.intersection(header)), alike >= 0.9 * (len(rows) - 1), len(header))

    def _dialect(self, mark: str) -> dict[str, Any]:
        return {"delimiter": mark, "quoting": csv.QUOTE_MINIMAL if self.quotes else csv.QUOTE_NONE}

    @cached_property
    def header(self) -> list[str]:
        """The names of the columns; one without a name is "", and a name may stand twice. Raises BadValue for none."""
        header = next((row.cells for row in self._all()), [])
        if not any(header):
            raise BadValue(f"the table {self.path} is empty: its first line must name the columns.")
        return header

    @cached_property
    def twice(self) -> dict[str, int]:
        """The names that stand in the header more than once, and how often."""
        return {name: n for name, n in Counter(self.header).items() if n > 1 and name}

    @cached_property
    def places(self) -> dict[str, int]:
        """Where the column of each name is: the first of that name."""
        found: dict[str, int] = {}
        for i, name in enumerate(self.header):
            if name:
                found.setdefault(name, i)
        return found

    @property
    def about(self) -> int:
        """About how many rows there are."""
        return max(1, sum(1 for line in self.lines if line) - 1)

    def parted(self) -> str:
        """In words, what parts the columns, for a message about a column that is not there."""
        if len(self.header) > 1:
            return f"Columns are parted by {DELIMITERS[self.delimiter]}; `delimiter` in the manifest says otherwise."
        return "No comma, semicolon, tab or bar parts the first line."

    def __iter__(self) -> Iterator[Row]:
        """The rows below the header that are not blank. Raises BadValue where one cannot be read."""
        return itertools.islice(self._all(), 1, None)

    def _all(self) -> Iterator[Row]:
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST_CELL))
        source = (line + "\n" for line in self.lines)
        reader = csv.reader(source, strict=True, **self._dialect(self.delimiter))
        start = 1
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise BadValue(f"{self.path}, line {start}: {self._unreadable(error)}") from None
            if any(cell.strip() for cell in cells):
                yield Row(start, reader.line_num, [cell.strip() for cell in cells])
            start = reader.line_num + 1

    def _unreadable(self, error: csv.Error) -> str:
        way_out = (
            "If quotation marks are plain characters in this table, write `quotes: false` in the manifest; otherwise double "
            'those within a cell ("").'
        )
        if "unexpected end" in str(error):
            return f"cannot be read as a row: a cell of this row opens a quotation that never closes. {way_out}"
        if "expected after" in str(error):
            return (
                f"cannot be read as a row: a cell continues after its closing quotation mark ({DELIMITERS[self.delimiter]} "
                f"parts the columns; `delimiter` says otherwise). {way_out}"
            )
        return f"cannot be read as a row: {error}."


def _unpacked(path: Path, data: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    pieces, total = [], 0
    try:
        while data:
            piece = unpacker.decompress(data, 1 << 26)
            total += len(piece)
            if total > LARGEST:
                raise BadValue(
                    f"the table {path} unpacks to more than {LARGEST >> 20:,} MiB, which is more than is read."
                )
            pieces.append(piece)
            data = unpacker.unconsumed_tail
            if unpacker.eof:  # files packed one after the other unpack to one
                data, unpacker = unpacker.unused_data, zlib.decompressobj(wbits=31)
    except zlib.error as error:
        raise BadValue(f"the table {path} begins as gzip and cannot be unpacked: {error}.") from None
    return b"".join(pieces)


def _decoded(path: Path, data: bytes) -> str:
    for start, what in _OTHERS:
        if data.startswith(start):
            what = "an Excel workbook" if b"xl/workbook" in data else what
            raise BadValue(
                f"the table {path} is {what}, not a text table. Save it as CSV (in UTF-8) and name that file in the manifest."
            )
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):  # "Unicode text" of a spreadsheet
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            raise BadValue(f"{path}: not UTF-8 text, nor whole UTF-16. Save the table as UTF-8.") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BadValue(f"{path}, line {line}: not UTF-8 text. Save the table as UTF-8.") from None
    return text

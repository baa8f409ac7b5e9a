"""CSV that others will open: no cell is taken for a formula by a spreadsheet, or for a command by a terminal. No torch at import."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from typing import IO, Any

from mmzoo.errors import uncontrolled

#: what a text that a spreadsheet would calculate begins with
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(value: Any) -> Any:
    """The value of a cell; a text without control characters, and with an apostrophe in front if it begins as a formula and is
    no number."""
    if not isinstance(value, str):
        return value
    value = uncontrolled(value)
    if not value.lstrip(" ").startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value


def write_rows(stream: IO[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows one by one, each cell by `safe_cell`."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerows([safe_cell(cell) for cell in row] for row in rows)

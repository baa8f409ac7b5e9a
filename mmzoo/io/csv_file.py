"""CSV that others will open: no cell is taken for a formula by a spreadsheet. No torch at import."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from typing import IO, Any

#: what a text that a spreadsheet would calculate begins with
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def safe_cell(value: Any) -> Any:
    """The value of a cell; a text that begins as a formula, and is no number, with an apostrophe in front."""
    if not isinstance(value, str) or not value.lstrip(" ").startswith(FORMULA):
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

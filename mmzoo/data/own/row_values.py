"""Values of Python as the cells of a table: rows that a caller gives as mappings. No torch, no numpy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from mmzoo.data.own.cells import as_number
from mmzoo.errors import BadValue, near_miss, short

_GIVE = "Give the path of a CSV table, or a list of mappings of each column to its cell; of a pandas frame, frame.to_dict('records')."


def checked(rows: Any) -> list[Mapping[str, Any]]:
    """Rows that a caller gave, as a list. Raises BadValue where they are no mappings, or there are none."""
    if isinstance(rows, (str, bytes, Mapping)) or hasattr(rows, "to_dict") or not isinstance(rows, Iterable):
        raise BadValue(f"rows are of the type {type(rows).__name__}. {_GIVE}")
    found = list(rows)
    for i, row in enumerate(found):
        if not isinstance(row, Mapping):
            raise BadValue(f"row {i} is of the type {type(row).__name__}, not a mapping. {_GIVE}")
    if not found:
        raise BadValue(f"there are no rows. {_GIVE}")
    return found


def cell_of(row: Mapping[str, Any], number: int, column: str, levels: Sequence[str] | None = None) -> str:
    """A cell of a row as a table would hold it; "" for None and NaN.

    Args:
        row: The row.
        number: Its number, for messages.
        column: The name of the column.
        levels: The words that the column may hold, where it holds words. A number is the level of its value, as 1.0 is "1".

    Raises:
        BadValue: The row has no such column, or the value is none that a cell holds.
    """
    if column not in row:
        raise BadValue(
            f"row {number} has no {column!r}.{near_miss(column, [str(k) for k in row])} Columns are named as in the table of the "
            "training data; where a row lacks a modality, give None."
        )
    value = row[column]
    if hasattr(value, "tolist"):  # of numpy or torch
        value = value.tolist()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, (str, PurePath)):
        return str(value).strip()
    if isinstance(value, (int, float)):
        text = str(value)
        alike = [] if levels is None or text in levels else [w for w in levels if as_number(w) == float(value)]
        return alike[0] if len(alike) == 1 else text
    if isinstance(value, (list, tuple)) and all(isinstance(v, (int, float)) for v in value):
        return "[" + ", ".join(map(str, value)) + "]"
    raise BadValue(
        f"row {number}: {column!r} is {short(repr(value))}. A cell is a text, a path, a number, a list of numbers, or None where "
        "there is nothing."
    )

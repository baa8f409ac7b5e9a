"""Rows without labels, of a file or given as mappings, read as the table that a model was trained on. No torch, no numpy at import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmzoo.data.own.cells import Place, Wanted
from mmzoo.data.own.cells import media as media_of
from mmzoo.data.own.columns import Columns
from mmzoo.data.own.reading import Rows
from mmzoo.data.own.row_values import cell_of, checked
from mmzoo.data.preparing.workers import Chunk, decode
from mmzoo.data.sources.field import Field
from mmzoo.data.sources.source import Faulty, Media
from mmzoo.data.store.store import array_name
from mmzoo.errors import BadValue
from mmzoo.io.regular import check_regular

if TYPE_CHECKING:
    import numpy as np

#: rows that are decoded at once
CHUNK = 64


@dataclass(frozen=True)
class NewRow:
    """One row. id: its cell in the column of ids, or `line N`, `row N`. where: file and line, or `row N`. media: modality -> what
    its cells mean."""

    id: str
    where: str
    media: Mapping[str, Media]


@dataclass
class Decoded:
    """Some consecutive rows as arrays.

    Args:
        rows: The rows.
        arrays: modality -> part -> (n, ...) array.
        present: For each row, whether it has each modality.
        faults: For each row, what is wrong with it, in words.
        notes: For each row, what is wrong with it and does not matter to reading it.
    """

    rows: Sequence[NewRow]
    arrays: Mapping[str, Mapping[str, np.ndarray]]
    present: list[list[bool]]
    faults: list[list[str]] = field(default_factory=list)
    notes: list[list[str]] = field(default_factory=list)


def read_rows(
    path: Path,
    wanted: Mapping[str, Wanted],
    *,
    id_column: str | None,
    delimiter: str | None = None,
    quotes: bool = True,
    root: Path | None = None,
) -> list[NewRow]:
    """The rows of a table.

    Args:
        path: The table.
        wanted: What each modality is read from.
        id_column: The column of the ids; where the table has none, rows are called by their line.
        delimiter: What parts the columns; None: it is found out.
        quotes: Whether cells may stand in quotation marks.
        root: The folder that paths are relative to and must stay in; None: that of the table.

    Raises:
        BadValue: The table cannot be read, has no rows, or lacks a column.
    """
    check_regular(path, "table")
    rows = Rows(path, delimiter, quotes=quotes, likely={c for w in wanted.values() for c in w.columns})
    _check_columns(Columns(rows), wanted)
    place = Place.of((path.parent if root is None else root).absolute())
    places = {m: [rows.places[c] for c in w.columns] for m, w in wanted.items()}
    at = rows.places.get(id_column, len(rows.header)) if id_column else len(rows.header)
    found = []
    for row in rows:
        padded = [*row.cells, *[""] * (len(rows.header) - len(row.cells)), ""]
        media = {m: media_of(w, [padded[i] for i in places[m]], place) for m, w in wanted.items()}
        if any(row.cells[len(rows.header) :]):
            fault = Faulty("annotation", f"{len(row.cells)} cells where the header has {len(rows.header)}")
            media = dict.fromkeys(wanted, fault)
        name = padded[at] if at < len(rows.header) else ""
        there = {m: one for m, one in media.items() if one is not None}
        found.append(NewRow(name or f"line {row.first}", f"{path.name}, line {row.first}", there))
    if not found:
        raise BadValue(f"the table {path} has no rows below its header.")
    return found


def given_rows(
    rows: Any, wanted: Mapping[str, Wanted], *, id_column: str | None, root: Path | None = None
) -> list[NewRow]:
    """Rows that are given as mappings of column to cell.

    Args:
        rows: The rows.
        wanted: What each modality is read from.
        id_column: The column of the ids; a row without one is called by its number, from 0.
        root: The folder that paths are relative to and must stay in; None: the current one.

    Raises:
        BadValue: They are no list of mappings, there are none, or one lacks a column or has a value that is no cell.
    """
    place = Place.of((Path() if root is None else root).absolute())
    found = []
    for i, row in enumerate(checked(rows)):
        cells = {m: [cell_of(row, i, c, w.levels.get(c)) for c in w.columns] for m, w in wanted.items()}
        media = {m: media_of(w, cells[m], place) for m, w in wanted.items()}
        name = cell_of(row, i, id_column) if id_column is not None and id_column in row else ""
        found.append(NewRow(name or f"row {i}", f"row {i}", {m: one for m, one in media.items() if one is not None}))
    return found


def _check_columns(columns: Columns, wanted: Mapping[str, Wanted]) -> None:
    """Raise BadValue where a column of the training data is missing."""
    for m, w in wanted.items():
        for column in w.columns:
            try:
                columns.one(column)
            except BadValue as error:
                raise BadValue(
                    f"modality {m!r} is read from the column {column!r}: {error} Columns are named as in the table of the training "
                    "data; of a modality that no row has, leave the cells empty."
                ) from None


def decoded(rows: Sequence[NewRow], fields: Mapping[str, Field], *, jobs: int) -> Iterator[Decoded]:
    """The rows as arrays, some at a time, in order. fields: modality -> its fitted field. jobs: worker processes; 0: none."""
    chunks = [rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK)]
    tasks = [(n, [row.media for row in chunk]) for n, chunk in enumerate(chunks)]
    jobs = 0 if len(chunks) == 1 else min(jobs, len(chunks))
    for chunk in decode(fields, tasks, jobs=jobs, on_item=lambda: None):
        yield _decoded(chunks[chunk.number], chunk, fields)


def _decoded(rows: Sequence[NewRow], chunk: Chunk, fields: Mapping[str, Field]) -> Decoded:
    import numpy as np

    arrays = {
        m: {
            part: np.frombuffer(chunk.arrays[array_name(m, part)], form.dtype).reshape(len(rows), *form.shape)
            for part, form in f.arrays().items()
        }
        for m, f in fields.items()
    }
    found = Decoded(rows, arrays, [[m in row.media for m in fields] for row in rows])
    for row, faults in zip(rows, chunk.faults):
        said = [(f"{row.where}, {m}: {message}", content) for m, _, message, content in faults]
        found.faults.append([text for text, content in said if not content])
        found.notes.append([text for text, content in said if content])
        if not row.media:
            found.faults[-1].append(f"{row.where}: no modality of this row has content")
    return found

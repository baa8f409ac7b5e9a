"""The arrays of a store in the making, which grow by appending, and the journal of what is safely on disk. No torch."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from mmzoo.data.preparing.workers import Chunk
from mmzoo.data.sources.source import Item
from mmzoo.errors import MmzooError
from mmzoo.io.files import write_bytes

JOURNAL = "journal.jsonl"
#: bytes of a .npy header as numpy writes it, which leaves room for the number of rows to grow
HEADER = 128


class Growing:
    """The growing arrays. Rows are appended; now and then they are flushed, and only then told to the journal."""

    def __init__(self, folder: Path, row_bytes: Mapping[str, int], rows: int, sync_every: float) -> None:
        self.folder, self.sync_every = folder, sync_every
        self.files: dict[str, BinaryIO] = {}
        self.pending: list[bytes] = []
        self.written = 0
        for name, size in row_bytes.items():
            path = folder / name
            path.touch()
            self.files[name] = path.open("r+b")
            self.files[name].truncate(HEADER + rows * size)
            self.files[name].seek(0, os.SEEK_END)
        journal = folder / JOURNAL
        self.written = journal.read_bytes().count(b"\n") if journal.exists() else 0
        self.journal = journal.open("ab")
        self.synced = time.monotonic()

    def __enter__(self) -> Growing:
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self.sync()  # after an error too: what is decoded is decoded
        finally:
            for file in (*self.files.values(), self.journal):
                file.close()

    def append(self, chunk: Chunk, note: Mapping[str, Any]) -> None:
        for name, block in chunk.arrays.items():
            self.files[name].write(block)
        line = {"chunk": self.written + len(self.pending), **note}
        self.pending.append(json.dumps(line, ensure_ascii=True).encode() + b"\n")
        if time.monotonic() - self.synced >= self.sync_every:
            self.sync()

    def sync(self) -> None:
        if not self.pending:
            return
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        self.journal.write(b"".join(self.pending))
        self.journal.flush()
        os.fsync(self.journal.fileno())
        self.written += len(self.pending)
        self.pending, self.synced = [], time.monotonic()


def row_bytes(shape: Sequence[int], dtype: str) -> int:
    import numpy as np

    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def write_header(path: Path, shape: tuple[int, ...], dtype: str) -> None:
    """The .npy header in front of an array's bytes, for which room was left."""
    import numpy as np

    buffer = io.BytesIO()
    told = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, told)
    header = buffer.getvalue()
    if len(header) > HEADER:
        raise MmzooError(f"{path.name}: the header of shape {shape} has {len(header)} bytes, more than {HEADER}.")
    if len(header) < HEADER:  # a length within the format: spaces before the closing newline
        header = header[:8] + (HEADER - 10).to_bytes(2, "little") + header[10:-1].ljust(HEADER - 11) + b"\n"
    with path.open("r+b") as file:
        file.write(header)


def write_present(path: Path, present: Sequence[Sequence[bool]]) -> None:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, np.array(present, dtype=bool))
    write_bytes(path, buffer.getvalue())


def sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def overwrite(path: Path, row: bytes, numbers: Iterable[int]) -> None:
    """Put the same bytes in place of some rows of an array."""
    with path.open("r+b") as file:
        for n in numbers:
            file.seek(HEADER + n * len(row))
            file.write(row)


def read_journal(folder: Path, chunks: Sequence[Sequence[Item]]) -> list[dict[str, Any]]:
    """The whole lines of the journal. A line that was cut short by the kill is as if it was never written."""
    notes: list[dict[str, Any]] = []
    path = folder / JOURNAL
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError:
        return []
    for line in lines:
        try:
            note = json.loads(line)
            if note["chunk"] != len(notes) or len(note["faults"]) != len(chunks[len(notes)]):
                break
            notes.append({"faults": note["faults"], "hashes": note["hashes"]})
        except (ValueError, KeyError, TypeError, IndexError, RecursionError):
            break
    whole = b"".join(line + b"\n" for line in lines[: len(notes)])
    if path.stat().st_size != len(whole):
        write_bytes(path, whole)
    return notes

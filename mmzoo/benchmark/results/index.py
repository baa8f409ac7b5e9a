"""Rows that were read before, so that a folder of many need not be read anew by every command. No torch at import.

The folders are the truth. An index is a cache of one user for one folder. It lies below MMZOO_HOME, never in the folder itself, and
records for each row the file it was read from (device, inode, size, times of its last change). A file that has changed is read
again, and all files are where the index belongs to another version of mmzoo, folder or user, or is damaged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import time
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from shutil import copyfile
from typing import TYPE_CHECKING, Any

try:
    import sqlite3
except ImportError:  # a Python that was built without it
    sqlite3 = None  # type: ignore[assignment]

from mmzoo import __version__
from mmzoo.benchmark.results.forms import FINAL
from mmzoo.benchmark.results.packing import Packed, Packer, Parts
from mmzoo.data.store.home import home

if TYPE_CHECKING:
    from mmzoo.benchmark.results.store import Reader, Store

#: rows that must be new before they are kept, and the share of those that are there already: a small folder has no index
LEAST, SHARE = 500, 0.05
#: seconds that a file must not have changed: a later change within a tick of the file system's clock would go unseen
SETTLED = 3.0
#: folders whose index is kept
MOST = 20
#: modules that decide which row a file holds: any change of them makes an index worthless
_MODULES = (
    "benchmark/results/forms.py",
    "benchmark/results/index.py",
    "benchmark/results/packing.py",
    "benchmark/results/store.py",
    "config/spec.py",
    "io/json_file.py",
    "io/schema.py",
)
_TABLES = """
CREATE TABLE about (facts TEXT, rows INTEGER);
CREATE TABLE shapes (key TEXT PRIMARY KEY, text TEXT) WITHOUT ROWID;
CREATE TABLE rows (run_id TEXT PRIMARY KEY, stamp TEXT, shapes TEXT, floats BLOB, others TEXT, crc INTEGER);
"""
#: what a damaged, foreign or unwritable index raises
_FAULTS: tuple[type[Exception], ...] = (OSError, ValueError, TypeError, LookupError, AttributeError, StopIteration)
_FAULTS += (RuntimeError, ArithmeticError, MemoryError, *(() if sqlite3 is None else (sqlite3.Error,)))
_COLUMNS = "stamp, shapes, floats, others, crc"


@contextlib.contextmanager
def reading(store: Store, parts: Parts = "all") -> Iterator[Reader]:
    """A function that gives the row of a run as `Store.row` does, for a command that reads many: to be read only, since rows have
    equal parts in common.

    Args:
        store: The folder of results.
        parts: How much of each row.
    """
    folder = str(store.root / "runs")
    with Index(store.root) as index:

        def read(run_id: str) -> dict[str, Any] | None:
            path = f"{folder}/{run_id}/result.json"
            stamp = stamp_of(path)
            if stamp is None:
                return store.row(run_id)
            if (found := index.get(run_id, stamp, parts)) is not None:
                return found
            row = store.row(run_id)
            return row if row is None else index.add(row, stamp, path, parts)

        yield read


def stamp_of(path: str) -> str | None:
    """What cannot stay the same when a file is changed or replaced; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"


class Index:
    """The rows of a folder of results that were read before. An index that cannot be read or written is ignored.

    A context manager: added rows are written when it ends without an error.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._packer = Packer()
        self._file, self._facts = _place(root)
        self._kept: sqlite3.Connection | None = None
        self._rows = 0
        self._fresh: list[tuple[Any, ...]] = []
        self._draft: tuple[sqlite3.Connection, str] | None = None

    def __enter__(self) -> Index:
        if self._file is not None and _is_own(self._file):
            with contextlib.suppress(*_FAULTS):
                self._kept = _connected(f"{self._file.as_uri()}?immutable=1")
                facts, self._rows = self._kept.execute("SELECT facts, rows FROM about").fetchone()
                if facts == self._facts and type(self._rows) is int:
                    return self
            self._drop()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and (self._draft is not None or len(self._fresh) >= self._worth):
            self._write(last=True)
        self._drop()
        if self._draft is not None:
            draft, name = self._draft
            with contextlib.suppress(*_FAULTS):
                draft.close()
            with contextlib.suppress(OSError):
                os.unlink(name)

    def _drop(self) -> None:
        """Go on without the index that is there."""
        if self._kept is not None:
            self._kept.close()
        self._kept, self._rows = None, 0

    @property
    def _worth(self) -> int:
        """New rows that are worth the writing."""
        return max(LEAST, int(SHARE * self._rows))

    def get(self, run_id: str, stamp: str, parts: Parts) -> dict[str, Any] | None:
        """The row of a run; None where it must be read."""
        if self._kept is None:
            return None
        try:
            found = self._kept.execute(f"SELECT {_COLUMNS} FROM rows WHERE run_id = ?", (run_id,)).fetchone()
            if found is None or found[0] != stamp or found[-1] != _crc(run_id, *found[:-1]):
                return None
            packed = Packed(*found[1:-1])
            for key in self._packer.unknown(packed):
                (text,) = self._kept.execute("SELECT text FROM shapes WHERE key = ?", (key,)).fetchone()
                self._packer.learn(key, text)
            return self._packer.unpack(packed, parts)
        except _FAULTS:
            self._drop()
            return None

    def add(self, row: dict[str, Any], stamp: str, path: str, parts: Parts) -> dict[str, Any]:
        """Take a row that was read from a file, and give it as `get` would."""
        if self._file is None and parts == "all":
            return row
        try:
            packed = self._packer.pack(row)
        except RecursionError:
            return row
        if self._file is not None and row["status"] in FINAL and _settled(stamp) and stamp_of(path) == stamp:
            facts = (stamp, packed.shapes, packed.floats, packed.others)
            self._fresh.append((row["run_id"], *facts, _crc(row["run_id"], *facts)))
            if len(self._fresh) >= self._worth:
                self._write()
        return row if parts == "all" else self._packer.unpack(packed, parts)

    def _write(self, *, last: bool = False) -> None:
        """Put the new rows into the next index, which begins as a copy of the one that is there. last: and let it take its place."""
        fresh, self._fresh = self._fresh, []
        if self._file is None:
            return
        try:
            if self._draft is None:
                self._draft = self._begun(self._file)
            draft, name = self._draft
            draft.executemany("INSERT OR IGNORE INTO shapes VALUES (?, ?)", self._packer.new.items())
            draft.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?)", fresh)
            self._packer.new.clear()
            if last:
                self._close(draft)
                os.replace(name, self._file)
                self._draft = None
                _prune(self._file.parent)
        except _FAULTS as error:
            if sqlite3 is not None and type(error) is sqlite3.DatabaseError:  # what was copied is damaged
                with contextlib.suppress(OSError):
                    self._file.unlink()
            self._file = None  # it is not tried again for every row

    def _begun(self, file: Path) -> tuple[sqlite3.Connection, str]:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=".tmp")
        os.close(handle)
        try:
            if self._kept is not None:
                copyfile(file, name)
            draft = _connected(Path(name).as_uri())
            if self._kept is None:
                draft.executescript(_TABLES)
            return draft, name
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise

    def _close(self, draft: sqlite3.Connection) -> None:
        """Complete the next index: without the runs that are gone, and with the words that make it one."""
        ids = [run_id for (run_id,) in draft.execute("SELECT run_id FROM rows")]
        gone = [(run_id,) for run_id in ids if stamp_of(f"{self._root}/runs/{run_id}/result.json") is None]
        draft.executemany("DELETE FROM rows WHERE run_id = ?", gone)
        draft.execute("DELETE FROM about")
        draft.execute("INSERT INTO about VALUES (?, ?)", (self._facts, len(ids) - len(gone)))
        draft.commit()
        draft.close()


def _place(root: Path) -> tuple[Path | None, str]:
    """The file of the index of a folder, and what it must say of itself. No file where none can be trusted."""
    code = _code()
    try:
        path, found = os.path.realpath(root / "runs"), (root / "runs").stat()
        if (
            os.name == "nt" or code is None or sqlite3 is None
        ):  # Windows does not say when a file was last changed, only what it claims
            return None, ""
        facts = json.dumps([path, found.st_dev, found.st_ino, os.getuid(), __version__, code])
        key = hashlib.sha256(json.dumps([path, os.getuid()]).encode()).hexdigest()[:16]
        return home() / "rows" / f"{key}.sqlite", facts
    except (OSError, ValueError, RuntimeError):
        return None, ""


@lru_cache(maxsize=1)
def _code() -> str | None:
    """A hash of the code that says which row a file holds; None where it cannot be read."""
    package = Path(__file__).parents[2]
    try:
        return hashlib.sha256(b"".join((package / name).read_bytes() for name in _MODULES)).hexdigest()
    except OSError:
        return None


def _is_own(file: Path) -> bool:
    """Whether there is a file that this user wrote. MMZOO_HOME may be shared, and what others have read is not believed."""
    try:
        found = file.lstat()
    except OSError:
        return False
    return found.st_uid == os.getuid() and not found.st_mode & 0o022 and file.is_file() and not file.is_symlink()


def _settled(stamp: str) -> bool:
    *_, written, changed = map(int, stamp.split())
    return time.time_ns() - max(written, changed) > SETTLED * 1e9


def _crc(run_id: str, stamp: str, shapes: str, floats: bytes, others: str) -> int:
    return zlib.crc32(floats, zlib.crc32(f"{run_id} {stamp} {shapes} {others}".encode()))


def _connected(uri: str) -> sqlite3.Connection:
    made = sqlite3.connect(uri, uri=True, isolation_level="DEFERRED")
    made.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA trusted_schema = OFF;")
    return made


def _prune(folder: Path) -> None:
    """Leave the newest MOST indexes, and no draft of a process that was killed."""
    with contextlib.suppress(OSError):
        files = sorted(folder.glob("*.sqlite"), key=lambda p: -p.stat().st_mtime)
        drafts = [p for p in folder.glob(".*.tmp") if time.time() - p.stat().st_mtime > 3600]
        for path in [*files[MOST:], *drafts]:
            path.unlink()

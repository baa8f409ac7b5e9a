"""Writing files so that a reader sees the old content or the new, never a part. No torch at import."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
import tempfile
from pathlib import Path
from typing import Any

#: bytes of the largest file that is read whole
LARGEST = 1 << 28
#: bytes that are asked for at least: some systems give the size of a file as 0
_BLOCK = 1 << 16


def opened(path: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a regular file, as `os.open` gives it. A pipe, a device, a folder or a dangling link is refused without
    waiting for it.

    Raises:
        OSError: It is not there, no regular file, or cannot be opened.
    """
    handle = os.open(path, flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0), 0o644)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
    except OSError:
        os.close(handle)
        raise
    return handle


def read_bytes(path: Path, limit: int = LARGEST) -> bytes:
    """Read a regular file whole. A pipe, a device, a folder or a dangling link is refused without waiting for it.

    Raises:
        OSError: It is not there, no regular file, larger than `limit` bytes, or cannot be read.
    """
    with os.fdopen(opened(path), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"larger than {limit:,} bytes", str(path))
        return file.read(min(limit, max(size, _BLOCK)) + 1)


def append_text(path: Path, text: str) -> None:
    """Add to the end of a regular file, which is made where it is not there. A pipe or a device is refused without waiting for it.

    Raises:
        OSError: It is no regular file, or cannot be written.
    """
    handle = opened(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with os.fdopen(handle, "a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)


def write_bytes(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write under a temporary name in the same folder, flush to disk, rename. sync: outlive a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    if sync:
        sync_folder(path.parent)


def remove_partial(folder: Path, *, keep: re.Pattern[str]) -> None:
    """Remove the temporary files that writers which were killed have left. keep: matches the names that stay."""
    for path in folder.glob(".*.tmp"):
        if not keep.fullmatch(path.name):
            with contextlib.suppress(OSError):
                path.unlink()


def write_json(path: Path, value: Any, *, sync: bool = True) -> None:
    write_bytes(path, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode(), sync=sync)


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

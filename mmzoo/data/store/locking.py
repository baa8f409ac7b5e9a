"""One process at a time makes a store, or a synthetic set."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from mmzoo.io.files import opened


@contextlib.contextmanager
def locked(target: Path, say: Callable[[str], None]) -> Iterator[None]:
    """One process at a time makes a folder; another waits, and then finds it done. A killed one leaves no lock behind.

    Raises OSError where the folder takes no lock.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(opened(target.parent / f".{target.name}.lock", os.O_RDWR | os.O_CREAT), "r+b") as file:
        try:
            import fcntl
        except ImportError:  # no such locks on Windows: the rename still keeps a store whole
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that prepares {target}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield

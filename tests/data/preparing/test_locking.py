"""A folder that takes no lock, or is read-only: what is ready stays usable, and the rest is one message."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
from helpers.small_dataset import make_toy
from helpers.stores import made
from helpers.watchdog import watchdog

from mmzoo.data.store.locking import locked
from mmzoo.errors import MmzooError


def test_a_ready_store_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "home"))
    root = make_toy(tmp_path / "toy")
    first = made(root)

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    again = made(root)
    assert again.store.folder == first.store.folder and not again.made
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(MmzooError, match=r"cannot write the store .*: No locks available"):
        made(root)


def test_a_pipe_or_a_link_to_a_device_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "home"))
    root = make_toy(tmp_path / "toy")
    target = made(root).store.folder
    lock = target.parent / f".{target.name}.lock"
    for make in (os.mkfifo, lambda p: p.symlink_to("/dev/zero"), Path.mkdir):
        lock.unlink()
        make(lock)
        with watchdog(30):
            assert not made(root).made
            with pytest.raises(OSError, match=r"regular file|Is a directory"), locked(target, print):
                pass

"""The checkpoint of a run: all that is needed to go on after a kill, with its hash behind it."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Mapping
from typing import Any

import torch

from mmzoo.benchmark.planning.planned import Planned
from mmzoo.benchmark.results.store import Store
from mmzoo.errors import BadValue, CorruptFile, MmzooError
from mmzoo.io.files import read_bytes

NAME = "checkpoint.pt"
_KEYS = {"run", "selection", "history", "seconds", "watched", "micro_batch"}


class Checkpoint:
    """The checkpoint of one planned run in its folder."""

    def __init__(self, planned: Planned, store: Store) -> None:
        self._store, self._run_id, self._peers = store, planned.spec.run_id, planned.peers
        self._spec = json.dumps(planned.spec.as_dict(), sort_keys=True)
        self._path = store.folder(self._run_id) / NAME

    def save(self, epoch: int, state: Mapping[str, Any]) -> None:
        """Keep where the run is. A disk that does not take it costs the checkpoint, not the run."""
        try:
            self._store.write_file(self._run_id, NAME, sealed(packed({**state, "spec": self._spec})))
        except MmzooError as error:
            self._store.log(self._run_id, f"no checkpoint after epoch {epoch}: {error}")

    def load(self) -> dict[str, Any] | None:
        """The checkpoint of this very spec. One that cannot be read is set aside, and the run starts anew."""
        if not self._path.exists():
            return None
        try:
            saved = unpacked(unsealed(read_bytes(self._path, sys.maxsize)))
            if saved["spec"] != self._spec or _KEYS - set(saved):
                raise BadValue("it is not of this run")
            if bool(saved["watched"]) != self._peers:
                raise BadValue("it was begun under another protocol")
            return saved
        except Exception as error:
            self.set_aside(error)
            return None

    def set_aside(self, error: Exception) -> None:
        with self._store.guard():
            self._path.replace(self._path.with_suffix(".unreadable"))
        why = f"{type(error).__name__}: {error}"
        self._store.log(self._run_id, f"{NAME} could not be used ({why}); starting from epoch 0")

    def forget(self) -> None:
        self._path.unlink(missing_ok=True)


def packed(state: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def unpacked(data: bytes) -> dict[str, Any]:
    """What was packed, with its tensors on the CPU. Runs no code that is in it."""
    saved: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return saved


def sealed(data: bytes) -> bytes:
    """With its hash behind it, where torch.load overlooks it: torch itself notices no bit that flips."""
    return data + hashlib.sha256(data).digest()


def unsealed(data: bytes) -> bytes:
    """What was sealed. Raises CorruptFile where a bit has changed."""
    if sealed(data[:-32]) != data:
        raise CorruptFile("it is damaged")
    return data[:-32]

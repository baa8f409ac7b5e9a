"""Several runs on one GPU: who may start beside whom, by the memory that runs of their kind were seen to take.

A kind is a run without its seed. The first of a kind starts alone and is joined once its first epoch is done, by which
time its peak is known; later ones start beside others where all peaks together fit. One whose memory runs out beside
others goes on alone. Only workers of one bench folder know of each other; what else is on the card counts as it stood
when the card was last idle. No torch at import.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from mmzoo.benchmark.planning.planned import Planned
from mmzoo.benchmark.results.leases import Claimed, start_of
from mmzoo.benchmark.results.store import ALONE, Store
from mmzoo.io.files import opened, read_bytes, write_bytes

#: beside what torch reserves: the context of a process, and how far another seed may go beyond the peak
CONTEXT, BEYOND = 600 << 20, 1.1


class Crowded(Claimed):
    """There is no room beside the other runs on the card: this one is left to a later time."""


@dataclass(frozen=True)
class Seat:
    """A process on a card. need: bytes that it may take (None: not known). working: whether it is at a run; otherwise
    it holds that much still."""

    need: int | None
    working: bool


def admits(room: int, need: int | None, others: Iterable[Seat]) -> bool:
    """Whether a run that needs so many bytes (None: not known) may start beside others in so many bytes in all.

    Alone it may always start. Otherwise everything must be known, and fit together.
    """
    others = list(others)
    if not any(s.working for s in others):
        return True
    needs = [need, *(s.need for s in others)]
    return None not in needs and sum(n for n in needs if n is not None) <= room


def needed(peak: int) -> int:
    """The bytes to keep free for a run of a kind with this peak."""
    return int(peak * BEYOND) + CONTEXT


class Gauge(Protocol):
    """What is asked of a card: its name, free bytes, and the bytes that this process has
    reserved at most since its run began (`peak`), and goes on to hold when it has given back what it can (`held`)."""

    name: str

    def free(self) -> int: ...
    def peak(self) -> int: ...
    def held(self) -> int: ...


class CudaGauge:
    """A CUDA GPU as torch sees it."""

    def __init__(self, device: str) -> None:
        import torch

        self._device, self._cuda = torch.device(device), torch.cuda
        facts = torch.cuda.get_device_properties(self._device)
        self.name = f"{facts.name} {facts.uuid}"

    def free(self) -> int:
        return int(self._cuda.mem_get_info(self._device)[0])

    def peak(self) -> int:
        return int(self._cuda.max_memory_reserved(self._device))

    def held(self) -> int:
        gc.collect()
        self._cuda.empty_cache()
        return int(self._cuda.memory_reserved(self._device))


class Unshared:
    """The device of a worker that others do not have to be asked for."""

    def seat(self, planned: Planned) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def epoch_done(self) -> None:
        pass

    def crowded(self) -> bool:
        return False


class Card(Unshared):
    """A process (by default this one) among those of the bench folder on one card. Its file there is read and written
    under a lock."""

    def __init__(self, store: Store, gauge: Gauge, pid: int | None = None) -> None:
        self._store, self._gauge = store, gauge
        self._path = store.root / "memory" / f"card.{gauge.name.replace('/', ' ')}.json"
        pid = os.getpid() if pid is None else pid
        self._me = f"{pid} {start_of(pid)}"
        self._need: int | None = None
        self._alone = self._trained = False

    @contextlib.contextmanager
    def seat(self, planned: Planned) -> Iterator[None]:
        """Hold what a run needs for a block, and keep what it took for its kind. Raises Crowded where there is no room."""
        kind = planned.spec.config_id
        peak = self._store.peak(kind, self._gauge.name)
        self._need, self._alone, self._trained = needed(peak) if isinstance(peak, int) else None, peak == ALONE, False
        self._enter()
        try:
            yield
            if self._trained and not self._alone:
                self._store.note_peak(kind, self._gauge.name, self._gauge.peak())
        except Crowded:
            self._store.note_peak(kind, self._gauge.name, ALONE)
            raise
        finally:
            self._sit(Seat(CONTEXT + self._gauge.held(), working=False))

    def _enter(self) -> None:
        with self._book() as book:
            others = [seat for owner, seat in book.seats.items() if owner != self._me]
            if not any(s.working for s in others):
                book.room = self._gauge.free() + sum(s.need or 0 for s in book.seats.values())
            if not admits(book.room, self._need, others):
                raise Crowded("there is no room on the card now.")
            book.seats[self._me] = Seat(self._need, working=True)

    def epoch_done(self) -> None:
        """From the first epoch on the peak of the run is known, and others may join."""
        self._trained = True
        if self._need is None and not self._alone:
            self._need = needed(self._gauge.peak())
            self._sit(Seat(self._need, working=True))

    def crowded(self) -> bool:
        """Whether others may be on the card."""
        return self._need is not None

    def _sit(self, seat: Seat) -> None:
        with self._book() as book:
            book.seats[self._me] = seat

    @contextlib.contextmanager
    def _book(self) -> Iterator[_Book]:
        """Who sits on the card, without those that are gone; what is changed in it is written."""
        import fcntl

        with self._store.guard():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with os.fdopen(opened(self._path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT), "r+b") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                book = _Book.read(self._path)
                before = book.as_dict()
                yield book
                if book.as_dict() != before:
                    write_bytes(self._path, json.dumps(book.as_dict()).encode(), sync=False)


@dataclass
class _Book:
    """room: bytes for all seats together, as it was when nobody worked."""

    room: int
    seats: dict[str, Seat]

    @classmethod
    def read(cls, path: Path) -> _Book:
        """From its file; empty where that is not there or not one, which the first who finds nobody puts right."""
        try:
            found = json.loads(read_bytes(path))
            seats = {str(owner): Seat(s["need"], s["working"]) for owner, s in found["seats"].items()}
            book = cls(int(found["room"]), seats)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return cls(0, {})
        return cls(book.room, {owner: seat for owner, seat in seats.items() if _lives(owner)})

    def as_dict(self) -> dict[str, object]:
        return {"room": self.room, "seats": {owner: asdict(seat) for owner, seat in self.seats.items()}}


def _lives(owner: str) -> bool:
    pid, _, started = owner.partition(" ")
    return pid.isdecimal() and start_of(int(pid)) == started != ""

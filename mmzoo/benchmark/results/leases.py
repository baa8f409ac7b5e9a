"""Who works on a run: claims in the run's own folder, safe on network disks. No torch at import.

A claim is a file `claim.N` that appears whole (written elsewhere, then linked) or not at all. Numbers only grow: to take
over the claim N of an owner that is gone is to make `claim.N+1`, which the file system grants to one process alone, so
that nothing is ever deleted that another may hold. All go when the run's row is there.

A lease has a deadline: its owner counts as alive while its heartbeat is fresh. On the same machine that age is taken by the
machine's monotonic clock, which no step of the wall clock moves, and the owner's process must be there too. Of an owner
elsewhere it is taken between two times of the file server, never between two machines' clocks.

An owner that cannot write, since the disk is full, writes its claim in place; where even that fails it remembers that it has
given the run up, and its process is no obstacle to itself.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import platform
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmzoo.errors import MmzooError
from mmzoo.io.files import opened, remove_partial, write_bytes

#: seconds between two signs of life, and without one until an owner elsewhere counts as gone
BEAT, STALE = 10.0, 120.0
#: seconds between two notes of the epoch
NOTE = 1.0
#: how often a claim that goes while it is looked at is looked for again
ATTEMPTS = 100
#: temporary files in the folder of a run that processes without a claim to it may be writing
_BEING_WRITTEN = re.compile(r"\.(planned\.json|claim)\.\w+\.tmp")
_NAME = re.compile(r"claim\.([1-9][0-9]{0,99})")
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class Claimed(MmzooError):
    """Another process works on the run."""


@dataclass(frozen=True)
class Held:
    """A claim as it is read. since: unix time. epoch: how many are done, of. deaths: owners of this bench before this
    one that died one after the other without finishing an epoch. beat: seconds since the last sign of life."""

    number: int
    place: str = ""
    host: str = "?"
    pid: int = 0
    started: str = ""
    bench: str = ""
    since: float = 0.0
    epoch: int = 0
    began: int = 0
    of: int = 0
    deaths: int = 0
    released: bool = False
    clock: float = 0.0
    beat: float = 0.0

    @property
    def alive(self) -> bool:
        """Whether the owner is still at work, as far as this machine can tell."""
        if self.released or self.beat >= STALE:
            return False
        if self.place == here() and self.started:
            return start_of(self.pid) == self.started and not self._given_up
        return True

    @property
    def _given_up(self) -> bool:
        """Whether it is a claim of this very process that is held no more, although its file could not say so."""
        mine = self.pid == os.getpid() and self.place == here()
        return mine and self.lease not in _HELD

    @property
    def lease(self) -> str:
        """What tells this claim from all others of its process."""
        return f"{self.bench} {self.since!r}"

    @property
    def owner(self) -> str:
        return f"process {self.pid} on {self.host}"


@dataclass
class Claim:
    """A claim of this process. `note` is called between epochs, and raises Claimed where another has taken over."""

    folder: Path
    number: int
    facts: dict[str, Any]
    before: Held | None = None
    _written: float = field(default_factory=time.monotonic)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)
    _lost: bool = False

    @property
    def bench(self) -> str:
        return str(self.facts["bench"])

    @property
    def deaths(self) -> int:
        """How many owners of this bench have died one after the other, none of them an epoch further."""
        b = self.before
        if b is None or b.released or not self.bench or b.bench != self.bench:
            return 0
        return 1 if b.epoch > b.began else b.deaths + 1

    def note(self, epoch: int, of: int, *, began: bool = False) -> None:
        """Say how many epochs are done. began: this session starts here."""
        self.facts |= {"epoch": epoch, "of": of, **({"began": epoch} if began else {})}
        if self._lost:
            raise Claimed(f"another process has taken over {self.folder.name}: this one gave no sign of life for long.")
        if began or time.monotonic() - self._written > NOTE:
            self._write()

    def _write(self) -> None:
        """A sign of life. A disk that is full for a moment must not end the run."""
        with self._lock, contextlib.suppress(OSError):
            if self._over.is_set():
                return
            self._lost = max(_numbers(self.folder), default=self.number) > self.number
            self._lost = self._lost or not self.folder.is_dir()
            if not self._lost:
                self.facts["clock"] = time.monotonic()
                _rewrite(self.folder / f"claim.{self.number}", json.dumps(self.facts).encode())
            self._written = time.monotonic()

    def _beat(self) -> None:
        while not self._over.wait(BEAT):
            self._write()

    def release(self, *, done: bool) -> None:
        """done: the row is there, and claims are of no use any more. Otherwise others may go on with the run."""
        if not done:
            self.facts["released"] = True
            self._write()
        with self._lock:
            self._over.set()
            _HELD.discard(self.lease)
        if done:
            for number in _numbers(self.folder):
                if number <= self.number:
                    with contextlib.suppress(OSError):  # a folder of that name is nobody's claim
                        (self.folder / f"claim.{number}").unlink()
            if self.before is not None:
                remove_partial(self.folder, keep=_BEING_WRITTEN)

    @property
    def lease(self) -> str:
        return f"{self.bench} {self.facts['since']!r}"


@contextlib.contextmanager
def claim(folder: Path, bench: str = "") -> Iterator[Claim]:
    """Hold the claim to a run for a block; `release(done=True)` inside the block where its row was written.

    bench: which bench this is; deaths are counted within one. Raises Claimed where a living process holds the run,
    OSError where the folder takes no file.
    """
    held = _claim(folder, bench)
    beat = threading.Thread(target=held._beat, daemon=True)
    beat.start()
    try:
        yield held
    finally:
        if not held._over.is_set():
            held.release(done=False)


def _claim(folder: Path, bench: str) -> Claim:
    folder.mkdir(parents=True, exist_ok=True)
    before = _latest(folder)
    if before is not None and before.alive and before.place == here():
        raise _claimed(folder, before)
    facts = {
        "place": here(),
        "host": platform.node(),
        "pid": os.getpid(),
        "started": start_of(os.getpid()),
        "bench": bench,
        "since": _moment(),
        "clock": time.monotonic(),
    }
    handle, name = tempfile.mkstemp(dir=folder, prefix=".claim.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w") as file:
            before = _latest(folder, now=os.stat(name).st_mtime)
            if before is not None and before.alive:
                raise _claimed(folder, before)
            held = Claim(folder, 1 if before is None else before.number + 1, facts, before)
            facts["deaths"] = held.deaths
            file.write(json.dumps(facts))
        _HELD.add(held.lease)  # before the file appears: a claim of this process that is not held counts as given up
        if not _made(name, folder / f"claim.{held.number}"):
            _HELD.discard(held.lease)
            raise Claimed(f"another process was faster to claim {folder.name}.")
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    return held


def _moment() -> float:
    """The unix time, later than at the call before: it tells the claims of one process apart."""
    global _LAST
    with _MOMENTS:
        _LAST = max(time.time(), math.nextafter(_LAST, math.inf))
        return _LAST


_LAST, _MOMENTS = 0.0, threading.Lock()


def _rewrite(path: Path, data: bytes) -> None:
    """Write a claim anew: whole where the disk takes another file, else in place, which needs no more room."""
    try:
        write_bytes(path, data, sync=False)
    except OSError:
        with path.open("r+b") as file:
            file.write(data.ljust(os.fstat(file.fileno()).st_size))
            file.truncate()


def _made(source: str, target: Path) -> bool:
    """Let a file appear under a name that nobody has, whole. False where somebody has it."""
    try:
        os.link(source, target)
    except FileExistsError:
        # Over a network the link may have been made and the answer lost: two names tell.
        return os.stat(source).st_nlink == 2
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            handle = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return False
        with os.fdopen(handle, "wb") as file:
            file.write(Path(source).read_bytes())
    return True


#: the claims of this process that it holds
_HELD: set[str] = set()


def read_claim(folder: Path) -> Held | None:
    """The claim to a run, whether its owner lives or not; None where nobody ever made one."""
    return _latest(folder)


def _latest(folder: Path, now: float | None = None) -> Held | None:
    """The claim with the highest number. now: the time at the file server."""
    for _ in range(ATTEMPTS):
        numbers = _numbers(folder)
        if not numbers:
            return None
        path = folder / f"claim.{max(numbers)}"
        try:
            text, written = _read(path)  # opening asks the server anew
        except FileNotFoundError:
            if not path.is_symlink():
                continue  # it has gone meanwhile
            return Held(max(numbers), released=True)
        except OSError:
            return Held(max(numbers), released=True)  # a folder, a pipe: nobody's claim, only a number that is taken
        return _held(max(numbers), text, (time.time() if now is None else now) - written)
    return Held(max(_numbers(folder), default=0), released=True)


def _read(path: Path) -> tuple[bytes, float]:
    """The content of a claim and the time at which it was written. Raises OSError for what is no regular file."""
    with os.fdopen(opened(path), "rb") as file:
        return file.read(65536), os.fstat(file.fileno()).st_mtime


def _held(number: int, text: bytes, age: float) -> Held:
    """A claim from its file. One that cannot be read is believed for as long as one from elsewhere would be."""
    try:
        found = json.loads(text)
        kinds = {k: type(v) for k, v in vars(Held(0)).items() if k not in ("number", "beat")}
        facts = {k: kinds[k](v) for k, v in found.items() if k in kinds and type(v) in (kinds[k], int)}
    except (ValueError, AttributeError, RecursionError, OverflowError):
        facts = {}
    held = Held(**{**facts, "number": number, "beat": age})
    if held.clock and held.place == here():
        return replace(held, beat=time.monotonic() - held.clock)
    return held


def _claimed(folder: Path, held: Held) -> Claimed:
    return Claimed(f"{held.owner} works on {folder.name}.")


def _numbers(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)
    except OSError:  # gone, or not to be read: the row's own reading says so
        return []
    return [int(m[1]) for name in names if (m := _NAME.fullmatch(name))]


def here() -> str:
    """Where process ids mean the same: the machine since it was started, and the container."""
    global _HERE
    if not _HERE:
        boot, space = Path("/proc/sys/kernel/random/boot_id"), "/proc/self/ns/pid"
        parts = [platform.node()]
        with contextlib.suppress(OSError):
            parts += [boot.read_text().strip(), os.readlink(space)]
        _HERE = " ".join(parts)
    return _HERE


_HERE = ""


def start_of(pid: int) -> str:
    """When a process of this machine began, in its own words; empty for one that is not there or not reaped yet."""
    try:
        facts = Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()
        return "" if facts[0] in "ZX" else facts[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists() or pid < 1:
        return ""
    done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True)
    return done.stdout.strip()

"""Worker processes that decode items: they stay for the whole of a `prepare`, and one that dies or hangs costs one item."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from mmzoo.data.preparing.main_module import unspawnable
from mmzoo.data.sources.faults import paths_of
from mmzoo.data.sources.field import Field, MediaFault
from mmzoo.data.sources.source import Faulty, Media
from mmzoo.data.store.store import array_name
from mmzoo.errors import MmzooError

#: seconds that one item may take before its file counts as broken
PATIENCE = 120.0


@dataclass
class Chunk:
    """Some consecutive items, decoded. arrays: file name -> the rows' bytes, one after the other. faults: per item, lists of
    (modality, kind, message, whether there is content all the same). hashes: per item, modality -> hash of its files."""

    number: int
    arrays: dict[str, bytes] = field(default_factory=dict)
    faults: list[list[tuple[str, str, str, bool]]] = field(default_factory=list)
    hashes: list[dict[str, str]] = field(default_factory=list)


#: bytes of a file that are hashed at a time
BLOCK = 1 << 20
Task = tuple[int, Sequence[Mapping[str, Media]]]  # chunk number, the media of its items


def decode(
    fields: Mapping[str, Field], tasks: Sequence[Task], *, jobs: int, on_item: Any, patience: float = PATIENCE
) -> Iterator[Chunk]:
    """The chunks in the order of the tasks. on_item: called with nothing as each item is done."""
    if jobs > 0 and (why := unspawnable()) is not None:
        warnings.warn(f"{why} Samples are decoded in this process, on one core.", stacklevel=2)
        jobs = 0
    if jobs < 1:
        for number, medias in tasks:
            chunk = _decode_chunk(fields, number, medias, {}, lambda i: on_item() if i else None)
            on_item()
            yield chunk
        return
    with _Pool(fields, jobs, on_item, patience) as pool:
        yield from pool.run(tasks)


# ---------------------------------------------------------------------------------------------- in a worker
def _decode_chunk(
    fields: Mapping[str, Field],
    number: int,
    medias: Sequence[Mapping[str, Media]],
    given_up: Mapping[int, str],
    at: Any,
) -> Chunk:
    """given_up: items of this chunk that are not tried again, and why. at: told the number of each item as it begins."""
    chunk = Chunk(number)
    collected: dict[str, list[bytes]] = {array_name(m, p): [] for m, f in fields.items() for p in f.arrays()}
    for i, media in enumerate(medias):
        at(i)
        faults: list[tuple[str, str, str, bool]] = []
        hashes = {}
        for modality, f in fields.items():
            arrays = None
            if modality in media:
                if i in given_up:
                    faults.append((modality, "broken", given_up[i], False))
                else:
                    arrays, fault = _read(f, media[modality])
                    if fault is not None:
                        faults.append((modality, *fault))
                    hashes[modality] = _hash(media[modality])
            for part, array in (f.blank() if arrays is None else arrays).items():
                collected[array_name(modality, part)].append(array.tobytes())
        chunk.faults.append(faults)
        chunk.hashes.append({m: h for m, h in hashes.items() if h})
    chunk.arrays = {name: b"".join(pieces) for name, pieces in collected.items()}
    return chunk


def _read(f: Field, media: Media) -> tuple[Mapping[str, Any] | None, tuple[str, str, bool] | None]:
    """The arrays of one modality of one item, and what is wrong with it."""
    import numpy as np

    fault = None
    if isinstance(media, Faulty):
        return None, (media.kind, media.message, False)
    try:
        arrays: Mapping[str, Any] | None = f.read(media)
    except MediaFault as error:
        arrays, fault = error.arrays, (error.kind, error.message, error.arrays is not None)
    except MemoryError:
        return None, ("broken", "it does not fit into memory", False)
    except ImportError as error:  # no fault of the item: every one would have it
        raise MmzooError(
            f"{f.kind} cannot be read: the library {error.name or error} is not installed or does not load ({error}). "
            "Install it and prepare again."
        ) from error
    except MmzooError:  # likewise: a tokenizer that is not there, an optional library
        raise
    except Exception as error:  # a decoder may raise anything; a defect of ours then shows in the report, by name
        return None, ("broken", f"{type(error).__name__}: {error}", False)
    if arrays is None:
        return None, fault
    for part, form in f.arrays().items():
        if part not in arrays or arrays[part].shape != form.shape or arrays[part].dtype != np.dtype(form.dtype):
            found = f"{arrays[part].dtype} {arrays[part].shape}" if part in arrays else "nothing"
            raise MmzooError(f"{type(f).__name__}.read gave {found} for {part!r}, not {form.dtype} {form.shape}")
    bad = [p for p in f.arrays() if arrays[p].dtype.kind == "f" and not np.isfinite(arrays[p]).all()]
    if bad:
        return None, ("value", f"what was read is not finite{f' in {bad[0]}' if bad[0] else ''}", False)
    return {part: np.ascontiguousarray(arrays[part]) for part in f.arrays()}, fault


def _hash(media: Media) -> str:
    """A hash of the content of an item's files and of the stretch that is used; empty where there are none."""
    if not (paths := paths_of(media)):
        return ""
    total = hashlib.sha256(f"{getattr(media, 'start', None)} {getattr(media, 'end', None)}".encode())
    try:
        for path in paths:
            with path.open("rb") as file:
                while block := file.read(BLOCK):
                    total.update(block)
            total.update(b"\0")
    except OSError:
        return ""
    return total.hexdigest()[:24]


def _work(connection: Connection, parent: int) -> None:
    """The life of a worker: chunks come in, decoded chunks go out. It ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    threading.Thread(target=_leave_with, args=(parent,), daemon=True).start()
    try:
        fields = connection.recv()
        connection.send(("ready", None))
        while True:
            number, medias, given_up = connection.recv()
            try:
                chunk = _decode_chunk(fields, number, medias, given_up, lambda i: connection.send(("at", i)))
            except MmzooError as error:
                connection.send(("defect", str(error)))
                return
            except MemoryError:
                connection.send(("defect", "a sample does not fit into memory: use smaller ones, or fewer --jobs."))
                return
            names, blocks = list(chunk.arrays), list(chunk.arrays.values())
            chunk.arrays = {}
            connection.send(("done", (chunk, names)))
            for block in blocks:
                connection.send_bytes(block)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _leave_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


# ---------------------------------------------------------------------------------------------- beside them
@dataclass
class _Worker:
    process: Any
    connection: Connection
    task: tuple[int, Sequence[Mapping[str, Media]]] | None = None
    given_up: dict[int, str] = field(default_factory=dict)
    at: int = -1
    since: float = 0.0
    ready: bool = False
    killed: str = ""


class _Pool:
    """jobs workers; a chunk goes to whoever is free, and no further ahead of the slowest than memory allows."""

    def __init__(self, fields: Mapping[str, Field], jobs: int, on_item: Any, patience: float) -> None:
        self.fields, self.jobs, self.on_item, self.patience = fields, jobs, on_item, patience
        self.workers: list[_Worker] = []
        self.failures: dict[tuple[int, int], int] = {}  # (chunk, item) -> how often a worker died on it

    def __enter__(self) -> _Pool:
        self.workers = [self._start() for _ in range(self.jobs)]
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self.workers:
            worker.connection.close()
        for worker in self.workers:
            worker.process.join(0.2)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()

    def run(self, tasks: Sequence[Task]) -> Iterator[Chunk]:
        waiting = deque(tasks)
        finished: dict[int, Chunk] = {}
        for number, _ in tasks:
            while number not in finished:
                for worker in self.workers:
                    if worker.task is None and waiting and waiting[0][0] < number + 2 * self.jobs + 2:
                        self._give(worker, waiting.popleft(), {})
                self._listen(finished)
            yield finished.pop(number)

    def _start(self) -> _Worker:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, os.getpid()), daemon=True, name="mmzoo-prepare")
        process.start()
        theirs.close()
        worker = _Worker(process, ours, since=time.monotonic())
        ours.send(dict(self.fields))
        return worker

    def _give(self, worker: _Worker, task: Task, given_up: dict[int, str]) -> None:
        worker.task, worker.given_up, worker.at, worker.since = task, given_up, -1, time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # a dead one shows when it is listened to
            worker.connection.send((*task, given_up))

    def _listen(self, finished: dict[int, Chunk]) -> None:
        readable = wait([w.connection for w in self.workers], timeout=0.5)
        for i, worker in enumerate(self.workers):
            try:
                while worker.connection in readable:
                    self._hear(worker, finished)
                    if not worker.connection.poll():
                        break
            except (EOFError, ConnectionResetError, BrokenPipeError):
                self.workers[i] = self._replaced(worker)
                continue
            if worker.at >= 0 and worker.task is not None and time.monotonic() - worker.since > self.patience:
                worker.killed = f"the decoder did not come to an end in {self.patience:.0f} s"
                worker.process.kill()

    def _hear(self, worker: _Worker, finished: dict[int, Chunk]) -> None:
        kind, value = worker.connection.recv()
        if kind == "ready":
            worker.ready = True
        elif kind == "at":
            if value > 0:
                self.on_item()
            worker.at, worker.since = value, time.monotonic()
        elif kind == "defect":
            raise MmzooError(value)
        else:
            chunk, names = value
            chunk.arrays = {name: worker.connection.recv_bytes() for name in names}
            self.on_item()
            finished[chunk.number] = chunk
            worker.task, worker.at = None, -1

    def _replaced(self, worker: _Worker) -> _Worker:
        """A new worker in place of a dead one, which goes on with its chunk. An item on which two died is given up."""
        worker.process.join()
        worker.connection.close()
        stuck = worker.task is not None and worker.at < 0 and self.failures.get((worker.task[0], -1), 0) > 2
        if not worker.ready or stuck:
            raise MmzooError(
                f"a worker process could not start (exit code {worker.process.exitcode}). In a script of your own, call prepare "
                'below `if __name__ == "__main__":`, or with jobs=0.'
            )
        fresh = self._start()
        if worker.task is not None:
            key = (worker.task[0], worker.at)
            self.failures[key] = self.failures.get(key, 0) + 1
            given_up = dict(worker.given_up)
            if worker.at >= 0 and (worker.killed or self.failures[key] > 1):
                given_up[worker.at] = worker.killed or "the decoder crashes on it"
            self._give(fresh, worker.task, given_up)
        return fresh

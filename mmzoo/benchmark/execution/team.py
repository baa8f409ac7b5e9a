"""The processes that train one run together, and what they tell each other."""

from __future__ import annotations

import contextlib
import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from mmzoo.benchmark.execution import memory
from mmzoo.benchmark.execution.torchrun import Lost
from mmzoo.core import distributed
from mmzoo.errors import Diverged, Incompatible, MmzooError, told
from mmzoo.io.interrupts import is_stop

#: seconds that processes wait for one another within a step, and for the word of one that failed
PATIENCE = 600
#: seconds that the others have to hear that all is done
FAREWELL = 10
#: seconds between two looks at what the others have said: at first, and at most
PAUSE = (0.002, 0.2)
T = TypeVar("T")


class Alone:
    """A single process: a team in which there is nobody to tell anything."""

    rank, size = 0, 1

    @property
    def share(self) -> tuple[int, int]:
        """(number of this process, how many there are), as loaders take them."""
        return self.rank, self.size

    def order(self, job: Mapping[str, Any]) -> None:
        """Have the others do a job with this process, which then calls `together`."""

    def together(self, device: str) -> AbstractContextManager[None]:
        """A block that all processes do at once; what it raises in any of them is raised in all."""
        return contextlib.nullcontext()

    def handed(self, value: T) -> T:
        """What the first process has, in all."""
        return value

    def told(self, value: T) -> list[T]:
        """What each process has, in all."""
        return [value]

    def check_same(self, facts: Callable[[], Mapping[str, str]], why: str) -> None:
        """Raise MmzooError, naming process and fact, where a process has another than the first."""


class Team(Alone):
    """The processes that torchrun has started. Orders go through its key-value store, where a process may wait for the next as
    long as it takes; what is trained goes through a group that lives for one job, so that one that failed harms no other.
    """

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self._store, self.rank, self.size = store, rank, size
        self._job = 0

    @classmethod
    def meet(cls) -> Team:
        """The team of this process, once all are there."""
        return cls(*next(rendezvous("env://", timeout=timedelta(seconds=PATIENCE))))

    # ------------------------------------------------------------------ orders
    def order(self, job: Mapping[str, Any]) -> None:
        self._job += 1
        self._store.set(f"job/{self._job}", json.dumps(job))

    def next_order(self) -> dict[str, Any]:
        """What the first process wants done; it may plan or score for hours before."""
        self._job += 1
        self._wait([f"job/{self._job}"])
        job: dict[str, Any] = json.loads(self._store.get(f"job/{self._job}"))
        if "end" in job:
            self._store.set(f"heard/{self.rank}", "")
        return job

    def dismiss(self, code: int) -> None:
        """Tell the others that nothing is left to do, and see that they have heard it: the store may end with this process."""
        with contextlib.suppress(dist.DistError, Lost):
            self.order({"end": code})
            self._wait([f"heard/{r}" for r in range(1, self.size)], FAREWELL)

    # ------------------------------------------------------------------ a job
    @contextlib.contextmanager
    def together(self, device: str) -> Iterator[None]:
        key = f"done/{self._job}"
        error: BaseException | None = None
        try:
            self._form(device)
            yield
        except BaseException as raised:
            if is_stop(raised):
                raise
            error = raised
            # The first that fails is the cause: the others fail because it has left them.
            if self._store.add(f"{key}/failed", 1) == 1:
                self._store.set(f"{key}/why", json.dumps({"rank": self.rank, **_said(raised)}))
        finally:
            if dist.is_initialized():
                dist.destroy_process_group()  # which ends the waiting of those that are still in it
        self._store.set(f"{key}/{self.rank}", "")
        self._wait([f"{key}/{r}" for r in range(self.size)], PATIENCE + 60)
        if not self._store.add(f"{key}/failed", 0):
            return
        self._wait([f"{key}/why"], PATIENCE)
        why = json.loads(self._store.get(f"{key}/why"))
        # Being left gives no MmzooError: one that is raised here is what this process says of the same matter.
        if error is not None and (why["rank"] == self.rank or isinstance(error, MmzooError)):
            raise error
        raise _repeated(why)

    def _form(self, device: str) -> None:
        gpu = device.startswith("cuda")
        if gpu:
            torch.cuda.set_device(device)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            store=dist.PrefixStore(f"group/{self._job}", self._store),  # type: ignore[attr-defined]
            rank=self.rank,
            world_size=self.size,
            timeout=timedelta(seconds=PATIENCE),
        )

    def handed(self, value: T) -> T:
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def told(self, value: T) -> list[T]:
        return distributed.all_objects(value)

    def check_same(self, facts: Callable[[], Mapping[str, str]], why: str) -> None:
        first, *others = self.told(facts())
        for rank, own in enumerate(others, 1):
            for name, value in first.items():
                if own[name] != value:
                    raise MmzooError(
                        f"process {rank} has other {name} than the first ({own[name]}, not {value}): {why}"
                    )

    def _wait(self, keys: Iterable[str], limit: float | None = None) -> None:
        """Until all of some keys are there. limit: seconds. Raises Lost after them, or where the store itself is gone."""
        pause, began = PAUSE[0], time.monotonic()
        for key in keys:
            while not self._is_there(key):
                if limit is not None and time.monotonic() - began > limit:
                    raise Lost(f"a process gave no answer within {limit:.0f} s ({key} of {self.size} processes).")
                time.sleep(pause)
                pause = min(2 * pause, PAUSE[1])

    def _is_there(self, key: str) -> bool:
        try:
            return bool(self._store.check([key]))
        except dist.DistError as error:
            raise Lost(f"torchrun is gone ({str(error).splitlines()[0]}).") from error


# ---------------------------------------------------------------------------------------------- what failed elsewhere
class _There(Exception):
    """The traceback of another process."""

    def __str__(self) -> str:
        return "\n" + super().__str__()


def _said(error: BaseException) -> dict[str, str]:
    kinds = {"diverged": Diverged, "refused": Incompatible}
    kind = next((k for k, cls in kinds.items() if isinstance(error, cls)), "failed")
    if memory.ran_out(error):
        kind = "memory"
    text = memory.told(error) if kind in ("memory", *kinds) else told(error)
    return {"kind": kind, "text": text, "trace": "".join(traceback.format_exception(error))}


def _repeated(why: Mapping[str, Any]) -> Exception:
    """An error of another process, as one of the kind that this process would have raised."""
    said = f"process {why['rank']}: {why['text']}"
    made: Exception
    match why["kind"]:
        case "diverged":
            made = Diverged(why["text"])
        case "refused":
            made = Incompatible(why["text"])
        case "memory":
            made = MemoryError(said)
        case _:
            made = MmzooError(said)
    made.__cause__ = _There(why["trace"])
    return made

"""Two processes of one group, played by two threads of which one runs at a time: what is exchanged is what processes would
exchange, and a check of it takes no longer than the training twice."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from mmzoo.core import distributed
from mmzoo.errors import Incompatible, told
from mmzoo.testing.harness.ranks import PROCESSES, RankFailed

#: seconds for a thread to get its turn
PATIENCE = 120


class _Ended(Exception):
    """The other process has ended, and this one waits for it."""


def in_turn(work: Callable[[Any], Any], given: Any) -> list[Any]:
    """work(given) in each of two processes that form one group; the result of each, by rank.

    Raises:
        Incompatible: both raise it.
        RankFailed: one raises anything else, or asks for an exchange in which the other takes no part.
    """
    group = _Group()
    answers: list[tuple[str, Any]] = [("failed", "no answer")] * PROCESSES

    def one(rank: int) -> None:
        group.enter(rank)
        try:
            answers[rank] = ("done", work(given))
        except Incompatible as error:
            answers[rank] = ("refused", str(error))
        except Exception as error:
            answers[rank] = ("failed", f"process {rank}: {told(error)}")
        finally:
            group.leave(rank)

    with mock.patch.object(distributed, "dist", group), mock.patch.object(distributed, "_AVAILABLE", True):
        threads = [threading.Thread(target=one, args=(r,), daemon=True) for r in range(PROCESSES)]
        state = _random_state()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        _set_random_state(state)
    if all(kind == "refused" for kind, _ in answers):
        raise Incompatible(answers[0][1])
    if failed := [text for kind, text in answers if kind != "done"]:
        alone = [f for f in failed if _Ended.__name__ not in f]
        raise RankFailed("; ".join(alone or failed))
    return [value for _, value in answers]


class _Group:
    """What `torch.distributed` is to the module `distributed`, for two threads."""

    def __init__(self) -> None:
        self._own = threading.local()
        self._turn, self._changed = 0, threading.Condition()
        self._given: list[list[Any]] = [[] for _ in range(PROCESSES)]
        self._over: set[int] = set()

    def enter(self, rank: int) -> None:
        self._own.rank = rank
        self._own.state = _random_state()
        self._wait()

    def leave(self, rank: int) -> None:
        with self._changed:
            self._over.add(rank)
            self._turn = 1 - rank
            self._changed.notify_all()

    def is_initialized(self) -> bool:
        return hasattr(self._own, "rank")

    def get_world_size(self) -> int:
        return PROCESSES

    def get_rank(self) -> int:
        rank: int = self._own.rank
        return rank

    def all_reduce(self, x: Tensor) -> None:
        parts = self._exchange(x.detach().clone())
        x.copy_(torch.stack(parts).sum(0) if parts[0].ndim else parts[0] + parts[1])

    def all_gather(self, pieces: list[Tensor], x: Tensor) -> None:
        for piece, part in zip(pieces, self._exchange(x.detach().clone())):
            piece.copy_(part)

    def all_gather_object(self, found: list[Any], value: Any) -> None:
        found[:] = self._exchange(value)

    def _exchange(self, value: Any) -> list[Any]:
        """The value of each, once both have given one."""
        rank = self.get_rank()
        mine, theirs = self._given[rank], self._given[1 - rank]
        mine.append(value)
        n = len(mine)
        if len(theirs) < n:
            self._own.state = _random_state()
            with self._changed:
                self._turn = 1 - rank
                self._changed.notify_all()
            self._wait()
        if len(theirs) < n:
            raise _Ended("it asks for an exchange in which the other process takes no part")
        both = (mine[n - 1], theirs[n - 1])
        return list(both if rank == 0 else both[::-1])

    def _wait(self) -> None:
        rank = self.get_rank()
        with self._changed:
            if not self._changed.wait_for(lambda: self._turn == rank or len(self._over) == 1, PATIENCE):
                raise _Ended(f"no turn within {PATIENCE} s")
        _set_random_state(self._own.state)


def _random_state() -> tuple[Any, Any, Any]:
    return torch.get_rng_state(), random.getstate(), np.random.get_state()


def _set_random_state(state: tuple[Any, Any, Any]) -> None:
    torch.set_rng_state(state[0])
    random.setstate(state[1])
    np.random.set_state(state[2])

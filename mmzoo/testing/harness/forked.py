"""A copy of this process, made before it trains anything, that checks go to for what a process cannot take back.

A copy costs nothing, where a new process would first import torch. It has to be made before the first backward: later the
threads that a device needs do not start in a copy.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any

import torch

from mmzoo.errors import told

#: seconds for an answer
PATIENCE = 120
_server: list[tuple[Connection, Any]] = []


@contextlib.contextmanager
def cases(make: Sequence[Callable[[], Any]]) -> Iterator[None]:
    """Within the block `ask` has somebody to ask, about what these functions make; a case says by `number` which one made it."""
    if sys.platform == "linux":
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=_serve, args=(theirs, make), daemon=True)
        process.start()
        theirs.close()
        _server.append((ours, process))
    try:
        yield
    finally:
        while _server:
            _stop()


def _stop() -> None:
    connection, process = _server.pop()
    connection.close()
    process.join(1)
    if process.is_alive():
        process.kill()


def ask(work: Callable[[Any], Any], given: Any) -> tuple[Any] | None:
    """(work(given),) of the copy; None where there is none, or it cannot tell. given: a case, and what comes with it."""
    number = getattr(given[0], "number", None) if isinstance(given, tuple) else None
    if not _server or number is None:
        return None
    connection, _ = _server[-1]
    try:
        connection.send((work, number, given[1:]))
        if connection.poll(PATIENCE):
            kind, answer = connection.recv()
            return (answer,) if kind == "done" else None
    except (OSError, EOFError):
        pass
    _stop()
    return None


def _serve(connection: Connection, make: Sequence[Callable[[], Any]]) -> None:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    torch.set_num_threads(1)
    made: dict[int, Any] = {}
    while True:
        try:
            work, number, rest = connection.recv()
        except EOFError:
            return
        try:
            if number not in made:
                made[number] = make[number]()
            answer = "done", work((made[number], *rest))
        except BaseException as error:
            answer = "failed", told(error)
        connection.send(answer)

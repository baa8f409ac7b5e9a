"""A hang becomes a failure."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import pytest


@contextlib.contextmanager
def watchdog(seconds: int) -> Iterator[None]:
    """Fail the test, whatever it catches, after so many seconds."""

    def bark(*_: Any) -> None:
        pytest.fail(f"still busy after {seconds} s")

    before = signal.signal(signal.SIGALRM, bark)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1)  # again and again: what is raised may be caught
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

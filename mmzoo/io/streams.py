"""The standard streams of a command: how wide they are, and what to do where they are closed, full, or read by nobody any more."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import Any


def wrapped(line: str, indent: int | None = None) -> str:
    """A line at the width of the terminal; as it is where there is no terminal, so that one line stays one entry.

    Args:
        line: What is printed.
        indent: Indent of the continuation lines; None: two more than that of the line.
    """
    if not sys.stdout.isatty():
        return line
    own = len(line) - len(line.lstrip()) + 2 if indent is None else indent
    width = max(40, own + 20, shutil.get_terminal_size().columns)
    return textwrap.fill(line, width, subsequent_indent=" " * own, break_long_words=False, break_on_hyphens=False)


def open_missing() -> None:
    """Give a process that was started with closed streams some that lead nowhere: the next files that it opens would take
    their numbers, and what is printed would end up in them."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (as long as the process lives)


class Patient:
    """A text stream that outlives its reader: after the first error the rest is dropped. error: that error."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        self._tried(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._tried(self._stream.flush)

    def _tried(self, call: Any, *given: Any) -> None:
        if self.error is None:
            try:
                call(*given)
            except OSError as error:
                self.error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def patient_stdout() -> Iterator[Patient]:
    """Within this block nothing that is printed can end the work."""
    before = sys.stdout
    patient = Patient(before)
    sys.stdout = patient
    try:
        yield patient
        patient.flush()
    finally:
        sys.stdout = before


def silence(stream: Any) -> None:
    """Let what a stream still holds lead nowhere, so that the interpreter does not fail over it when it ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)

"""Whether a process was told to stop, or code in it only says so. No torch at import."""

from __future__ import annotations

import signal
import threading
import traceback
from types import FrameType
from typing import NoReturn

_watched = False
_asked = False


def watch_interrupts() -> None:
    """From now on an interrupt that the system sent can be told from a KeyboardInterrupt that some code has raised. Nothing
    happens outside of the main thread, where no signal arrives."""
    global _watched
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interrupted)  # a shell may have started us with it ignored
        _watched = True


def _interrupted(number: int, frame: FrameType | None) -> NoReturn:
    global _asked
    _asked = True
    raise KeyboardInterrupt


class Stop(BaseException):
    """Ends the process whatever code it runs; see `is_stop`."""


def is_stop(error: BaseException) -> bool:
    """Whether an error that is no Exception ends this process: a Stop, an interrupt that was sent, or a launcher that leaves.

    All others come from the code that runs, and are its fault, a KeyboardInterrupt that was not sent included.
    """
    if isinstance(error, KeyboardInterrupt):
        return _asked or not _watched
    if isinstance(error, SystemExit):
        # submitit leaves by it when its job is out of time
        return any("submitit" in frame.filename for frame in traceback.extract_tb(error.__traceback__))
    return isinstance(error, Stop)

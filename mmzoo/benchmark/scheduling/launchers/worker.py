"""`python -m mmzoo.benchmark.scheduling.launchers.worker DIR ANSWER`: a worker process of the local launcher.

The first line of its input is the order; when its input closes, it stops as after Ctrl-C. What it has to say it writes into
the file ANSWER, as JSON: that it is ready when it begins to look for runs, and in the end which rows could not be kept, or
why it gives up. Its output is no channel, since code in it may print, and that code has an empty input.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from mmzoo.benchmark.scheduling.worker_loop import work_on
from mmzoo.errors import MmzooError, ResultsLost
from mmzoo.io.files import write_bytes
from mmzoo.io.interrupts import watch_interrupts

#: seconds until a worker that was told to stop, and is in the middle of something long, ends at once
PATIENCE = 15.0


def main(root: str, answer: str) -> int:
    """Returns 0 when all runs have their rows, 2 where nothing can be kept, 130 when told to stop."""
    faulthandler.enable()
    watch_interrupts()
    try:
        order, pipe = _order()
        if order is None:
            return 130
        threading.Thread(target=_stop_with_parent, args=(pipe,), daemon=True).start()
        import mmzoo.benchmark.execution.runner  # noqa: F401

        _say(answer, {"ready": True})
        unsaved = work_on(root, order)
    except MmzooError as error:
        print(f"mmzoo: {error}", file=sys.stderr)
        _say(answer, {"error": str(error), "lost": isinstance(error, ResultsLost)})
        return 2
    except KeyboardInterrupt:
        return 130
    _say(answer, {"unsaved": unsaved})
    return 0


def _order() -> tuple[dict[str, Any] | None, int]:
    """The order, and the pipe that it came through under another number: code in this process has an empty input."""
    pipe = os.dup(0)
    os.set_inheritable(pipe, False)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    line = bytearray()
    while not line.endswith(b"\n"):
        block = os.read(pipe, 1 << 16)
        if not block:
            return None, pipe
        line += block
    return json.loads(line), pipe


def _say(answer: str, what: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        write_bytes(Path(answer), json.dumps(what).encode(), sync=False)


def _stop_with_parent(pipe: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(pipe, 4096):
            pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(PATIENCE)
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

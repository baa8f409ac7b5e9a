"""`python -m mmzoo.benchmark.scheduling.launchers.worker DIR`: a worker process of the local launcher.

The first line of its input is the order; when its input closes, it stops as after Ctrl-C. It prints "ready" when it
begins to look for runs, and in the end, as JSON, which rows could not be kept.
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

from mmzoo.benchmark.scheduling.worker_loop import work_on
from mmzoo.errors import MmzooError

#: seconds until a worker that was told to stop, and is in the middle of something long, ends at once
PATIENCE = 15.0


def main(root: str) -> int:
    """Returns 0 when all runs have their rows, 2 with a message where nothing can be kept, 130 when told to stop."""
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started us with it ignored
    try:
        line = sys.stdin.readline()
        if not line:
            return 130
        threading.Thread(target=_stop_with_parent, daemon=True).start()
        import mmzoo.benchmark.execution.runner  # noqa: F401

        print("ready", flush=True)
        unsaved = work_on(root, json.loads(line))
    except MmzooError as error:
        print(f"mmzoo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(json.dumps(unsaved), flush=True)
    return 0


def _stop_with_parent() -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(PATIENCE)
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

"""A command under torchrun: what its processes are, and which of them does what. No torch at import.

The first process does all that a bench does: it plans, holds the claims, reads and writes the folder of results, scores
and prints. The others wait for the runs that it hands out, and train those with it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from mmzoo.io.interrupts import Stop

if TYPE_CHECKING:
    from mmzoo.benchmark.execution.team import Team

_TEAM: Team | None = None


class Lost(Stop):
    """Another process is gone: this one cannot go on, and its run is left to its checkpoint."""


def processes() -> int:
    """How many processes torchrun has started for this command; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def local_rank() -> int:
    """Which of the processes of its machine this one is, which is the GPU that it takes."""
    return int(os.environ["LOCAL_RANK"])


def team() -> Team | None:
    """The processes that train with this one; None where it is alone."""
    return _TEAM


def split(command: Callable[[], int], argv: Sequence[str]) -> int:
    """A command in one of several processes: a bench by all of them, all else by the first alone. Returns the exit code,
    which is the first process's in all."""
    first = os.environ["RANK"] == "0"
    if list(argv[:1]) != ["bench"]:
        return command() if first else 0
    signal.signal(signal.SIGTERM, _told_to_end if first else signal.SIG_DFL)
    try:
        return _lead(command) if first else _follow()
    except Lost as error:
        print(f"mmzoo: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        return 130


def _lead(command: Callable[[], int]) -> int:
    from mmzoo.benchmark.execution.team import Team

    global _TEAM
    _TEAM = Team.meet()
    try:
        code = command()
    except Exception:
        _TEAM.dismiss(1)
        raise
    _TEAM.dismiss(code)
    return code


def _follow() -> int:
    from mmzoo.benchmark.execution.nonzero_ranks import follow
    from mmzoo.benchmark.execution.team import Team

    return follow(Team.meet())


def _told_to_end(number: int, frame: Any) -> NoReturn:
    raise Lost(
        f"torchrun ends this bench, as it does if one of its {processes()} processes has died; its report below says "
        "which. All finished rows are kept; the same command resumes from the last checkpoint."
    )

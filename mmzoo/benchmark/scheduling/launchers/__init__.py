"""Where the runs of a bench are run: here, in worker processes, on a Ray cluster, under SLURM. No torch at import.

All launchers do the same: they let `mmzoo.benchmark.scheduling.worker_loop.work` run somewhere, so often that one that dies is replaced, and
watch the store. Rows are the same to the bit wherever the hardware and the number of threads are.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.scheduling.launchers import local
from mmzoo.benchmark.scheduling.worker_loop import Order, Progress, work
from mmzoo.errors import BadValue, unknown

#: as the command line lists them too
LAUNCHERS = ("local", "ray", "slurm")
_NEEDS = {"ray": "ray", "slurm": "submitit"}


def check(launcher: str, options: Mapping[str, Any]) -> None:
    """Raise UnknownName or BadValue for a launcher that cannot be used here, or not with these options."""
    if launcher not in LAUNCHERS:
        raise unknown("launcher", launcher, LAUNCHERS)
    package = _NEEDS.get(launcher)
    if package is not None and importlib.util.find_spec(package) is None:
        raise BadValue(
            f"--launcher {launcher} needs the package {package}, which is not installed: "
            f"pip install 'mmzoo[{launcher}]', or leave --launcher out."
        )
    _module(launcher).check(options)


def launch(
    order: Order,
    store: Store,
    progress: Progress,
    *,
    launcher: str = "local",
    workers: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Do the runs of an order. One local worker is this very process; None: as many as the launcher finds right.

    options: of the launcher, see its module. Raises MmzooError where nothing can be done at all; a run that fails is a
    row, one whose row could not be kept stands in progress.unsaved.
    """
    from mmzoo.registry.plugins import catalogue

    check(launcher, options or {})
    if launcher == "local" and (workers or local.default_workers(len(order.runs))) == 1:
        work(order, store, catalogue(), progress)
    else:
        _module(launcher).launch(order, store, progress, workers=workers, options=dict(options or {}))


def _module(launcher: str) -> Any:
    return importlib.import_module(f"mmzoo.benchmark.scheduling.launchers.{launcher}")

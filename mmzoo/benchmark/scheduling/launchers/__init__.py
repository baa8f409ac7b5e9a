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
    apart: bool = False,
) -> None:
    """Do the runs of an order. One local worker is this very process; None: as many as the launcher finds right.

    options: of the launcher, see its module. apart: do not run code of third parties in this process, which it might end.
    Raises MmzooError where nothing can be done at all; a run that fails is a
    row, one whose row could not be kept stands in progress.unsaved.
    """
    from mmzoo.registry.plugins import catalogue

    check(launcher, options or {})
    alone = launcher == "local" and (workers or local.default_workers(len(order.runs))) == 1
    if alone and not (apart and _has_foreign_code(order)):
        work(order, store, catalogue(), progress)
    else:
        _module(launcher).launch(order, store, progress, workers=workers, options=dict(options or {}))
    _check_rows(order, store, progress)


def _has_foreign_code(order: Order) -> bool:
    """Whether a run has parts of the user's own or of another package."""
    parts = ("strategies/", "heads/", "encoders/")
    names = {name for p in order.runs for name in p.spec.versions if name.startswith(parts)}
    return any("/" in name.partition("/")[2] for name in names)


def _check_rows(order: Order, store: Store, progress: Progress) -> None:
    """Note the runs that have no row although nobody is at work any more. Raises ResultsLost where all are gone."""
    store.check_there()
    for planned in order.runs:
        run_id = planned.spec.run_id
        if store.stamp(run_id) is None and run_id not in progress.unsaved:
            progress.unsaved[run_id] = "it ended without a row"


def _module(launcher: str) -> Any:
    return importlib.import_module(f"mmzoo.benchmark.scheduling.launchers.{launcher}")

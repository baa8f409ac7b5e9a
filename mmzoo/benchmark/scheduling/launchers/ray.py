"""Workers on a Ray cluster (extra `ray`); the store must lie on a disk that all nodes see. No ray or torch at import.

A worker whose node is lost is started anew by Ray on another, and its runs go on there from their checkpoints.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from typing import Any

from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.scheduling.worker_loop import Order, Progress, watch, work_on
from mmzoo.errors import BadValue, MmzooError, near_miss

OPTIONS = {
    "address": "of the cluster: auto, or ray://HOST:PORT (default: RAY_ADDRESS, else one started here)",
    "num_cpus": "cores of each worker (default: 1)",
    "num_gpus": "GPUs of each worker, also a part (default: 0, or 1 with --device cuda)",
    "max_retries": "how often a lost worker is restarted (default: 100)",
}


def check(options: Mapping[str, Any]) -> None:
    """Raise BadValue for an option that is unknown or has a wrong type."""
    for key, value in options.items():
        if key not in OPTIONS:
            raise BadValue(f"--launcher-arg {key}: ray takes {', '.join(OPTIONS)}.{near_miss(key, OPTIONS)}")
        kind, word = (str, "a text") if key == "address" else ((int, float), "a number")
        if not isinstance(value, kind) or isinstance(value, bool):
            raise BadValue(f"--launcher-arg {key}={value}: it is {word}: {OPTIONS[key]}.")


def launch(order: Order, store: Store, progress: Progress, *, workers: int | None, options: Mapping[str, Any]) -> None:
    """`work` in so many tasks; None: one for each slot of the cluster."""
    import ray

    ours = not ray.is_initialized()
    if ours:
        ray.init(
            address=options.get("address"), log_to_driver=False, logging_level=logging.ERROR, configure_logging=True
        )
    try:
        gpus = options.get("num_gpus", 1 if order.device.startswith("cuda") else 0)
        cpus = options.get("num_cpus", 1)
        size = workers or max(1, min(len(order.runs), _slots(ray.cluster_resources(), cpus, gpus)))
        task = ray.remote(work_on).options(
            num_cpus=cpus, num_gpus=gpus, max_retries=int(options.get("max_retries", 100)), scheduling_strategy="SPREAD"
        )
        pending = [task.remote(str(store.root.absolute()), order.as_dict()) for _ in range(size)]
        team = _Tasks(ray, pending, progress)
        try:
            watch(order, store, progress, team.at_work)
        finally:
            team.stop()
    finally:
        if ours:
            ray.shutdown()


def _slots(resources: Mapping[str, float], cpus: float, gpus: float) -> int:
    limits = [resources.get(name, 0) // share for name, share in (("CPU", cpus), ("GPU", gpus)) if share]
    return int(min(limits, default=1))


class _Tasks:
    def __init__(self, ray: Any, pending: list[Any], progress: Progress) -> None:
        self._ray, self._pending, self._progress = ray, pending, progress

    def at_work(self) -> bool:
        """Whether any task is. Raises MmzooError as the task did, or with what ray says."""
        done, self._pending = self._ray.wait(self._pending, num_returns=len(self._pending), timeout=0)
        for task in done:
            try:
                self._progress.unsaved |= self._ray.get(task)
            except MmzooError:
                raise
            except self._ray.exceptions.RayError as error:
                if isinstance(cause := getattr(error, "cause", None), MmzooError):
                    raise cause from None
                raise MmzooError(f"ray: {error}") from error
        return bool(self._pending)

    def stop(self) -> None:
        for task in self._pending:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.cancel(task, force=False)

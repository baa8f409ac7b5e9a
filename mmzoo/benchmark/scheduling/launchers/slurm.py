"""Workers as an array of SLURM jobs through submitit (extra `slurm`). No submitit or torch at import.

A job that runs out of its time or is pre-empted is put back into the queue and goes on from the checkpoints; one that
ends otherwise before its time is submitted anew a few times, also where SLURM keeps no accounts to tell how it ended. The
bench itself stays and watches; when it ends first, the jobs go on, and the same command watches again.
"""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.scheduling.worker_loop import Order, Progress, watch, work_on
from mmzoo.errors import BadValue, MmzooError

#: how often a job that died is submitted anew
AGAIN = 3
CLUSTERS = ("slurm", "local", "debug")
#: seconds between two looks into the queue of a SLURM that keeps no accounts
LOOK = 10.0
#: seconds that jobs have to end once every row is there: one that is back in the queue has not even begun
LINGER = 20.0


def check(options: Mapping[str, Any]) -> None:
    """Raise BadValue for a cluster that submitit does not know, or that is not here; the rest submitit checks itself."""
    cluster = options.get("cluster", "slurm")
    if cluster not in CLUSTERS:
        raise BadValue(f"--launcher-arg cluster={cluster}: it is one of {', '.join(CLUSTERS)}.")
    if cluster == "slurm":
        import shutil

        if shutil.which("sbatch") is None:
            raise BadValue(
                "--launcher slurm: there is no sbatch on this machine. Call it where jobs are submitted, or try it "
                "without SLURM with --launcher-arg cluster=local."
            )


class Task:
    """What a job does; submitit asks `checkpoint` for what to put back into the queue."""

    def __call__(self, root: str, order: dict[str, Any]) -> dict[str, str]:
        return work_on(root, order)

    def checkpoint(self, root: str, order: dict[str, Any]) -> Any:
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, root, order)


def launch(order: Order, store: Store, progress: Progress, *, workers: int | None, options: Mapping[str, Any]) -> None:
    """`work` in an array of so many jobs; None: one a run, at most 16. options: those of submitit's AutoExecutor."""
    import submitit

    given = {k: v for k, v in options.items() if k != "cluster"}
    try:
        executor = submitit.AutoExecutor(folder=store.root / "slurm", cluster=options.get("cluster", "slurm"))
        executor.update_parameters(**{"name": "mmzoo", "timeout_min": 240, **given})
    except (NameError, TypeError, RuntimeError, AssertionError) as error:
        raise BadValue(f"--launcher slurm: {str(error).rstrip('.')}. See submitit's AutoExecutor.") from None
    size = workers or max(1, min(len(order.runs), 16))
    queue = _Queue() if options.get("cluster", "slurm") == "slurm" and not _keeps_accounts() else None
    array = _Array(executor, order, store, progress, size, queue)
    try:
        watch(order, store, progress, array.at_work, linger=LINGER)
        array.leave()
    except BaseException:
        array.stop()
        raise


class _Array:
    def __init__(
        self, executor: Any, order: Order, store: Store, progress: Progress, size: int, queue: _Queue | None
    ) -> None:
        self._queue = queue
        self._executor, self._order, self._root, self._progress = executor, order, str(store.root.absolute()), progress
        self._again = AGAIN * size
        self._jobs = self._submit(size)

    def _submit(self, size: int) -> list[Any]:
        jobs = self._executor.map_array(Task(), [self._root] * size, [self._order.as_dict()] * size)
        return list(jobs)

    def at_work(self) -> bool:
        """Whether any job is; those that died are submitted anew. Raises MmzooError where that leads nowhere."""
        for job, error in list(self._ended()):
            self._jobs.remove(job)
            if error is None:
                self._progress.unsaved |= job.result()
                continue
            self._again -= 1
            if self._again < 0 or "MmzooError" in str(error):
                raise MmzooError(f"job {job.job_id} failed; its log is {job.paths.stderr}. {_last_line(error)}")
            self._jobs += self._submit(1)
        return bool(self._jobs)

    def _ended(self) -> Iterator[tuple[Any, BaseException | None]]:
        """The jobs that have ended, each with what it died of."""
        if self._queue is None:
            yield from ((job, job.exception()) for job in self._jobs if job.done())
            return
        left_nothing = [job for job in self._jobs if not _has_result(job)]
        lost = self._queue.lost({job.job_id for job in left_nothing})
        for job in self._jobs:
            if job not in left_nothing:
                yield job, job.exception()
            elif job.job_id in lost:
                yield job, _Died("it is not in SLURM's queue any more, and left no result")

    def leave(self) -> None:
        """Take out of the queue what has nothing to do any more; what runs ends by itself."""
        for job in self._jobs:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                _asked("scancel", "--state=PENDING", job.job_id)

    def stop(self) -> None:
        for job in self._jobs:
            with contextlib.suppress(Exception):
                job.cancel(check=False)


class _Died(Exception):
    """A job that ended without a word."""


class _Queue:
    """The queue of a SLURM that keeps no accounts: sacct knows nothing there, and submitit takes every dead job for alive."""

    def __init__(self) -> None:
        self._looked = -math.inf
        self._missing: set[str] = set()
        self._lost: set[str] = set()

    def lost(self, jobs: Collection[str]) -> set[str]:
        """Those of `jobs` that were missing at two looks in a row: a result may take a moment to show on a shared disk."""
        if time.monotonic() - self._looked >= LOOK:
            self._looked = time.monotonic()
            queued = _queued()
            missing = set() if queued is None else set(jobs) - queued
            self._lost, self._missing = self._missing & missing, missing
        return self._lost & set(jobs)


def _queued() -> set[str] | None:
    """The jobs of this user that run or wait; None where SLURM does not answer."""
    try:
        answer = _asked("squeue", "-h", "-r", "-o", "%i", "-u", str(os.getuid()))
    except (OSError, subprocess.TimeoutExpired):
        return None
    return set(answer.stdout.split()) if answer.returncode == 0 else None


def _keeps_accounts() -> bool:
    try:
        return _asked("sacct", "-n", "-X", "-o", "JobID").returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _asked(*command: str) -> subprocess.CompletedProcess[str]:
    """What a command of SLURM answers by its own defaults, not by those of somebody's environment (SQUEUE_STATES ...)."""
    own = {k: v for k, v in os.environ.items() if not k.startswith(("SQUEUE_", "SACCT_", "SCANCEL_"))}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=own)


def _has_result(job: Any) -> bool:
    with contextlib.suppress(OSError):
        os.listdir(job.paths.folder)  # a shared disk may otherwise answer from what it remembers
    return bool(job.paths.result_pickle.exists())


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__

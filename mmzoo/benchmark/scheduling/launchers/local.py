"""Worker processes on this machine. No torch at import."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.scheduling.worker_loop import Order, Progress, cores, watch
from mmzoo.errors import BadValue, MmzooError

#: seconds that workers have to come to an end of their own when they are told to
GRACE = 20.0
#: how a worker ends that was told to stop; somebody else did that where we did not
STOPPED = 130
#: starts of workers that may fail one after the other before any run
FUTILE = 10
#: more workers than this only when asked for: each loads torch and the data
MOST = 8


def check(options: Mapping[str, Any]) -> None:
    if options:
        raise BadValue(f"--launcher local takes no --launcher-arg; given: {', '.join(options)}.")


def default_workers(runs: int) -> int:
    """As many as there are runs, and cores for the threads of each."""
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    return max(1, min(cores() // max(1, int(threads) if threads.isdecimal() else 1), runs, MOST))


def gpu_likely() -> bool:
    """Whether a GPU may be there, without a second spent on importing torch where the system shows none."""
    if sys.platform != "linux" or "torch" in sys.modules:
        import torch

        return torch.cuda.is_available()
    return any(Path(p).exists() for p in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))


class Worker:
    """One process that does runs until none is left. It ends when this one does, in whatever way: its input closes."""

    def __init__(self, order: Order, root: Path) -> None:
        self.order = order
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 (as long as it lives)
        # In a session of its own: Ctrl-C reaches this process alone, which then sees to the workers.
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "mmzoo.benchmark.scheduling.launchers.worker", str(root.absolute())],
            stdin=subprocess.PIPE,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
            env=_environment(),
        )
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(order.as_dict()).encode() + b"\n")
            self.process.stdin.flush()

    def said(self) -> list[str]:
        self._out.seek(0)
        return self._out.read().decode(errors="replace").splitlines()

    def complained(self) -> str:
        self._err.seek(0)
        return self._err.read().decode(errors="replace").strip()

    def stop(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin is not None
            self.process.stdin.close()


def launch(order: Order, store: Store, progress: Progress, *, workers: int | None, options: Mapping[str, Any]) -> None:
    """`work` in so many processes; one that is killed is replaced.

    workers: None for as many as the machine has cores. As large models train on all of them, one worker alone then
    takes these; on a GPU all do, as its memory allows.
    """
    size = default_workers(len(order.runs)) if workers is None else workers
    ours = workers is None
    orders = [
        replace(order, packed=ours, small_only=ours and i > 0 and "OMP_NUM_THREADS" not in os.environ)
        for i in range(size)
    ]
    team = _Team(orders, store, progress)
    try:
        watch(order, store, progress, team.at_work)
    finally:
        team.stop()


class _Team:
    def __init__(self, orders: Sequence[Order], store: Store, progress: Progress) -> None:
        self._root, self._progress = store.root, progress
        self._futile = 0
        self._workers = [Worker(order, store.root) for order in orders]

    def at_work(self) -> bool:
        """Whether anybody is; those that died are replaced. Raises MmzooError where that leads nowhere."""
        for i, worker in enumerate(self._workers):
            code = worker.process.poll()
            if code is None:
                continue
            if code < 0 or code == STOPPED:
                self._futile = 0 if worker.said() else self._futile + 1
                if self._futile > FUTILE:
                    raise MmzooError(
                        f"workers are killed as soon as they start (signal {-code}). Is there memory for so many? "
                        "Try --workers 1."
                    )
                self._workers[i] = Worker(worker.order, self._root)
            elif code > 0:
                said = worker.complained()
                raise MmzooError(
                    said.removeprefix("mmzoo: ") if code == 2 else f"a worker ended with an error:\n{said}"
                )
        for worker in [w for w in self._workers if w.process.poll() == 0]:
            self._progress.unsaved |= json.loads(worker.said()[-1])
            self._workers.remove(worker)
        return bool(self._workers)

    def stop(self) -> None:
        for worker in self._workers:
            worker.stop()
        until = time.monotonic() + GRACE
        for worker in self._workers:
            try:
                worker.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
            except BaseException:  # Ctrl-C once more
                for other in self._workers:
                    other.process.kill()
                raise


def _environment() -> dict[str, str]:
    """That of this process, with mmzoo where it was found here, installed or not."""
    import mmzoo

    paths = [str(Path(mmzoo.__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}

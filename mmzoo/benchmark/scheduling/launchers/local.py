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

from mmzoo.benchmark.results.leases import read_claim
from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.scheduling.worker_loop import Order, Progress, cores, watch
from mmzoo.errors import BadValue, MmzooError, ResultsLost

#: seconds that workers have to come to an end of their own when they are told to
GRACE = 20.0
#: how a worker ends that was told to stop; somebody else did that where we did not
STOPPED = 130
#: ends of workers, one after the other, that may lead nowhere; so many more for each worker, since a run is given up after them
FUTILE, DEATHS = 10, 3
#: seconds that workers have to end once every row is there: one that is stopped would be waited for as long as it is
LINGER = 20.0
#: bytes of what a worker has printed that are shown
MOST_SAID = 20_000
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

    def __init__(self, order: Order, root: Path, folder: Path) -> None:
        self.order = order
        handle, name = tempfile.mkstemp(dir=folder, suffix=".json")
        os.close(handle)
        self._answer = Path(name)
        self._err = self._answer.with_suffix(".err")
        # In a session of its own: Ctrl-C reaches this process alone, which then sees to the workers.
        with self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "mmzoo.benchmark.scheduling.launchers.worker", str(root.absolute()), name],
                stdin=subprocess.PIPE,
                stdout=err,
                stderr=err,
                start_new_session=True,
                env=_environment(),
            )
        with contextlib.suppress(BrokenPipeError):
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(order.as_dict()).encode() + b"\n")
            self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """What the worker has said so far, as `worker.main` says it; nothing where it died before."""
        try:
            return dict(json.loads(self._answer.read_bytes()))
        except (OSError, ValueError):
            return {}

    def complained(self) -> str:
        try:
            return self._err.read_bytes()[-MOST_SAID:].decode(errors="replace").strip()
        except OSError:
            return ""

    def close(self) -> None:
        """Let go of the pipe of a worker that has ended."""
        self.stop()
        for path in (self._answer, self._err):
            path.unlink(missing_ok=True)

    def stop(self) -> None:
        with contextlib.suppress(OSError):
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
    with tempfile.TemporaryDirectory(prefix="mmzoo-", ignore_cleanup_errors=True) as folder:
        team = _Team(orders, store, progress, Path(folder))
        try:
            watch(order, store, progress, team.at_work, linger=LINGER)
        finally:
            team.stop()


class _Team:
    def __init__(self, orders: Sequence[Order], store: Store, progress: Progress, folder: Path) -> None:
        self._store, self._progress, self._folder = store, progress, folder
        self._in_vain, self._before = 0, ""
        self._workers: list[Worker] = []
        for order in orders:
            try:
                self._workers.append(Worker(order, store.root, folder))
            except OSError as error:
                if not self._workers:
                    raise MmzooError(
                        f"no worker can be started: {error.strerror or error}. Raise the limit (ulimit -n, ulimit -u), or take "
                        "fewer --workers."
                    ) from None
                break  # those that are there do all of it

    def at_work(self) -> bool:
        """Whether anybody is; those that died are replaced. Raises MmzooError where that leads nowhere."""
        for worker in [w for w in self._workers if w.process.poll() is not None]:
            answer = worker.answer()
            if "error" in answer:
                raise (ResultsLost if answer.get("lost") else MmzooError)(answer["error"])
            self._workers.remove(worker)
            if "unsaved" in answer:  # however it ended after that
                self._progress.unsaved |= answer["unsaved"]
            else:
                self._died(worker, ready="ready" in answer)
                self._workers.append(Worker(worker.order, self._store.root, self._folder))
            worker.close()
        return bool(self._workers)

    def _died(self, worker: Worker, *, ready: bool) -> None:
        """Count a worker that ended without a word. One that was killed, or that code in it has ended, is replaced as long as that
        leads on: a run that ends its process a few times gets a row that says so."""
        code = worker.process.returncode
        if not ready and code > 0 and code != STOPPED:
            raise MmzooError(f"a worker ended with an error:\n{worker.complained() or f'exit code {code}'}")
        done = self._done(worker.order)
        self._in_vain = self._in_vain + 1 if done == self._before else 0
        self._before = done
        if self._in_vain > FUTILE + DEATHS * (len(self._workers) + 1):
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise MmzooError(
                f"workers end as soon as they start ({how}), and nothing gets done. Is there memory for so many? Try "
                "--workers 1."
            )

    def _done(self, order: Order) -> str:
        """What changes whenever a run gets a row or finishes an epoch."""
        folders = ((p.spec.run_id, self._store.folder(p.spec.run_id)) for p in order.runs)
        return str([(self._store.stamp(run_id), getattr(read_claim(folder), "epoch", 0)) for run_id, folder in folders])

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

"""Worker processes that stay for the next check, since starting them costs more than any check: two in one gloo group, and one
by itself."""

from __future__ import annotations

import importlib.machinery
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures import TimeoutError as FuturesTimeout
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from mmzoo.errors import Incompatible
from mmzoo.testing.harness import forked
from mmzoo.testing.harness.report import Skipped

PROCESSES = 2
#: seconds for a process to meet the others, and to follow one that has failed
PATIENCE, GRACE = 120, 5
_INSTALLED = sysconfig.get_path("stdlib")


class RankFailed(Exception):
    """A process raised, was killed, or waited in vain for another."""


def in_processes(work: Callable[[Any], Any], given: Any) -> list[Any]:
    """work(given), called at the same time in processes that form one group; the result of each, by rank.

    work: a function of an importable module. given: anything that loky can send; code that the processes cannot
    import travels along. Raises Incompatible where all processes do, RankFailed where one raises anything else, Skipped
    where there is no gloo or no loky here.
    """
    _needs_group()
    _let_travel()
    with tempfile.TemporaryDirectory() as folder:  # read only when the processes are new
        futures = [_pool().submit(_answer, work, given, str(Path(folder) / "store"), r) for r in range(PROCESSES)]
        done, waiting = wait(futures, PATIENCE, return_when=FIRST_COMPLETED)
        if waiting and not any(f.exception() or f.result()[0] != "done" for f in done):
            waiting = wait(waiting, PATIENCE).not_done
        elif waiting:
            waiting = wait(waiting, GRACE).not_done
        answers = [_read(f) for f in futures if f not in waiting]
    failed = [text for kind, _, text in answers if kind != "done"]
    if failed or waiting:
        if [kind for kind, _, _ in answers] == ["refused"] * PROCESSES:
            raise Incompatible(failed[0])
        _stop()
        raise RankFailed("; ".join(failed) or f"no answer within {PATIENCE} s")
    return [value for _, value in sorted((rank, value) for (_, rank, value) in answers)] if not failed else []


def in_another(work: Callable[[Any], Any], given: Any) -> Any:
    """work(given), called in a process of its own, for what a process cannot take back. As `in_processes` otherwise; raises what
    the work raises, and RankFailed where the process dies or does not answer."""
    if (answer := forked.ask(work, given)) is not None:
        return answer[0]
    _needs_loky()
    _let_travel()
    from loky.process_executor import BrokenProcessPool

    try:
        return _apart().submit(work, given).result(PATIENCE)
    except (BrokenProcessPool, FuturesTimeout) as error:
        _apart().shutdown(wait=True, kill_workers=True)
        _apart.cache_clear()
        told = f"no answer within {PATIENCE} s" if isinstance(error, FuturesTimeout) else f"the process died: {error}"
        raise RankFailed(told) from error


def _answer(work: Callable[[Any], Any], given: Any, store: str, rank: int) -> tuple[str, int, Any]:
    """In a process: what came of the work, without the exception itself, which may not travel."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if not dist.is_initialized():
        group = dist.FileStore(store, PROCESSES)  # type: ignore[attr-defined]
        patience = timedelta(seconds=PATIENCE)
        dist.init_process_group("gloo", store=group, rank=rank, world_size=PROCESSES, timeout=patience)
    dist.barrier()  # a process that is not through yet would otherwise take both calls
    rank = dist.get_rank()
    try:
        return "done", rank, work(given)
    except Incompatible as error:
        return "refused", rank, str(error)
    except Exception as error:
        return "failed", rank, f"process {rank}: {type(error).__name__}: {error}"


def _read(future: Any) -> tuple[str, int, Any]:
    try:
        result: tuple[str, int, Any] = future.result()
        return result
    except Exception as error:
        return "failed", -1, f"{type(error).__name__}: {error}"


def _let_travel() -> None:
    """Have loky send code that the processes cannot import along with what is given."""
    import cloudpickle

    for module in [m for name, m in list(sys.modules.items()) if _local(name, m)]:
        cloudpickle.register_pickle_by_value(module)


def _local(name: str, module: Any) -> bool:
    """Whether a module came from a file that another process would not find by its name."""
    file = str(getattr(module, "__file__", None) or "")
    installed = file.startswith(_INSTALLED) or "site-packages" in file
    return file.endswith(".py") and not installed and getattr(module, "__name__", "") == name and _elsewhere(name, file)


@cache
def _elsewhere(name: str, file: str) -> bool:
    parts, place, spec = name.split("."), None, None
    for i in range(len(parts)):
        spec = importlib.machinery.PathFinder.find_spec(".".join(parts[: i + 1]), place)
        if spec is None:
            return True
        place = spec.submodule_search_locations
    return spec is None or spec.origin is None or not Path(spec.origin).samefile(file)


def _needs_group() -> None:
    import torch.distributed as dist

    _needs_loky()
    if not dist.is_available() or not dist.is_gloo_available():
        raise Skipped("this torch has no gloo to let two processes talk")


def _needs_loky() -> None:
    try:
        import loky  # noqa: F401
    except ImportError:
        raise Skipped("needs other processes, which loky starts: pip install 'mmzoo[test]'") from None


@cache
def _apart() -> Any:
    from loky import ProcessPoolExecutor

    return ProcessPoolExecutor(1, timeout=None, env={"OMP_NUM_THREADS": "1"})


@cache
def _pool() -> Any:
    from loky import ProcessPoolExecutor

    return ProcessPoolExecutor(PROCESSES, timeout=None, env={"OMP_NUM_THREADS": "1"})


def _stop() -> None:
    """End the processes: after a failure they may no longer be at the same place."""
    _pool().shutdown(wait=True, kill_workers=True)
    _pool.cache_clear()

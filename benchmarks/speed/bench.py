"""Where the processor time of a bench of small models goes: a sampling profile of one worker that does all of its runs.

Every 2 ms of processor time the stack is looked at. A sample counts for the innermost of PARTS that is on it, so the shares
add up to 100 %.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

#: what a part is called -> (end of the file's name, function), the innermost that is found
PARTS: dict[str, Sequence[tuple[str, str]]] = {
    "training steps": [("training/run.py", "step")],
    "ends of epochs (a method's own)": [("training/run.py", "end_epoch"), ("training/run.py", "start_epoch")],
    "batches": [("training/run.py", "epoch_batches")],
    "scores of an epoch": [("training/loop.py", "scored")],
    "linear probes": [("evaluation/predictions.py", "on")],
    "final scores and ablations": [("execution/scoring.py", "score")],
    "operations of the model": [("evaluation/complexity.py", "complexity")],
    "data": [("execution/building.py", "data_of"), ("execution/building.py", "answers_of")],
    "models and strategies": [("execution/building.py", "__init__"), ("execution/fitting.py", "begin")],
    "environment": [("execution/device.py", "environment")],
    "files": [("io/files.py", "write_bytes"), ("io/files.py", "write_json")],
    "imports": [("<frozen importlib._bootstrap>", "_find_and_load")],
    "plan": [("planning/plan.py", "make_plan")],
}
_OF = {at: part for part, functions in PARTS.items() for at in functions}


#: functions that a profile lists
MOST = 60


def _main_job() -> tuple[str, Sequence[str], Sequence[int]]:
    return "dynamic_gap_lb", ("ogm", "pmr"), range(3)


def _all_methods() -> tuple[str, Sequence[str], Sequence[int]]:
    import yaml

    suite = yaml.safe_load((Path(__file__).parents[1] / "methods.yaml").read_text())
    return suite["method"], suite["baselines"], range(5)


#: name -> method, baselines and seeds of a bench on the bundled data
BENCHES: dict[str, Callable[[], tuple[str, Sequence[str], Sequence[int]]]] = {"main": _main_job, "all": _all_methods}


def _functions(frame: FrameType | None) -> set[str]:
    """Every function on the stack, as `folder/file.py function`."""
    found = set()
    while frame is not None:
        code = frame.f_code
        found.add("/".join(code.co_filename.replace("\\", "/").split("/")[-2:]) + " " + code.co_name)
        frame = frame.f_back
    return found


def _part(frame: FrameType | None) -> str:
    while frame is not None:
        code = frame.f_code
        name = code.co_filename.replace("\\", "/")
        if part := _OF.get(("/".join(name.split("/")[-2:]), code.co_name)):
            return part
        frame = frame.f_back
    return "all else"


def profile(method: str, baselines: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """Do all runs of a bench on the bundled data in this process, and say where the time went.

    Returns:
        `parts`: part -> per cent of the processor time; `seconds`, `runs`; `first_step`: processor seconds from the start
        of the process to the first training step, imports included; `functions`: the functions that most of the time
        was spent in or below -> per cent.
    """
    seen: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    first: list[float] = []

    def look(_: int, frame: FrameType | None) -> None:
        seen[_part(frame)] += 1
        inside.update(_functions(frame))

    signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, 0.002, 0.002)
    import torch

    torch.set_num_threads(1)
    from mmzoo.benchmark.planning.plan import make_plan
    from mmzoo.benchmark.results.store import Store
    from mmzoo.benchmark.scheduling.worker_loop import Order, work
    from mmzoo.config.spec import BenchSpec
    from mmzoo.registry.plugins import catalogue
    from mmzoo.training.run import Run

    plain = Run.step

    def step(self: Run, batch: Any) -> None:
        first.append(time.process_time())
        Run.step = plain  # type: ignore[method-assign]
        plain(self, batch)

    Run.step = step  # type: ignore[method-assign]
    plan = make_plan(BenchSpec(method, baselines=tuple(baselines), seeds=tuple(seeds)), catalogue())
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.prepare()
        work(Order.of(plan.runs, store, device="cpu", checkpoint_every=30.0), store, catalogue())
    signal.setitimer(signal.ITIMER_PROF, 0, 0)
    total = sum(seen.values())
    return {
        "what": f"{method} and {', '.join(baselines)}"
        if len(baselines) < 5
        else f"{method} and {len(baselines)} others",
        "runs": len(plan.runs),
        "seconds": round(time.process_time(), 1),
        "first_step": round(first[0], 2),
        "parts": {part: round(100 * n / total, 1) for part, n in seen.most_common()},
        "functions": {name: round(100 * n / total, 1) for name, n in inside.most_common(MOST)},
    }

"""Workers that are killed, cannot start, or end with their bench."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.killed_workers import rows_of
from helpers.places import ROOT

from mmzoo.benchmark.execution import building
from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.planning.planned import Plan, Planned
from mmzoo.benchmark.results import leases
from mmzoo.benchmark.results.leases import read_claim
from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.scheduling.launchers import launch, local
from mmzoo.benchmark.scheduling.worker_loop import Order, Progress
from mmzoo.errors import MmzooError
from mmzoo.registry import Catalogue

MakePlan = Callable[..., Plan]
SMALL = ("--seeds", "1", "--epochs", "1", "--device", "cpu")


# ---------------------------------------------------------------------- worker processes
class Killing(Progress):
    """Kills the worker that is at a run, once, when the first row is there."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store, self.killed, self.rows = store, 0, 0

    def settled(self, planned: Planned, row: dict[str, Any]) -> None:
        self.rows += 1

    def epoch(self, planned: Planned, done: int) -> None:
        held = read_claim(self.store.folder(planned.spec.run_id))
        if self.rows and not self.killed and held is not None and held.alive and held.pid != os.getpid():
            self.killed = held.pid
            os.kill(held.pid, signal.SIGKILL)


def test_a_worker_that_is_killed_costs_no_row(results: Path, tmp_path: Path, plan: MakePlan) -> None:
    """Two processes, one of them killed at a run, give the rows of one process to the bit."""
    runs = plan("dynamic_gap_lb", baselines=("ogm", "pmr"), references=True).runs
    store = Store(tmp_path)
    progress = Killing(store)
    launch(Order.of(runs, store, device="cpu", checkpoint_every=0), store, progress, workers=2)
    assert progress.killed and progress.rows == len(runs) and progress.unsaved == {}
    assert rows_of(tmp_path) == rows_of(results)
    logs = "".join(p.read_text() for p in tmp_path.glob("runs/*/log.txt"))
    assert logs.count("ends: ok") == len(runs) and f"taken over from process {progress.killed} on" in logs
    assert not [*tmp_path.rglob("claim.*"), *tmp_path.rglob("*.tmp")]


def _mind_ctrl_c() -> None:
    """A shell starts what it runs in the background deaf to Ctrl-C, and so would tests that are run there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_bench(tmp_path: Path, sign: signal.Signals) -> None:
    command = [
        sys.executable,
        "-m",
        "mmzoo",
        "bench",
        "--method",
        "concat",
        "--no-references",
        "--seeds",
        "4",
        "--epochs",
        "400",
        "--device",
        "cpu",
        "--workers",
        "2",
        "--out",
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=_mind_ctrl_c
    )
    at_work: dict[str, Any] = {}
    until = time.monotonic() + 240
    while len(at_work) < 2 and time.monotonic() < until and process.poll() is None:
        found = {i: read_claim(Store(tmp_path).folder(i)) for i in Store(tmp_path).run_ids()}
        at_work = {k: held for k, held in found.items() if held is not None and held.alive and held.of}
        time.sleep(0.1)
    process.send_signal(sign)
    out, err = process.communicate(timeout=120)
    assert len(at_work) == 2, out + err
    while any(leases.start_of(h.pid) for h in at_work.values()) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(leases.start_of(h.pid) for h in at_work.values())
    # Told to stop, they let go: the next bench need not wait, and this counts as nobody's death.
    assert all((held := read_claim(tmp_path / "runs" / k)) and held.released for k in at_work)
    if sign == signal.SIGINT:
        assert process.returncode == 130 and "All finished rows are kept" in err and "Traceback" not in err


def test_what_stops_a_worker_from_starting_is_told(
    tmp_path: Path, plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    order = Order.of(plan("concat").runs, store, device="cpu", checkpoint_every=0)
    monkeypatch.setattr(local, "_environment", lambda: {**os.environ, "PYTHONPATH": str(tmp_path)})
    (tmp_path / "mmzoo").mkdir()
    (tmp_path / "mmzoo" / "__init__.py").write_text("raise RuntimeError('half an installation')")
    with pytest.raises(MmzooError, match="half an installation"):
        launch(order, store, Progress(), workers=2)


def test_how_many_workers_there_are_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [local.default_workers(n) for n in (1, 4, 60)] == [1, 4, 6]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert local.default_workers(60) == 2
    monkeypatch.setattr(local, "cores", lambda: 200)
    assert local.default_workers(60) == local.MOST


def test_large_models_are_left_to_one_worker(
    tmp_path: Path, plan: MakePlan, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from mmzoo.benchmark.scheduling.worker_loop import work

    store = Store(tmp_path)
    order = replace(Order.of(plan("concat").runs, store, device="cpu", checkpoint_every=0), small_only=True)
    monkeypatch.setattr(building, "SMALL", 10)
    assert work(order, store, catalogue) == {} and rows_of(tmp_path) == {}
    monkeypatch.undo()
    assert work(order, store, catalogue) == {} and len(rows_of(tmp_path)) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--launcher", "rey"), "Did you mean 'ray'?"),
        (("--workers", "0"), "--workers must be a whole number from 1"),
        (("--workers", "many"), "--workers must be"),
        (("--checkpoint-every", "-1"), "--checkpoint-every must be"),
        (("--checkpoint-every", "nan"), "--checkpoint-every must be"),
        (("--launcher-arg", "x=1"), "local takes no"),
    ],
)
def test_what_cannot_be_launched_is_refused(
    refused: Callable[..., str], tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    message = refused("bench", "--method", "concat", *SMALL, "--out", tmp_path / "out", *arguments)
    assert says in message and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("launcher", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_launcher_that_is_not_installed_says_how_to(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str, package: str
) -> None:
    real = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else real(name))
    message = refused("bench", "--method", "concat", *SMALL, "--out", tmp_path, "--launcher", launcher)
    assert f"pip install 'mmzoo[{launcher}]'" in message and package in message


def test_a_run_that_takes_processes_down_with_it_becomes_a_row(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path
) -> None:
    (planned,) = plan("concat").runs
    store = Store(tmp_path)
    folder = store.folder(planned.spec.run_id)
    folder.mkdir(parents=True)
    facts = {"place": leases.here(), "pid": 2**22 + 1, "started": "1", "bench": "b", "deaths": 2}
    (folder / "claim.3").write_text(json.dumps(facts))
    row = run_one(planned, catalogue, store, bench="b")
    assert row["status"] == "failed" and "3 processes in a row were killed" in row["reason"]
    assert run_one(planned, catalogue, store, bench="the next")["status"] == "ok"

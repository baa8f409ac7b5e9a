"""The launcher `slurm` against programs of SLURM's names that start the jobs here: what it asks of them, and what it makes of a
job that is gone."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.places import ROOT
from helpers.result_files import lasting, rows_of

from mmzoo.benchmark.planning.planned import planned_runs
from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.scheduling import worker_loop
from mmzoo.benchmark.scheduling.launchers import slurm
from mmzoo.benchmark.scheduling.worker_loop import Order, Progress

Command = Callable[..., Any]
SMALL = ("--datasets", "mfeat", "--seeds", "1", "--epochs", "2", "--device", "cpu")
#: starts each job of an array as a process of its own; the first that is ever submitted dies without a word
SBATCH = """
import os, pathlib, re, subprocess, sys
home, script = pathlib.Path(os.environ["FAKE_SLURM"]), pathlib.Path(sys.argv[1])
number = 1 + len(list(home.glob("submitted.*")))
(home / f"submitted.{number}").write_text(script.read_text())
array = re.search(r"--array=(\\d+)-(\\d+)", script.read_text())
for task in range(int(array[1]), int(array[2]) + 1) if array else [None]:
    job = {"SLURM_JOB_ID": str(number), "SLURM_LOCALID": "0", "SLURM_PROCID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS": "1",
           "SLURM_JOB_NUM_NODES": "1"}
    job |= {} if task is None else {"SLURM_ARRAY_JOB_ID": str(number), "SLURM_ARRAY_TASK_ID": str(task)}
    command = ["false"] if number == 1 and not task else ["bash", str(script)]
    process = subprocess.Popen(command, env={**os.environ, **job}, start_new_session=True,
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    (home / ("job." + (str(number) if task is None else f"{number}_{task}"))).write_text(str(process.pid))
print(f"Submitted batch job {number}")
"""
SRUN = """
import os, sys
rest = sys.argv[1:]
while rest[0].startswith("--"):
    rest = rest[2 if rest[0] in ("--output", "--error") else 1:]
os.execvp(rest[0], rest)
"""
SQUEUE = """
import os, pathlib
for path in pathlib.Path(os.environ["FAKE_SLURM"]).glob("job.*"):
    stat = pathlib.Path(f"/proc/{path.read_text()}/stat")
    if stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        print(path.suffix[1:])
"""
SACCT = """
import sys
sys.exit("Slurm accounting storage is disabled")
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "fake"
    home.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "squeue": SQUEUE, "sacct": SACCT, "scancel": "\n"}.items():
        (home / name).write_text(f"#!{sys.executable}{text}")
        (home / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(home))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(slurm, "LOOK", 0.5)
    return home


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc which processes there are")
def test_a_job_that_dies_where_no_accounts_are_kept_is_submitted_anew(
    fake: Path, mmzoo: Command, tmp_path: Path
) -> None:
    pytest.importorskip("submitit", reason="needs submitit: pip install 'mmzoo[slurm]'")
    arguments = ("bench", "--method", "ogm", "--no-references", *SMALL)
    options = ("--launcher", "slurm", "--workers", "1", "--launcher-arg", "slurm_partition=gpu")
    done = mmzoo(*arguments, *options, "--out", tmp_path / "jobs")
    assert done.code == 0, done.err
    submitted = sorted(fake.glob("submitted.*"))
    assert len(submitted) == 2 and all("--partition=gpu" in path.read_text() for path in submitted)
    assert mmzoo(*arguments, "--workers", "1", "--out", tmp_path / "straight").code == 0
    ours, theirs = ({k: lasting(row) for k, row in rows_of(tmp_path / out).items()} for out in ("jobs", "straight"))
    assert ours == theirs and len(ours) == 1


def test_who_is_missing_at_two_looks_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[set[str] | None] = [{"1_0"}, None, {"1_0"}, {"1_0", "1_1"}, {"1_0"}, {"1_0"}, {"1_0"}]
    monkeypatch.setattr(slurm, "_queued", lambda: answers.pop(0))
    monkeypatch.setattr(slurm, "LOOK", 0.0)
    queue = slurm._Queue()
    found = [queue.lost({"1_0", "1_1"}) for _ in range(6)]
    # Missing, no answer, missing, there, missing, missing again.
    assert found == [set(), set(), set(), set(), set(), {"1_1"}]
    assert queue.lost({"1_0"}) == set()


def test_a_queue_that_does_not_answer_loses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert slurm._queued() is None and not slurm._keeps_accounts()


def test_a_cluster_without_slurm_is_refused(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="needs submitit: pip install 'mmzoo[slurm]'")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    message = refused("bench", "--method", "ogm", *SMALL, "--out", tmp_path, "--launcher", "slurm")
    assert "there is no sbatch" in message


def test_with_every_row_there_nobody_waits_for_jobs_that_stay(
    mmzoo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("bench", "--method", "concat", "--no-references", *SMALL, "--workers", "1", "--out", tmp_path)
    assert mmzoo(*arguments).code == 0
    store = Store(tmp_path)
    looks = iter([True] * 3)  # a fourth one raises
    worker_loop.watch(
        Order(tuple(planned_runs(store, store.run_ids()))), store, Progress(), lambda: next(looks), linger=0.0
    )

"""The launcher submitit: the same rows, and options that it does not know."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.killed_workers import rows_of
from helpers.places import ROOT

SMALL = ("--seeds", "1", "--epochs", "1", "--device", "cpu")


def test_jobs_of_submitit_give_the_same_rows(results: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="needs submitit: pip install 'mmzoo[slurm]'")
    command = [
        sys.executable,
        "-m",
        "mmzoo",
        "bench",
        "--method",
        "ogm",
        "--no-references",
        *SMALL,
        "--launcher",
        "slurm",
        "--launcher-arg",
        "cluster=local",
        "--workers",
        "1",
        "--out",
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MMZOO_PLUGINS": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    ours, theirs = rows_of(tmp_path), rows_of(results)
    assert len(ours) == 1 and all(theirs[k] == row for k, row in ours.items())


def test_an_option_that_submitit_does_not_know_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="needs submitit: pip install 'mmzoo[slurm]'")
    arguments = ("bench", "--method", "ogm", *SMALL, "--out", tmp_path, "--launcher", "slurm", "--launcher-arg")
    assert "one of slurm, local, debug" in refused(*arguments, "cluster=cloud")
    message = refused(*arguments, "cluster=local", "--launcher-arg", "slurm_partitoin=gpu")
    assert "slurm_partitoin" in message and "AutoExecutor" in message

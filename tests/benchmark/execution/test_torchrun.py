"""One run over two processes that torchrun has started: the single process's numbers, one voice, and no hang."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.torchrun_programs import ASKED, METHODS, PAIRS, PROGRAM, start
from safetensors.torch import load_file

from mmzoo.api import Run
from mmzoo.benchmark.execution import building
from mmzoo.benchmark.results.store import Store
from mmzoo.cli import main
from mmzoo.evaluation import predictions


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torchrun")
    (folder / "program.py").write_text(PROGRAM)
    (folder / "mine.py").write_text(METHODS)
    (folder / "pairs.py").write_text(PAIRS)
    return folder


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {r["label"]: r for r in Store(folder).rows()[0]}


@pytest.fixture(scope="module")
def two(place: Path) -> subprocess.CompletedProcess[str]:
    """A bench under torchrun, with methods that do not go well."""
    methods = ",".join([*(f"mine.py:{name}" for name in ("Stumbles", "Apart", "Single")), "ogm", "dynamic_gap_lb"])
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    return start(
        place, *torchrun, "program.py", "bench", "--method", "concat", "--baselines", methods, *ASKED, "--out", "two"
    )


@pytest.fixture(scope="module")
def one(place: Path) -> Path:
    """The same, but for those methods, in this process."""
    sys.path.insert(0, str(place))
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (building, "load_data"),
            (building, "build_model"),
            (predictions, "fit_probe"),
            (Run, "train_epoch"),
        ):
            patch.setattr(owner, name, getattr(owner, name))  # to be put back as it is
        __import__("program")
        methods = ("bench", "--method", "concat", "--baselines", "ogm,dynamic_gap_lb")
        assert main([*methods, *ASKED, "--out", str(place / "one")]) == 0
    sys.path.remove(str(place))
    return place / "one"


@pytest.fixture(scope="module")
def pairs(two: Any, place: Path) -> dict[str, Any]:
    """What came of pairs of processes, which one that has imported all forks as torchrun would start them: the first is killed
    in the second epoch, the next goes on from there, and the last is asked for what there is not."""
    done = start(place, "pairs.py", json.dumps(["bench", "--method", "dynamic_gap_lb", *ASKED, "--out", "killed"]))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("method", ["concat", "ogm", "dynamic_gap_lb"])
def test_two_processes_end_where_one_does(two: Any, one: Path, place: Path, method: str) -> None:
    alone, shared = rows_of(one)[method], rows_of(place / "two")[method]
    assert (alone["processes"], shared["processes"]) == (1, 2) and alone["run_id"] != shared["run_id"]
    assert alone["metrics"]["selected_epoch"] == shared["metrics"]["selected_epoch"]
    assert shared["metrics"]["n_scored"] == shared["metrics"]["n_total"] == 500
    assert alone["cost"] == shared["cost"]
    differing = {name for name, value in alone["hashes"].items() if shared["hashes"][name] != value}
    assert "weights" in differing and differing <= {"weights", "strategy", "predictions"}
    folders = [one / "runs" / alone["run_id"], place / "two" / "runs" / shared["run_id"]]
    weights = [load_file(folder / "weights.safetensors") for folder in folders]
    for name, value in weights[0].items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-6)
    epochs = [[json.loads(line) for line in (folder / "history.jsonl").open()] for folder in folders]
    for a, b in zip(*epochs, strict=True):
        assert a["train"] == pytest.approx(b["train"], abs=1e-6)
        assert a["holdout"]["loss"] == pytest.approx(b["holdout"]["loss"], abs=1e-6)
        assert a["holdout"]["acc"] == b["holdout"]["acc"]


def test_what_goes_wrong_in_one_process_is_a_row_and_the_rest_goes_on(
    two: subprocess.CompletedProcess[str], place: Path
) -> None:
    done, rows = two, rows_of(place / "two")
    assert done.stdout.count("Plan: 5 runs") == done.stdout.count("### mfeat: test scores") == 1
    assert "not on mfeat: mine.py:Single: mine.py:Single trains in one process: it says so." in done.stdout
    stumbled, apart = rows["mine.py:Stumbles"], rows["mine.py:Apart"]
    assert stumbled["status"] == apart["status"] == "failed"
    assert re.fullmatch(
        r"MmzooError: process 1: ZeroDivisionError: division by zero \(\S+/mine\.py:\d+\)", stumbled["reason"]
    )
    assert "1 / 0" in (place / "two" / "runs" / stumbled["run_id"] / "log.txt").read_text()
    assert "MmzooError: process 1 has other weights than the first" in apart["reason"]
    assert "come apart in epoch 0" in apart["reason"]
    assert done.returncode == 1 and done.stderr.count("mmzoo: 2 runs failed") == 1
    assert [rows[m]["status"] for m in ("concat", "ogm", "dynamic_gap_lb")] == ["ok"] * 3
    assert not list((place / "two").glob("runs/*/claim.*"))


def test_a_process_that_is_killed_ends_the_other_and_the_same_command_goes_on(
    pairs: dict[str, Any], place: Path
) -> None:
    died, again = pairs["died"], pairs["again"]
    assert died["codes"] == [1, -9] and again["codes"] == [0, 0]
    assert died["err"][0].count("mmzoo: torchrun ends this bench, as it does if one of its 2 processes has died") == 1
    (row,) = rows_of(place / "killed").values()
    folder = place / "killed" / "runs" / row["run_id"]
    log = (folder / "log.txt").read_text()
    assert "starts at epoch 0" in log and "resumes after epoch 1 of 2" in log and log.count("ends: ok") == 1
    assert not (folder / "checkpoint.pt").exists()
    whole = rows_of(place / "two")["dynamic_gap_lb"]
    for key in row.keys() - {"timing", "environment"}:
        assert row[key] == whole[key], key


def test_bad_input_is_one_message(pairs: dict[str, Any], place: Path) -> None:
    bad = pairs["bad"]
    assert bad["codes"] == [2, 2] and bad["out"] == ["", ""] and bad["err"][1] == ""
    assert bad["err"][0].startswith("mmzoo: no method 'ogmm'") and bad["err"][0].count("\n") == 1
    assert not (place / "bad").exists()

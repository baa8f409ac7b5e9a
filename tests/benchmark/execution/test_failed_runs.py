"""Runs that diverge, fail, are refused or meet a full disk."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.result_files import contents, rows_of

from mmzoo.benchmark.execution import building, session
from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.planning.planned import Plan
from mmzoo.benchmark.results.store import Store
from mmzoo.registry import Catalogue
from mmzoo.training.strategy import Strategy

Command = Callable[..., Any]
MakePlan = Callable[..., Plan]
SMALL = ("--seeds", "1", "--epochs", "1", "--device", "cpu")


# ---------------------------------------------------------------------- runs that do not end well
def test_a_run_that_diverges_says_so_and_is_final(mmzoo: Command, tmp_path: Path) -> None:
    arguments = (
        "bench",
        "--method",
        "concat",
        "--no-references",
        *SMALL,
        "--set",
        "train.lr=1000000000.0",
        "--set",
        "train.momentum=1000000000.0",
        "--out",
        tmp_path,
    )
    done = mmzoo(*arguments)
    assert done.code == 0
    (row,) = rows_of(tmp_path).values()
    assert row["status"] == "diverged" and row["metrics"] == {} and "epoch 0: loss/task is" in row["reason"]
    assert "diverged: epoch 0" in done.out and "A smaller learning rate" in done.out
    assert "there already: 1, to do: 0" in mmzoo(*arguments).out
    for form in ("md", "csv", "json", "latex"):
        assert mmzoo("report", tmp_path, "--format", form).code == 0


def test_scores_that_are_not_finite_make_a_diverged_run(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmzoo.evaluation.scores.gap", lambda scores: float("nan"))
    (planned,) = plan("concat").runs
    row = run_one(planned, catalogue, Store(tmp_path))
    assert row["status"] == "diverged" and row["reason"] == "test gap own is nan"
    assert rows_of(tmp_path) == {planned.spec.run_id: row}


def test_a_run_that_fails_is_logged_and_tried_again(
    mmzoo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("out of <paper> | ink")

    arguments = ("bench", "--method", "ogm", "--baselines", "concat", "--no-references", *SMALL, "--out", tmp_path)
    real = building.build_strategy
    monkeypatch.setattr(
        building, "build_strategy", lambda c, parts: fail() if parts[0].strategy == "ogm" else real(c, parts)
    )
    done = mmzoo(*arguments)
    assert done.code == 1 and "1 run failed" in done.err and "Traceback" not in done.err
    failed = next(r for r in rows_of(tmp_path).values() if r["label"] == "ogm")
    assert failed["status"] == "failed" and re.fullmatch(
        r"RuntimeError: out of <paper> \| ink \(execution/test_failed_runs\.py:\d+\)", failed["reason"]
    )
    assert "Traceback" in (tmp_path / "runs" / failed["run_id"] / "log.txt").read_text()
    assert r"out of &lt;paper&gt; \| ink" in done.out
    monkeypatch.setattr(building, "build_strategy", real)
    again = mmzoo(*arguments)
    assert again.code == 0 and "there already: 1, to do: 1" in again.out
    assert {r["status"] for r in rows_of(tmp_path).values()} == {"ok"}


def test_what_only_the_class_knows_makes_a_refused_row(
    mmzoo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Choosy(Strategy):
        min_modalities = 3

    monkeypatch.setattr(building, "build_strategy", lambda catalogue, parts: Choosy())
    arguments = ("bench", "--method", "concat", "--no-references", *SMALL, "--out", tmp_path)
    done = mmzoo(*arguments)
    (row,) = rows_of(tmp_path).values()
    assert done.code == 0 and row["status"] == "refused" and row["metrics"] == {}
    assert row["reason"].startswith("Choosy needs at least 3 modalities") and row["reason"] in done.out
    monkeypatch.undo()
    assert "there already: 1, to do: 0" in mmzoo(*arguments).out
    monkeypatch.setattr("mmzoo.benchmark.results.store.__version__", "99")  # another version, which takes it
    assert "there already" not in mmzoo(*arguments).out
    assert {r["status"] for r in rows_of(tmp_path).values()} == {"ok"}


def test_a_disk_that_is_full_stops_with_the_rows_kept(
    copied: Path, mmzoo: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = contents(copied / "runs")
    monkeypatch.setattr("mmzoo.benchmark.results.store.write_sealed", full)
    monkeypatch.setattr(session.Session, "train_and_score", lambda self: {})
    done = mmzoo("bench", "--method", "sum", "--no-references", *SMALL, "--out", copied)
    assert done.code == 2 and "No space left on device" in done.err and "All finished rows are kept" in done.err
    assert "Traceback" not in done.err and contents(copied / "runs") == before

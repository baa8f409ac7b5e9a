"""Tuning that is stopped: what it says, what the status counts, and that the same command resumes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmzoo.benchmark import tune
from mmzoo.benchmark.results.records import as_settings
from mmzoo.benchmark.results.store import Store

pytest.importorskip("optuna")

Command = Callable[..., Any]
OPTIONS = ("--method", "ogm", "--baselines", "pmr", "--no-references", "--seeds", 1, "--epochs", 1)


def trial_of(planned: Any) -> dict[str, Any]:
    rate = planned.spec.training.lr
    return {
        "score": rate / (1 + rate),
        "loss": 1.0,
        "epoch": 0,
        "status": "ok",
        "reason": "",
        "seconds": 0.1,
    } | dict.fromkeys(("forward", "backward"), 1.0)


def test_stopped_tuning_is_counted_and_resumes(mmzoo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def scored(planned: Any, catalogue: Any, device: str) -> dict[str, Any]:
        calls.append(planned.label)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return trial_of(planned)

    monkeypatch.setattr(tune, "score_trial", scored)
    command = ("tune", *OPTIONS, "--device", "cpu", "--datasets", "mfeat", "--trials", 3)
    stop_at = 6
    stopped = mmzoo(*command, "--out", tmp_path / "a")
    assert stopped.code == 130 and stopped.err == (
        "mmzoo: stopped. Finished trials are kept: the same command resumes with the rest.\n"
    )
    said = mmzoo("status", tmp_path / "a")
    assert said.code == 0 and "tuning: 2 studies, 5 finished trials" in said.out
    assert "  tuned    mfeat ogm: 3 trials" in said.out and "  stopped  mfeat pmr: 2 of 3 trials" in said.out
    assert "command resumes" in said.out
    found = json.loads(mmzoo("status", tmp_path / "a", "--json").out)
    assert found["runs"] == [] and sorted(s["trials"] for s in found["tuning"]) == [2, 3]
    stop_at = 0
    calls.clear()
    assert mmzoo(*command, "--out", tmp_path / "a").code == 0 and calls == ["pmr"]
    assert mmzoo(*command, "--out", tmp_path / "b").code == 0
    trials = [
        {
            n: Store(tmp_path / x).tuning(n)["trials"]
            for n in sorted(p.name for p in (tmp_path / x / "tuning").iterdir())
        }
        for x in "ab"
    ]
    assert trials[0] == trials[1] and len(trials[0]) == 2
    record = next((tmp_path / "a" / "tuning").glob("*/record.json"))
    record.write_text("[]")
    said = mmzoo("status", tmp_path / "a")
    assert said.code == 2 and "record of tuning" in said.out


def test_a_stopped_bench_says_that_trials_are_kept(
    mmzoo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(tune, "score_trial", interrupted)
    stopped = mmzoo("bench", *OPTIONS, "--device", "cpu", "--datasets", "mfeat", "--tune", 2, "--out", tmp_path)
    assert stopped.code == 130 and f"All finished rows and trials are kept in {tmp_path}" in stopped.err


@pytest.mark.parametrize(
    ("method", "strategies", "values", "said"),
    [
        ("ogm (tuned)", ["ogm"], {"train.lr": 0.0123449, "0.alpha": 0.5}, "ogm.alpha=0.5 train.lr=0.01234"),
        ("dynamic_gap_h", ["dynamic_gap"], {"0.start": 1}, "dynamic_gap_h.start=1"),
        ("ogm:0-0+pmr@sum", ["ogm", "pmr"], {"1.momentum": 0.5, "head.k": 2}, "pmr.momentum=0.5 ogm.head.k=2"),
        ("dynamic_gap", ["dynamic_gap", "refit"], {"1.l2": 0.5}, "refit.l2=0.5"),
        ("a method of nobody", ["x"], {"0.y": 0.5, "7.z": 1}, "x.y=0.5 7.z=1"),
    ],
)
def test_values_of_a_trial_are_named_as_set_takes_them(
    method: str, strategies: list[str], values: dict[str, float], said: str
) -> None:
    assert as_settings(values, method, strategies) == said

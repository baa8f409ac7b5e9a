"""What torchrun and the bench both want to decide, and what a row says of several processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mmzoo.benchmark.execution import torchrun
from mmzoo.benchmark.execution.building import Kit, data_of
from mmzoo.benchmark.execution.device import check_device
from mmzoo.benchmark.execution.process_notes import per_process
from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.benchmark.planning.planned import Plan
from mmzoo.benchmark.results.store import Store
from mmzoo.config.spec import BenchSpec
from mmzoo.errors import BadValue
from mmzoo.registry import Catalogue

Command = Callable[..., Any]


# ---------------------------------------------------------------------- in this process
@pytest.fixture
def as_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torchrun had started this process and another."""
    for key, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(torchrun, "split", lambda command, argv: command())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--workers", "2"), "workers under torchrun"),
        (("--launcher", "slurm"), "--launcher slurm under torchrun"),
        (("--tune", "3"), "tuning under torchrun"),
        (("--set", "train.processes=2"), "torchrun decides"),
        (("--set", "train.batch_size=63"), "batch of 63 samples cannot be shared among 2 processes"),
        (("--set", "train.batch_size=2"), "train.batch_size=4"),
    ],
)
def test_what_torchrun_and_the_bench_both_want_to_decide_is_refused(
    as_two: None, refused: Command, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused("bench", "--method", "ogm", *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_a_bench_is_for_all_processes(
    as_two: None, refused: Command, mmzoo: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmzoo.benchmark.python import bench

    assert "tuning under torchrun" in refused("tune", "--method", "ogm", "--trials", "2")
    with pytest.raises(BadValue, match="for one process"):
        bench("ogm")
    monkeypatch.undo()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, shown in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        listed = mmzoo("list", "heads")
        assert listed.code == 0 and bool(listed.out) == shown


def test_each_process_takes_its_own_gpu(as_two: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert check_device("auto") == check_device("cuda") == "cuda:1" and check_device("cpu") == "cpu"
    with pytest.raises(BadValue, match="GPU of its local rank"):
        check_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BadValue, match="process 1 of this machine has no GPU: there are 1"):
        check_device("auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert check_device("auto") == "cpu"


def planned_for(processes: int, *settings: tuple[str, Any], catalogue: Catalogue) -> Plan:
    bench = BenchSpec("concat", seeds=(0,), epochs=1, references=False, settings=settings, processes=processes)
    return make_plan(bench, catalogue)


def test_a_single_process_leaves_a_run_for_two_alone(catalogue: Catalogue, tmp_path: Path) -> None:
    one, two = (planned_for(n, catalogue=catalogue).runs[0] for n in (1, 2))
    assert one.spec.run_id != two.spec.run_id and "processes" not in one.spec.as_dict()["training"]
    row = run_one(two, catalogue, Store(tmp_path))
    assert row["status"] == "failed" and "planned for 2 processes, and here is 1" in row["reason"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((), []),
        ((("encoder.fou.dropout", 0.5),), ["the model draws random numbers (dropout) for 32 samples"]),
        ((("train.batch_size", 998),), ["2 of 1000 training samples are skipped"]),
    ],
)
def test_a_row_says_what_is_otherwise_than_in_a_single_process(
    catalogue: Catalogue, settings: tuple[tuple[str, Any], ...], said: list[str]
) -> None:
    (planned,) = planned_for(2, *settings, catalogue=catalogue).runs
    kit = Kit(catalogue, planned.spec, data_of(catalogue, planned.spec), "cpu", share=(0, 2))
    assert per_process(kit.run(), kit, 1) == []
    found = per_process(kit.run(), kit, 2)
    assert len(found) == len(said) and all(a.startswith(b) for a, b in zip(found, said))


def test_a_row_says_whose_batch_statistics_these_are_and_what_the_method_draws(catalogue: Catalogue) -> None:
    (planned,) = planned_for(2, catalogue=catalogue).runs
    kit = Kit(catalogue, planned.spec, data_of(catalogue, planned.spec), "cpu", share=(0, 2))
    run = kit.run()
    run.model.encoders["fou"].add_module("norm", torch.nn.BatchNorm1d(3))
    run.strategy.stochastic = True  # type: ignore[misc]
    statistics, drawn = per_process(run, kit, 2)
    assert "batch statistics are those of 32 samples" in statistics and "are drawn for 32" in drawn

"""Copies and random numbers as a GPU gets them, seen without one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mmzoo.api import Batch, Incompatible, Run, Strategy, Training
from mmzoo.benchmark.execution.process_notes import _random_state
from mmzoo.bilevel.forward_rules import fault_of
from mmzoo.core.seeding import derive, seeded
from mmzoo.testing.harness import fake_device
from mmzoo.testing.harness.cases import StrategyCase
from mmzoo.testing.harness.ranks import in_another
from mmzoo.testing.harness.report import CHECKS, run_check
from mmzoo.testing.harness.tasks import make_task, placed
from mmzoo.testing.targets import find


class Moved(torch.Tensor):
    """Notes where it is sent, and stays."""

    asked: list[tuple[str, bool]]

    def to(self, device: Any, non_blocking: bool = False) -> Any:
        self.asked.append((str(device), non_blocking))
        return self


def test_the_host_waits_for_copies_to_itself_alone() -> None:
    x = torch.zeros(2).as_subclass(Moved)
    x.asked = []
    batch = Batch({"a": {"ids": x}}, torch.zeros(2).as_subclass(Moved), torch.zeros(2).as_subclass(Moved))
    batch.target.asked = batch.index.asked = x.asked  # type: ignore[attr-defined]
    for device in ("cuda:0", "cpu"):
        x.asked.clear()
        batch.to(device)
        assert x.asked == [(device, device != "cpu")] * 3


def test_a_block_with_numbers_of_its_own_leaves_those_of_a_gpu_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    with seeded(0, "here"):
        expected = torch.rand(3)
    state, seeds = {0: torch.tensor([7])}, []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: state[int(device)])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda value, device: state.update({int(device): value}))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: (seeds.append(seed), state.clear()))
    before = torch.get_rng_state()
    with seeded(0, "here"):
        assert torch.equal(torch.rand(3), expected)
    assert torch.equal(torch.get_rng_state(), before) and seeds == [derive(0, "here")]
    assert state == {0: torch.tensor([7])}


def test_the_random_state_of_a_gpu_is_asked_for_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.tensor([device.index]))
    assert int(_random_state(torch.device("cuda:3"))) == 3
    assert torch.equal(_random_state(torch.device("cpu")), torch.get_rng_state())


def test_nesterov_on_a_gpu_has_no_tangent() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, nesterov=True)
    (group,) = optimizer.param_groups
    assert fault_of(optimizer, group) == ""
    on_gpu = {**group, "params": [SimpleNamespace(is_cuda=True)]}
    assert "nesterov by foreach" in fault_of(optimizer, on_gpu)
    assert "nesterov by foreach" in fault_of(optimizer, {**group, "foreach": True})


# ---------------------------------------------------------------------- contract checks on a device
#: those that hand tensors of their own to hooks, and two others
ONLY = ("purity", "terms", "prediction", "large_logits", "rows_that_count", "frozen", "no_waiting")


def failures(name: str) -> dict[str, str]:
    from mmzoo.registry.plugins import catalogue

    (target,) = find(catalogue(), f"methods/{name}")
    case = target.case()
    case.draws = 1
    with fake_device.device() as there, placed(there):
        results = [run_check(n, CHECKS["strategy"][f"check_{n}"], case) for n in ONLY]
    return {r.name: r.reason for r in results if r.status == "failed"}


def test_the_checks_of_a_strategy_run_on_another_device() -> None:
    assert in_another(failures, "pmr") == {}


def test_a_task_is_on_the_device_in_its_block_alone() -> None:
    case, task = StrategyCase(Strategy), make_task()
    with placed("meta"):
        assert task.batch().target.device.type == "meta" and case.run(task).device.type == "meta"
    assert task.batch().target.device.type == "cpu" and case.run(task).device.type == "cpu"


def test_a_mode_that_gpus_alone_have_is_refused_elsewhere() -> None:
    case, task = StrategyCase(Strategy), make_task()
    with pytest.raises(Incompatible, match="mode of CUDA GPUs"):
        Run(case.model(task), case.new(), train=task.loader("train"), training=Training(tf32=True))

"""What the bench asks of a GPU, with a GPU that is made up."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from mmzoo.benchmark.execution import building, device, memory, team
from mmzoo.benchmark.execution.packing import CudaGauge
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.scheduling import timing
from mmzoo.benchmark.scheduling import worker_loop as work_module
from mmzoo.benchmark.scheduling.launchers import local
from mmzoo.benchmark.scheduling.worker_loop import Order, work
from mmzoo.cli.setup import doctor
from mmzoo.config.spec import BenchSpec
from mmzoo.registry import Catalogue

GIB = 1 << 30


class Gpu:
    """Answers as one with 10 GiB, and notes what was done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        answers: dict[str, Any] = {
            "is_available": lambda: True,
            "device_count": lambda: 1,
            "get_device_name": lambda device: "Made",
            "get_device_properties": lambda device: SimpleNamespace(name="Made", uuid="GPU-1"),
            "mem_get_info": lambda device: (9 * GIB, 10 * GIB),
            "max_memory_reserved": lambda device: 3 * GIB,
            "memory_reserved": lambda device: 2 * GIB,
        }
        for name in ("empty_cache", "init", "reset_peak_memory_stats", "synchronize", "set_device"):
            answers[name] = lambda *given, name=name: self.done.append(f"{name}{given}")
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(monkeypatch)


def test_auto_is_the_gpu_that_is_there(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.check_device("auto") == "cuda" and device.check_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.check_device("auto") == "cpu"


def test_a_gauge_reads_a_gpu(gpu: Gpu) -> None:
    gauge = CudaGauge("cuda:0")
    assert (gauge.name, gauge.free(), gauge.peak()) == ("Made GPU-1", 9 * GIB, 3 * GIB)
    assert gpu.done == [] and gauge.held() == 2 * GIB and gpu.done == ["empty_cache()"]


def test_a_row_names_the_gpu_and_its_peak(gpu: Gpu) -> None:
    device.forget_peak("cuda:0")
    assert gpu.done == ["init()", "reset_peak_memory_stats('cuda:0',)"]
    facts = device.environment("cuda:0")
    assert (facts["gpu"], facts["peak_memory"]) == ("Made", 3 * GIB)
    gpu.done.clear()
    device.forget_peak("cpu")
    assert gpu.done == [] and "gpu" not in device.environment("cpu")


def test_memory_is_given_back(gpu: Gpu) -> None:
    memory.free("cpu")
    assert gpu.done == []
    memory.free("cuda:0")
    building.forget_data("cuda:0")
    assert gpu.done == ["empty_cache()"] * 2


def test_a_step_is_timed_to_its_end(gpu: Gpu) -> None:
    timing._wait("cpu")
    timing._wait("cuda:0")
    assert gpu.done == ["synchronize('cuda:0',)"]


def test_doctor_shows_the_gpu(gpu: Gpu) -> None:
    (found,) = [f.found for f in doctor._device() if f.what == "cuda:0"]
    assert found == "Made, 9.7 GB of 10.7 GB free"


def test_processes_with_gpus_talk_over_nccl(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **_: asked.append(backend))
    monkeypatch.setattr(dist, "PrefixStore", lambda *given: None)
    together = team.Team(None, 0, 2)
    together._form("cuda:1")
    together._form("cpu")
    assert asked == ["cpu:gloo,cuda:nccl", "gloo"] and gpu.done == ["set_device('cuda:1',)"]


def test_a_gpu_may_be_there_where_torch_says_so(gpu: Gpu, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "torch" in sys.modules and local.gpu_likely()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert not local.gpu_likely()


class Asked(Exception):
    """Carries what a card was made of."""


@pytest.mark.parametrize(("packed", "on"), [(True, "cuda:0"), (False, "cuda:0"), (True, "cpu")])
def test_workers_that_share_a_gpu_ask_its_gauge(
    gpu: Gpu, tmp_path: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch, packed: bool, on: str
) -> None:
    def card(store: Store, gauge: CudaGauge) -> Any:
        raise Asked(gauge.name)

    monkeypatch.setattr(work_module, "Card", card)
    monkeypatch.setattr(device, "check_device", lambda name: name)
    plan = make_plan(BenchSpec("concat", seeds=(0,), epochs=1, references=False), catalogue)
    order = replace(Order.of(plan.runs, Store(tmp_path), device=on, checkpoint_every=0), packed=packed, runs=())
    if packed and on == "cuda:0":
        with pytest.raises(Asked, match="Made GPU-1"):
            work(order, Store(tmp_path), catalogue)
    else:
        assert work(order, Store(tmp_path), catalogue) == {}

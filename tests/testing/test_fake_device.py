"""On a device that is made up everything goes as on the CPU, and what would meet a tensor of the CPU there is named."""

from __future__ import annotations

import copy
import io
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from helpers.result_files import lasting, rows_of

from mmzoo.api import Outputs, Run, Step, Strategy, Terms, Training
from mmzoo.benchmark.execution import device as bench_device
from mmzoo.benchmark.python import bench
from mmzoo.heads.channel import Channel
from mmzoo.heads.evidential import Evidential
from mmzoo.heads.shared import Shared
from mmzoo.strategies.agm import AGM
from mmzoo.strategies.dynamic_gap import DynamicGap
from mmzoo.strategies.greedy import Greedy
from mmzoo.strategies.mla import MLA
from mmzoo.strategies.ogm import OGM
from mmzoo.strategies.pmr import PMR
from mmzoo.strategies.tmc import TMC
from mmzoo.strategies.umt import UMT
from mmzoo.testing import check_strategy
from mmzoo.testing.checks.processes import shared_task
from mmzoo.testing.harness import fake_device
from mmzoo.testing.harness.cases import StrategyCase
from mmzoo.testing.harness.ranks import RankFailed, in_another

ONLY = ["check_other_device"]
BENCH: dict[str, Any] = {"baselines": ["umt"], "references": False, "seeds": 1, "epochs": 1, "keep_weights": True}


class OnTheCPU(Strategy):
    """Makes a tensor where none of the others need be."""

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        weight = torch.ones(out.logits.shape[1], dtype=out.logits.dtype)
        return {**terms, "task": terms["task"] + 0.1 * step.mean(step.kept(out.logits) * weight).sum()}


class WhereTheOthersAre(Strategy):
    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        weight = out.logits.new_ones(out.logits.shape[1])
        return {**terms, "task": terms["task"] + 0.1 * step.mean(step.kept(out.logits) * weight).sum()}


def test_a_tensor_on_the_wrong_device_is_named() -> None:
    assert check_strategy(WhereTheOthersAre, only=ONLY).status(*ONLY) == "passed"
    (failed,) = check_strategy(OnTheCPU, only=ONLY, raise_failures=False)
    assert failed.status == "failed"
    assert "mul was given tensors of two devices; of the CPU: (3,)" in failed.reason and "new_zeros" in failed.reason


def steps(case: StrategyCase) -> list[str]:
    """What the steps of an epoch read on the device: forward, hooks, backward, clipping and optimizer."""
    task = shared_task(case, incomplete=False)
    with fake_device.device() as there:
        run = Run(
            case.model(task, norm=True),
            case.new(),
            train=task.loader("train"),
            device=there,
            training=Training(optimizer="adamw", clip=1.0, batch_size=task.batch_size, epochs=1),
        )
        run.start_epoch()
        with fake_device.reads() as found:
            for batch in run.epoch_batches():
                run.step(batch)
        return found


class Looks(Strategy):
    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        if float(terms["task"].detach()) > 1e9:
            step.run.stop()


@pytest.mark.parametrize(
    ("strategy", "head"),
    [
        (Strategy, None),
        (lambda: OGM(noise=True), None),
        (PMR, None),
        (AGM, None),
        (MLA, Shared),
        (TMC, Evidential),
        (Greedy, Channel),
        (DynamicGap, None),
        (UMT, None),
    ],
    ids=["plain", "ogm_ge", "pmr", "agm", "mla", "tmc", "greedy", "dynamic_gap", "umt"],
)
def test_a_step_reads_nothing(strategy: Any, head: Any) -> None:
    assert in_another(steps, StrategyCase(strategy, head=head)) == []


def meetings(_: None) -> dict[str, str]:
    """What becomes of operations with tensors of both devices, as on a GPU."""
    found = {}
    with fake_device.device() as there:
        x, i, mask = torch.arange(4.0, device=there), torch.tensor([0, 2]), torch.tensor([True, False, False, True])
        cpu, g = torch.arange(4.0), torch.Generator()
        for name, do in {
            "add": lambda: x + cpu,
            "add a number": lambda: x + torch.tensor(1.0),
            "index": lambda: x[i],
            "index of the device": lambda: x[i.to(there)],
            "mask": lambda: x[mask],
            "index the CPU": lambda: cpu[i.to(there)],
            "put": lambda: x.index_put_((i,), torch.ones(2)),
            "put there": lambda: x.index_put_((i,), torch.ones(2).to(there)),
            "stack a number": lambda: torch.stack([x[0], torch.tensor(1.0)]),
            "into the CPU": lambda: torch.zeros(()).add_(x[0]),
            "copy": lambda: torch.zeros(4).copy_(x),
            "draw": lambda: torch.rand(3, generator=g, device=there),
            "draw there": lambda: torch.rand(3, generator=torch.Generator(there), device=there),
            "draw in place": lambda: x.bernoulli_(0.5, generator=g),
            "draw here": lambda: torch.rand(3, generator=g),
        }.items():
            try:
                do()
                found[name] = "works"
            except fake_device.TwoDevices:
                found[name] = "two devices"
    return found


def test_what_meets_what() -> None:
    works = {"add a number", "index", "index of the device", "mask", "put there", "copy", "draw there", "draw here"}
    assert {name for name, came in in_another(meetings, None).items() if came == "works"} == works


def copied(_: None) -> dict[str, Any]:
    """What becomes of a module of the device that is copied and saved."""
    with fake_device.device() as there:
        module = torch.nn.Linear(3, 2).to(there)
        module.weight.sum().backward()
        twin, memory = copy.deepcopy([module, module.weight]), io.BytesIO()
        torch.save(module.state_dict(), memory)
        memory.seek(0)
        loaded = torch.load(memory, weights_only=True)
        kinds = {type(p) for p in twin[0].parameters()} | {type(twin[0].weight.grad)}
        with torch.no_grad():
            twin[0].weight.add_(1)
        return {
            "a parameter of the device": kinds == {fake_device.Elsewhere} and len(list(twin[0].parameters())) == 2,
            "takes gradients": twin[0].weight.requires_grad and bool((twin[0].weight.grad.there == 1).all()),
            "the same one twice": twin[1] is twin[0].weight,
            "of its own": torch.equal(twin[0].weight.there, module.weight.there + 1),
            "values in a file": torch.equal(loaded["weight"], module.weight.there),
        }


def test_modules_of_the_device_are_copied_and_saved() -> None:
    assert [what for what, holds in in_another(copied, None).items() if not holds] == []


def looked(_: None) -> list[str]:
    with fake_device.device() as there:
        x = torch.arange(4.0, device=there)
        with fake_device.reads() as found:
            x.tolist()
            torch.repeat_interleave(x, x.long())
            x.masked_select(x > 1)
            x.unique()
            torch.zeros(4).copy_(x)
            x.cpu()
            x + 1  # reads nothing
    return found


def test_what_is_a_read() -> None:
    expected = ["tolist", "repeat_interleave", "masked_select", "_unique2", "copy_", "_to_copy"]
    assert in_another(looked, None) == expected


def dies(_: None) -> None:
    os._exit(3)


def test_a_process_that_dies_is_replaced() -> None:
    with pytest.raises(RankFailed, match="the process died"):
        in_another(dies, None)
    assert in_another(looked, None)


class Recurrent(Strategy):
    """Wants what the device does not know."""

    def setup(self, run: Run) -> None:
        run.add_module("gru", lambda: torch.nn.GRUCell(2, 2))

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        state = step.run.model.extra["gru"](out.logits.new_ones(1, 2))
        return {**terms, "gru/state": state.square().sum()}


def test_what_the_device_does_not_know_is_no_fault() -> None:
    (result,) = check_strategy(Recurrent, only=ONLY)
    assert result.status == "skipped" and "does not support" in result.reason


def test_a_read_is_seen() -> None:
    assert in_another(steps, StrategyCase(Looks)) == ["_local_scalar_dense"] * 2


def bench_away(folder: str) -> None:
    with fake_device.device() as there, mock.patch.object(bench_device, "check_device", lambda name: str(there)):
        bench("mses", **BENCH, out=folder)


def test_a_bench_on_another_device_has_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMZOO_PLUGINS", "")
    in_another(bench_away, str(tmp_path / "away"))
    bench("mses", **BENCH, out=tmp_path / "here", device="cpu")
    found: list[dict[str, Any]] = [{k: lasting(r) for k, r in rows_of(tmp_path / w).items()} for w in ("away", "here")]
    assert found[0] == found[1] and {r["status"] for r in found[0].values()} == {"ok"} and len(found[0]) == 4
    assert all(r["environment"]["device"] == "elsewhere:0" for r in rows_of(tmp_path / "away").values())

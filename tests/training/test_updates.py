"""The update of a run against torch's own `step`, bit for bit; and a worker that loads no compiler."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from mmzoo.training.optim import _step

KINDS: dict[str, Any] = {
    "sgd": lambda g: torch.optim.SGD(g, lr=0.1),
    "momentum": lambda g: torch.optim.SGD(g, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda g: torch.optim.SGD(g, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda g: torch.optim.Adam(g, lr=0.1, weight_decay=0.01),
    "adamw": lambda g: torch.optim.AdamW(g, lr=0.1),
    "other": lambda g: torch.optim.RMSprop(g, lr=0.1),
}


def groups(model: nn.Sequential) -> list[dict[str, Any]]:
    """Two groups of equal rates and one of its own."""
    first, second, third = ([*part.parameters()] for part in (model[0], model[1], model[2]))
    return [{"params": first}, {"params": second}, {"params": third, "lr": 0.03, "weight_decay": 0.2}]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_update_is_that_of_torch_to_the_bit(kind: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 3)).to(dtype)
    theirs = copy.deepcopy(ours)
    one, other = (KINDS[kind](groups(m)) for m in (ours, theirs))
    for i in range(5):
        for j, (p, q) in enumerate(zip(ours.parameters(), theirs.parameters())):
            p.grad = None if (i + j) % 4 == 0 else torch.randn(p.shape, generator=generator, dtype=dtype)
            q.grad = None if p.grad is None else p.grad.clone()
        if i == 3:
            one.param_groups[0]["lr"] = other.param_groups[0]["lr"] = 0.01
        _step(one)
        other.step()
        assert all(torch.equal(p, q) for p, q in zip(ours.parameters(), theirs.parameters()))
    for a, b in zip(one.state_dict()["state"].values(), other.state_dict()["state"].values()):
        assert a.keys() == b.keys()
        assert all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a if a[k] is not None)


def test_what_is_hooked_onto_a_step_is_called() -> None:
    model, calls = nn.Linear(3, 2), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    model(torch.ones(1, 3)).sum().backward()
    _step(optimizer)
    assert calls == [1]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_run_from_plan_to_row_does_not_load_the_compiler(optimizer: str) -> None:
    code = f"""
import sys, tempfile
from pathlib import Path
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.results.store import Store
from mmzoo.config.spec import BenchSpec
from mmzoo.registry.plugins import catalogue
spec = BenchSpec("ogm", seeds=(0,), epochs=1, references=False, settings=(("train.optimizer", "{optimizer}"),))
row = run_one(make_plan(spec, catalogue()).runs[0], catalogue(), Store(Path(tempfile.mkdtemp())))
print(row["status"], "torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "ok False\n", done.stderr

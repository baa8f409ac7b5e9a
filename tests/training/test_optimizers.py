"""The optimizers that a protocol may name."""

from __future__ import annotations

import pytest
import torch

from mmzoo.errors import BadValue
from mmzoo.training.config import FUSED, OPTIMIZERS, Training
from mmzoo.training.optim import build_optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_is_torchs_own_and_takes_the_rate_and_the_decay_of_its_groups(name: str) -> None:
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    found = build_optimizer([{"params": [p], "lr": 0.03, "weight_decay": 0.2}], Training(optimizer=name, lr=0.1))
    assert type(found).__name__.lower() == name.lower() and type(found).__module__.startswith("torch.optim")
    assert (found.param_groups[0]["lr"], found.param_groups[0]["weight_decay"]) == (0.03, 0.2)
    before = p.detach().clone()
    p.square().sum().backward()
    found.step()
    assert (p.detach().abs() < before.abs()).all()


def test_other_names_are_refused_with_those_that_there_are() -> None:
    for name in ("rmsprop", "LBFGS", "Optimizer", "lr_scheduler"):
        with pytest.raises(BadValue, match="optimizer must be one of sgd, adam, adamw, Adadelta"):
            Training(optimizer=name)


def test_a_fused_step_is_refused_where_torch_has_none() -> None:
    for name in OPTIMIZERS:
        if name in FUSED:
            assert Training(optimizer=name, fused=True).fused
        else:
            with pytest.raises(BadValue, match=f"{name} has no fused step"):
                Training(optimizer=name, fused=True)

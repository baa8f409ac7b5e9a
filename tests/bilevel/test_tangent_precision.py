"""The tangent in half precision and float32, and values that are not finite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers.tangent_problems import SGD, Setting, batch, derivative, losses, one_step, trained, upper_loss
from torch import Tensor, nn

from mmzoo.api import Incompatible
from mmzoo.bilevel import double_backward
from mmzoo.bilevel.forward import ForwardTangent


def test_half_precision() -> None:
    model, _ = Setting().build()
    model = model.float()
    optimizer = SGD(model.parameters(), lr=0.1)
    carried = ForwardTangent(optimizer, model)
    x, target = {m: t.float() for m, t in batch(0)[0].items()}, batch(0)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pair = losses(model(x), target)
        with pytest.raises(Incompatible, match="half precision: train without autocast"):
            carried.backward(*pair, 0.4)
    carried.reset()
    assert all(t.dtype == torch.float32 for t in pair)
    with pytest.raises(Incompatible, match="half precision"):
        carried.backward(*pair, 0.4)
    model.bfloat16()
    carried.reset()
    with pytest.raises(Incompatible, match="float32 or float64"):
        carried.backward(*losses([t.float() for t in model({m: t.bfloat16() for m, t in x.items()})], target), 0.4)


def test_attention_that_cannot_be_differentiated_twice_says_what_to_do() -> None:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(3, 4)

        def forward(self, x: Mapping[str, Tensor]) -> list[Tensor]:
            z = self.up(x["a"])[None, None]
            return [F.scaled_dot_product_attention(z, z, z)[0, 0, :, :3], z[0, 0], z[0, 0]]

    model, optimizer = Setting().build(Fused)
    carried = ForwardTangent(optimizer, model)
    one_step(Setting(), 0, model, optimizer, carried)
    with pytest.raises(Incompatible, match=r"double_backward\(\)"):
        one_step(Setting(), 1, model, optimizer, carried)
    carried.reset()
    for step in range(3):
        with double_backward():
            one_step(Setting(), step, model, optimizer, carried)
    assert carried.horizon == 3


def test_a_value_that_is_not_finite_is_told() -> None:
    model, carried = trained(Setting(), tangent=True)
    assert carried is not None
    found = carried.derivative(lambda: upper_loss(model) * math.nan)
    assert not found.usable and found.reason == "the value is not finite"


@pytest.mark.parametrize("kind", ["momentum", "adamw"])
def test_float32_is_as_good_as_its_precision_allows(kind: str) -> None:
    s = Setting(kind, dropout=0.0)
    model, optimizer = s.build()
    model = model.float()
    carried = ForwardTangent(optimizer, model)
    for step in range(s.steps):
        optimizer.zero_grad()
        x, target = batch(7 * step)
        carried.backward(*losses(model({m: t.float() for m, t in x.items()}), target), s.alpha)
        optimizer.step()
        carried.stepped()
    x, target = batch(99, 9)
    upper = {m: t.float() for m, t in x.items()}
    found = carried.derivative(lambda: F.cross_entropy(model(upper)[0], target))
    # Adam divides by the size of a gradient, and so blows up the rounding noise of those that are zero (a bias before
    # batch norm), by an amount that depends on the machine.
    tolerance = 1e-3 if kind == "momentum" else 3e-2
    assert found.value == pytest.approx(derivative(replace(s, rates=(1.0,))).value, rel=tolerance)

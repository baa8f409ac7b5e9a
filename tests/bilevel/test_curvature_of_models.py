"""Curvature products of attention, frozen parameters and parts that no loss reaches."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers.bilevel_problems import dense_of_model, normal, on_model, with_norm
from torch import Tensor, nn

from mmzoo.bilevel import (
    Solver,
    double_backward,
    flat_grad,
    gauss_newton_operator,
)
from mmzoo.errors import BadValue

EXACT = Solver(iterations=2_000, tol=1e-13, power_iterations=(1, 1), relative=False, damping=0.0)
HESSIAN = replace(EXACT, curvature="hessian", damping=0.7)


class Attention(nn.Module):
    """Self-attention, written out or by the fused functions, and a linear layer."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "module":
            z, _ = self.attention(x, x, x, need_weights=False)
            return self.out(z.mean(1))
        q, k, v = (x @ self.attention.in_proj_weight.T + self.attention.in_proj_bias).chunk(3, -1)
        q, k, v = (t.unflatten(-1, (2, 2)).transpose(1, 2) for t in (q, k, v))
        if self.how == "fused":
            z = F.scaled_dot_product_attention(q, k, v)
        else:
            z = ((q @ k.mT) / math.sqrt(2)).softmax(-1) @ v
        return self.out(self.attention.out_proj(z.transpose(1, 2).flatten(2)).mean(1))


@pytest.mark.parametrize("how", ["module", "fused"])
def test_fused_attention_can_be_differentiated_twice(how: str) -> None:
    torch.manual_seed(0)
    written = Attention("written").double().eval()
    fused = Attention(how).double().eval()
    fused.load_state_dict(written.state_dict())
    x, y = normal(0, 6, 5, 4), torch.arange(6) % 3
    assert on_model(fused, x, y, HESSIAN).value == pytest.approx(on_model(written, x, y, HESSIAN).value, rel=1e-8)
    params = list(fused.parameters())
    with double_backward():
        product = gauss_newton_operator([fused(x)], lambda o: F.cross_entropy(o[0], y), params)
    v = normal(1, sum(p.numel() for p in params))
    own = gauss_newton_operator([written(x)], lambda o: F.cross_entropy(o[0], y), list(written.parameters()))
    torch.testing.assert_close(product(v), own(v), rtol=1e-9, atol=1e-12)


def test_frozen_parameters_are_skipped() -> None:
    model, x, y = with_norm()
    model.eval()
    for p in model.encoder.parameters():
        p.requires_grad_(False)
    expected = dense_of_model(model, x, y, 0.7, ["head.weight", "head.bias"])
    assert on_model(model, x, y, HESSIAN).value == pytest.approx(expected, rel=1e-8)
    assert on_model(model, x, y, HESSIAN, of=list(model.parameters())).value == pytest.approx(expected, rel=1e-8)
    with pytest.raises(BadValue, match="none of the tensors"):
        on_model(model, x, y, HESSIAN, of=list(model.encoder.parameters()))
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(BadValue, match="there are none"):
        on_model(model, x, y, HESSIAN)


def test_parameters_that_no_loss_touches_count_as_zeros() -> None:
    model, x, y = with_norm()
    model.eval()
    names = [n for n, _ in model.named_parameters()]
    expected = dense_of_model(model, x, y, 0.7, names)
    unused = nn.Parameter(torch.ones(4, dtype=torch.float64))
    found = on_model(model, x, y, HESSIAN, of=[*model.parameters(), unused])
    assert found.value == pytest.approx(expected, rel=1e-8)
    assert not found.solution.x[-4:].any()
    assert not flat_grad(torch.ones(()), [unused]).any()


def test_an_output_that_does_not_move_leaves_no_curvature() -> None:
    a, b = normal(0, 3).requires_grad_(), normal(1, 3)
    product = gauss_newton_operator([2 * a, b], lambda o: o[0] @ o[1], [a])
    assert not product(normal(2, 3)).any()
    assert not gauss_newton_operator([b], lambda o: o[0] @ o[0], [a])(normal(2, 3)).any()
    assert not gauss_newton_operator([2 * a], lambda o: o[0].sum(), [a])(normal(2, 3)).any()
    torch.testing.assert_close(
        gauss_newton_operator([2 * a, b], lambda o: o[0] @ o[0] + o[0] @ o[1], [a])(normal(2, 3)), 8 * normal(2, 3)
    )

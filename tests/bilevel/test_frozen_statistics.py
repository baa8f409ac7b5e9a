"""Curvature products through batch statistics and dropout, which must stand still."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers.bilevel_problems import dense_of_model, hessian, normal, on_model, two_branches, with_norm
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmzoo.bilevel import (
    Mixing,
    Solver,
    frozen_statistics,
    hessian_operator,
    not_still,
)
from mmzoo.errors import Incompatible

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=25)
FEW = settings(FIXED, max_examples=8)
SEEDS = st.integers(0, 10_000)
EXACT = Solver(iterations=2_000, tol=1e-13, power_iterations=(1, 1), relative=False, damping=0.0)
HESSIAN = replace(EXACT, curvature="hessian", damping=0.7)


def test_batch_norm_in_train_mode_and_dropout_are_refused() -> None:
    model, x, y = with_norm()
    with pytest.raises(Incompatible, match=r"active in encoder\.1, encoder\.3.*frozen_statistics"):
        on_model(model, x, y, HESSIAN)
    model.eval()
    model.encoder[3].train()
    with pytest.raises(Incompatible, match=r"active in encoder\.3:"):
        on_model(model, x, y, HESSIAN)
    model.encoder[3].p = 0.0
    assert on_model(model, x, y, HESSIAN).usable


def test_what_does_not_stand_still_is_found_by_name() -> None:
    class Dropped(nn.Module):
        drop_prob = 0.1

    model = nn.ModuleDict(
        {
            "lstm": nn.LSTM(2, 2, num_layers=2, dropout=0.2),
            "plain": nn.LSTM(2, 2),
            "path": Dropped(),
            "attention": nn.MultiheadAttention(2, 1, dropout=0.1),
            "instance": nn.InstanceNorm1d(2),
            "tracked": nn.InstanceNorm1d(2, track_running_stats=True),
            "layer": nn.LayerNorm(2),
            "linear": nn.Linear(2, 2),
        }
    )
    assert not_still(model) == ["lstm", "path", "attention", "tracked"]
    assert not_still(nn.Dropout(0.2)) == ["(the model itself)"]
    assert not_still(model.eval()) == []


def test_frozen_statistics_puts_every_mode_back_and_moves_nothing() -> None:
    model, x, y = with_norm()
    model.head.eval()
    before = {n: b.clone() for n, b in model.named_buffers()}
    with pytest.raises(ZeroDivisionError), frozen_statistics(model):
        assert not any(m.training for m in model.modules())
        first, second = (on_model(model, x, y, HESSIAN).value for _ in range(2))
        assert first == second
        raise ZeroDivisionError
    assert model.training and model.encoder[1].training and not model.head.training
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())
    assert all(p.grad is None for p in model.parameters())


def test_batch_norm_in_eval_mode_against_the_dense_hessian() -> None:
    model, x, y = with_norm()
    names = [n for n, _ in model.named_parameters()]
    with frozen_statistics(model):
        found = on_model(model, x, y, HESSIAN)
        assert found.value == pytest.approx(dense_of_model(model, x, y, 0.7, names), rel=1e-8)


def test_products_are_right_through_batch_norm_in_train_mode() -> None:
    """Backward over backward is the one order that is right there: against batch norm written out."""
    model, x, y = with_norm(dropout=0.0)
    params = list(model.parameters())
    names = [n for n, _ in model.named_parameters()]
    direction = normal(5, sum(p.numel() for p in params))
    found = hessian_operator(F.cross_entropy(model(x), y), params)(direction)

    def loss(v: Tensor) -> Tensor:
        p = {n: t.reshape(q.shape) for n, q, t in zip(names, params, v.split([q.numel() for q in params]))}
        z = x @ p["encoder.0.weight"].T + p["encoder.0.bias"]
        z = (z - z.mean(0)) / (z.var(0, unbiased=False) + 1e-5).sqrt()
        z = torch.tanh(z * p["encoder.1.weight"] + p["encoder.1.bias"])
        return F.cross_entropy(z @ p["head.weight"].T + p["head.bias"], y)

    point = torch.cat([p.detach().reshape(-1) for p in params])
    torch.testing.assert_close(found, hessian(loss)(point) @ direction, rtol=1e-9, atol=1e-11)


@FEW
@given(SEEDS)
def test_kinks_of_relu_do_not_spoil_products(seed: int) -> None:
    problem = two_branches(seed, activation=lambda z: torch.relu(z) + 0.01 * z)
    for curvature in ("hessian", "gauss_newton"):
        damping = 0.37 * float(torch.linalg.eigvalsh(problem.dense(Mixing.of(0.4), curvature)).abs().max())
        found = problem.solve(0.4, replace(EXACT, curvature=curvature, method="minres", damping=damping))
        assert found.value == pytest.approx(problem.expected(0.4, curvature, damping), rel=1e-7, abs=1e-9)

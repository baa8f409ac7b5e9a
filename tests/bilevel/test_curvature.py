"""Hessian and Gauss-Newton operators of small models."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from helpers.steps_by_hand import FIXED, SEEDS
from hypothesis import given, settings
from torch import Tensor

from mmzoo.bilevel import (
    gauss_newton_operator,
    hessian_operator,
)
from mmzoo.functional import cosine_similarities, info_nce


def small_model(seed: int, hidden: bool) -> tuple[list[Tensor], Callable[..., list[Tensor]], Tensor]:
    """Two branches: parameters, a function from them to logits and features, and targets."""
    g = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=g, dtype=torch.float64)
    x = {m: draw(6, 3) for m in "av"}
    target = torch.randint(3, (6,), generator=g)
    params = [draw(3, 2), draw(3, 2), draw(4, 3)] if hidden else [draw(6, 3), draw(3)]

    def outputs(*p: Tensor) -> list[Tensor]:
        if not hidden:
            return [torch.cat([x["a"], x["v"]], 1) @ p[0] + p[1]]
        z = {m: torch.tanh(x[m] @ u) for m, u in zip("av", p)}
        return [torch.cat(list(z.values()), 1) @ p[2], *cosine_similarities(z, 0.5)]

    return params, outputs, target


def dense(operator: Callable[[Tensor], Tensor], n: int) -> Tensor:
    return torch.stack([operator(e) for e in torch.eye(n, dtype=torch.float64)])


def exact_hessian(loss: Callable[..., Tensor], params: list[Tensor]) -> Tensor:
    blocks: Any = torch.autograd.functional.hessian(loss, tuple(params))
    rows = [torch.cat([b.reshape(p.numel(), -1) for b in row], 1) for p, row in zip(params, blocks)]
    return torch.cat(rows)


@settings(FIXED, max_examples=10)
@given(SEEDS)
def test_the_hessian_operator_is_the_hessian(seed: int) -> None:
    params, outputs, target = small_model(seed, hidden=True)

    def loss(*p: Tensor) -> Tensor:
        logits, *s = outputs(*p)
        return 0.4 * F.cross_entropy(logits, target) + 0.6 * info_nce(s)

    leaves = [p.clone().requires_grad_() for p in params]
    ours = dense(hessian_operator(loss(*leaves), leaves), sum(p.numel() for p in params))
    torch.testing.assert_close(ours, exact_hessian(loss, params), rtol=0, atol=1e-9)
    torch.testing.assert_close(ours, ours.T, rtol=0, atol=1e-9)


@settings(FIXED, max_examples=10)
@given(SEEDS)
def test_gauss_newton_is_the_hessian_of_a_linear_model(seed: int) -> None:
    params, outputs, target = small_model(seed, hidden=False)
    leaves = [p.clone().requires_grad_() for p in params]
    operator = gauss_newton_operator(outputs(*leaves), lambda o: F.cross_entropy(o[0], target), leaves)
    ours = dense(operator, sum(p.numel() for p in params))
    exact = exact_hessian(lambda *p: F.cross_entropy(outputs(*p)[0], target), params)
    torch.testing.assert_close(ours, exact, rtol=0, atol=1e-10)


@settings(FIXED, max_examples=10)
@given(SEEDS)
def test_gauss_newton_has_no_negative_curvature_where_the_hessian_has(seed: int) -> None:
    params, outputs, target = small_model(seed, hidden=True)
    leaves = [p.clone().requires_grad_() for p in params]

    def total(o: Any) -> Tensor:
        return 0.4 * F.cross_entropy(o[0], target) + 0.6 * info_nce(o[1:])

    out = outputs(*leaves)
    ours = dense(gauss_newton_operator(out, total, leaves), sum(p.numel() for p in params))
    torch.testing.assert_close(ours, ours.T, rtol=0, atol=1e-9)
    assert float(torch.linalg.eigvalsh(ours).min()) > -1e-9
    exact = dense(hessian_operator(total(out), leaves), len(ours))
    assert float(torch.linalg.eigvalsh(exact).min()) < 0

"""Solvers of linear systems: exact after n steps, and safe where the matrix is indefinite."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers.steps_by_hand import FIXED, SEEDS
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mmzoo.bilevel import (
    conjugate_gradients,
    hypergradient,
    minres,
    neumann,
)


# ---------------------------------------------------------------------- second order
def symmetric(seed: int, n: int, eigenvalues: Callable[[np.random.Generator], Any]) -> Tensor:
    rng = np.random.default_rng(seed)
    q, _ = np.linalg.qr(rng.normal(size=(n, n)))
    a = q @ np.diag(eigenvalues(rng)) @ q.T
    return torch.tensor((a + a.T) / 2)


def positive(seed: int, n: int) -> Tensor:
    return symmetric(seed, n, lambda rng: rng.uniform(0.3, 3.0, n))


def vector(seed: int, n: int) -> Tensor:
    return torch.tensor(np.random.default_rng(seed + 1).normal(size=n))


@FIXED
@given(SEEDS, st.integers(1, 7))
def test_conjugate_gradients_are_exact_after_n_steps(seed: int, n: int) -> None:
    a, b = positive(seed, n), vector(seed, n)
    found = conjugate_gradients(lambda v: a @ v, b, max_iter=n)
    np.testing.assert_allclose(found.x.numpy(), np.linalg.solve(a.numpy(), b.numpy()), atol=1e-8)
    assert found.residual < 1e-8 and found.curvature > 0.29


@FIXED
@given(SEEDS, st.integers(1, 7))
def test_conjugate_gradients_stop_at_a_direction_that_is_not_convex(seed: int, n: int) -> None:
    a, b = -positive(seed, n), vector(seed, n)
    found = conjugate_gradients(lambda v: a @ v, b, max_iter=n)
    assert found.iterations == 0 and found.curvature < 0 and not found.x.any()


@FIXED
@given(SEEDS, st.integers(1, 7))
def test_minres_solves_indefinite_systems(seed: int, n: int) -> None:
    a = symmetric(seed, n, lambda rng: rng.uniform(0.3, 3.0, n) * rng.choice([-1.0, 1.0], n))
    b = vector(seed, n)
    found = minres(lambda v: a @ v, b, max_iter=20 * n, tol=1e-13)
    np.testing.assert_allclose(found.x.numpy(), np.linalg.solve(a.numpy(), b.numpy()), atol=1e-8)
    assert found.residual < 1e-9


@FIXED
@given(SEEDS, st.integers(1, 6))
def test_minres_residuals_never_grow(seed: int, n: int) -> None:
    a = symmetric(seed, n, lambda rng: rng.uniform(0.3, 3.0, n) * rng.choice([-1.0, 1.0], n))
    b = vector(seed, n)
    residuals = [minres(lambda v: a @ v, b, max_iter=k).residual for k in range(n + 1)]
    assert all(later <= earlier + 1e-10 for earlier, later in itertools.pairwise(residuals))


@FIXED
@given(SEEDS, st.integers(1, 6))
def test_the_neumann_series_closes_in_geometrically(seed: int, n: int) -> None:
    a, b = positive(seed, n), vector(seed, n)
    largest, smallest = 3.0, 0.3
    found = neumann(lambda v: a @ v, b, terms=200, step=1 / largest)
    assert found.residual <= (1 - smallest / largest) ** 200 * 1.01 + 1e-12


def bilevel(seed: int, n: int, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """grad L_cls and grad L_mm at the optimum of the mixture of two quadratics, and the mixture's Hessian."""
    a, b = positive(seed, n), positive(seed + 1, n)
    at_a, at_b = vector(seed, n), vector(seed + 2, n)
    h = (1 - alpha) * a + alpha * b
    theta = torch.linalg.solve(h, (1 - alpha) * a @ at_a + alpha * b @ at_b)
    return a @ (theta - at_a), b @ (theta - at_b), h


@FIXED
@given(SEEDS, st.integers(1, 6), st.floats(0.05, 0.95))
def test_the_hypergradient_is_not_negative_at_an_optimum_on_the_same_data(seed: int, n: int, alpha: float) -> None:
    g_cls, g_mm, h = bilevel(seed, n, alpha)
    solve = partial(conjugate_gradients, max_iter=5 * n, tol=1e-14)
    found = hypergradient(g_cls, g_mm - g_cls, lambda v: h @ v, solve=solve)
    exact = float(g_cls @ torch.linalg.solve(h, g_cls)) / alpha
    assert found.value >= -1e-12 and found.usable
    assert found.value == pytest.approx(exact, rel=1e-8, abs=1e-10)
    assert -1e-12 <= found.direction <= 1 + 1e-12
    tripled = hypergradient(3 * g_cls, 3 * (g_mm - g_cls), lambda v: 3 * (h @ v), solve=solve)
    assert tripled.value == pytest.approx(3 * found.value, rel=1e-9, abs=1e-12)
    assert tripled.direction == pytest.approx(found.direction, abs=1e-9)

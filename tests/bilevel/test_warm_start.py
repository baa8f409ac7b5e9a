"""Micro-batches, warm starts and power iteration of a solve."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.bilevel_problems import normal, piece, spd, two_branches
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmzoo.bilevel import (
    Solver,
    Upper,
    Warm,
    conjugate_gradients,
    hypergradient,
    implicit_gradient,
    minres,
    neumann,
    power_iteration,
    solvers,
)
from mmzoo.errors import BadValue

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=25)
FEW = settings(FIXED, max_examples=8)
SEEDS = st.integers(0, 10_000)
EXACT = Solver(iterations=2_000, tol=1e-13, power_iterations=(1, 1), relative=False, damping=0.0)


# ---------------------------------------------------------------------- micro-batches, warm starts, accounting
def linear(seed: int) -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(seed)
    return nn.Linear(4, 3).double(), normal(seed, 12, 4), torch.arange(12) % 3


@pytest.mark.parametrize("cuts", [(12,), (5, 7), (1, 4, 7), (3, 2, 1, 6)])
@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian", "identity"])
def test_micro_batches_add_up_to_the_batch(cuts: tuple[int, ...], curvature: Any) -> None:
    model, x, y = linear(0)
    solver = replace(EXACT, curvature=curvature, damping=0.1)
    whole = implicit_gradient(piece(model, x, y), lambda: F.cross_entropy(model(x), y), model, 0.3, solver=solver)
    pairs = list(zip(x.split(cuts), y.split(cuts)))
    found = implicit_gradient(
        [piece(model, a, b, len(b)) for a, b in pairs],
        [partial(lambda a, b: Upper(F.cross_entropy(model(a), b), len(b)), a, b) for a, b in pairs],
        model,
        0.3,
        solver=solver,
    )
    assert found.value == pytest.approx(whole.value, rel=1e-10)
    expected = 3 * len(cuts) if curvature == "identity" else len(cuts) * (4 + 2 * found.products)
    assert found.backwards == expected


def test_weights_of_micro_batches_must_mean_something() -> None:
    model, x, y = linear(0)
    for weights in ((0.0, 0.0), (-1.0, 2.0), (math.nan, 1.0)):
        with pytest.raises(BadValue, match="weights of micro-batches"):
            implicit_gradient([piece(model, x, y, w) for w in weights], lambda: model(x).sum(), model, 0.3)
    with pytest.raises(BadValue, match="at least one micro-batch"):
        implicit_gradient([], lambda: model(x).sum(), model, 0.3)


@FEW
@given(SEEDS, st.sampled_from(["cg", "minres", "neumann"]))
def test_a_warm_start_leads_to_the_same_place_sooner(seed: int, method: Any) -> None:
    problem = two_branches(seed)
    solver = Solver(method=method, damping=0.1, iterations=300, tol=1e-8, power_iterations=(40, 2))
    cold = problem.solve(0.4, solver)
    assert cold.usable and cold.warm is not None
    again = problem.solve(0.4, solver, warm=cold.warm)
    assert again.value == pytest.approx(cold.value, rel=1e-4, abs=1e-8)
    assert again.lambda_max >= cold.lambda_max * (1 - 1e-12) and again.residual < 1e-6
    if method != "neumann":
        assert again.iterations < cold.iterations and again.products < cold.products


def test_without_a_warm_start_every_call_starts_from_zero() -> None:
    problem, solver = two_branches(1), Solver(iterations=3)
    state = torch.get_rng_state()
    first, second = (problem.solve(0.4, solver) for _ in range(2))
    assert torch.equal(first.solution.x, second.solution.x) and first.value == second.value
    assert torch.equal(state, torch.get_rng_state())
    other = problem.solve(0.4, solver, generator=torch.Generator().manual_seed(5))
    assert other.lambda_max != first.lambda_max


@FIXED
@given(SEEDS, st.integers(2, 7), st.sampled_from(["cg", "minres", "neumann"]))
def test_a_start_is_accounted_for(seed: int, n: int, method: str) -> None:
    """The residual is that of the whole right-hand side, and every application of the matrix is counted."""
    a, b = spd(seed, n), normal(seed + 1, n)
    calls = 0

    def apply(v: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return a @ v

    solve: Any = {
        "cg": partial(conjugate_gradients, max_iter=2),
        "minres": partial(minres, max_iter=2),
        "neumann": partial(neumann, terms=2, step=0.3),
    }[method]
    exact = torch.linalg.solve(a, b)
    near, far = exact + 0.01 * normal(seed + 2, n), 1e6 * normal(seed + 3, n)
    for x0 in (None, exact, near, far, torch.full_like(b, math.nan)):
        calls = 0
        found = solve(apply, b, x0=x0)
        assert found.products == calls
        assert found.residual == pytest.approx(float((b - a @ found.x).norm() / b.norm()), rel=1e-6, abs=1e-12)
        assert found.residual <= 1.0 + 1e-12


def test_a_start_that_solves_the_system_takes_no_step() -> None:
    a, b = spd(0, 5), normal(1, 5)
    found = conjugate_gradients(lambda v: a @ v, b, max_iter=9, tol=1e-8, x0=torch.linalg.solve(a, b))
    assert (found.iterations, found.products) == (0, 1) and found.residual < 1e-12
    h = hypergradient(b, b, lambda v: a @ v, solve=lambda *_: found)
    assert h.usable and h.value == pytest.approx(-float(b @ torch.linalg.solve(a, b)))


def test_vectors_of_another_model_are_refused() -> None:
    with pytest.raises(BadValue, match="start without them"):
        two_branches(0).solve(0.4, Solver(), warm=Warm(torch.ones(3)))


@FIXED
@given(SEEDS, st.integers(2, 7))
def test_the_curvature_that_minres_tells_is_the_smallest_eigenvalue_in_the_end(seed: int, n: int) -> None:
    a = spd(seed, n) - 0.4 * torch.eye(n, dtype=torch.float64)
    found = minres(lambda v: a @ v, normal(seed + 1, n), max_iter=n)
    assert found.curvature == pytest.approx(-0.1, abs=1e-6)


def test_a_warm_start_saves_power_iterations() -> None:
    problem, solver = two_branches(0), Solver(damping=0.1, tol=1e-3, power_iterations=(9, 2))
    cold = problem.solve(0.4, solver)
    warm = problem.solve(0.4, solver, warm=cold.warm)
    assert cold.products == 9 + cold.iterations and warm.products == 2 + 1 + warm.iterations
    only = problem.solve(0.4, solver, warm=Warm(cold.warm.solution))  # type: ignore[union-attr]
    assert only.products == 9 + 1 + only.iterations


def test_power_iteration_goes_on_from_where_it_was() -> None:
    a = spd(3, 20)
    start = normal(4, 20)
    straight, _ = power_iteration(lambda v: a @ v, start, iterations=10)
    _, reached = power_iteration(lambda v: a @ v, start, iterations=5)
    assert power_iteration(lambda v: a @ v, reached, iterations=5)[0] == pytest.approx(straight, rel=1e-12)
    assert straight <= 3.0 + 1e-12
    assert power_iteration(torch.zeros_like, start, iterations=5)[0] == 0.0


def test_inner_products_of_float32_vectors_are_summed_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solvers, "_CHUNK", 1000)
    a = torch.cat([torch.tensor([1e8]), torch.ones(5000), torch.tensor([-1e8])])
    assert solvers.dot(a, torch.ones_like(a)) == 5000.0
    assert solvers.length(torch.full((2500,), 2.0)) == 100.0

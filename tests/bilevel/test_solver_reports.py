"""What a solve says of itself, and which options it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from helpers.bilevel_problems import normal, spd, two_branches

from mmzoo.bilevel import (
    Inner,
    Mixing,
    Solver,
    conjugate_gradients,
    hypergradient,
    implicit_gradient,
)
from mmzoo.errors import BadValue


# ---------------------------------------------------------------------- when the result is no good
def test_a_second_solve_with_more_damping_follows_one_that_is_not_usable() -> None:
    problem = two_branches(0)
    first = Solver("hessian", damping=0.0, iterations=3, max_residual=0.3, scope="all")
    assert not problem.solve(0.4, first).usable
    found = problem.solve(0.4, replace(first, fallback=2.0))
    # the largest Ritz value of the first solve stands in for the largest eigenvalue
    exact = float(torch.linalg.eigvalsh(problem.dense(Mixing.of(0.4), "hessian")).abs().max())
    assert found.usable and 0.5 * exact < found.lambda_max <= exact * (1 + 1e-9)
    assert found.damping == pytest.approx(2.0 * found.lambda_max)
    alone = problem.solve(0.4, replace(first, damping=found.damping, relative=False))
    assert found.value == pytest.approx(alone.value, rel=1e-9)
    assert found.products == 2 * alone.products == 8


def test_there_is_no_second_solve_where_the_first_is_usable_or_has_more_damping() -> None:
    problem = two_branches(0)
    usable = Solver("hessian", damping=2.0, iterations=30)
    assert problem.solve(0.4, replace(usable, fallback=9.0)).value == problem.solve(0.4, usable).value
    assert Solver(damping=0.5, fallback=0.1).dampings == (0.5,) and Solver(damping=0.5).dampings == (0.5,)
    assert Solver(damping=0.1, fallback=0.5).dampings == (0.1, 0.5)


def test_negative_curvature_at_the_first_step_is_told() -> None:
    a = -spd(0, 4)
    found = hypergradient(normal(1, 4), normal(2, 4), lambda v: a @ v, solve=partial(conjugate_gradients, max_iter=9))
    assert not found.usable and found.indefinite and found.iterations == 0 and found.warm is None
    assert found.reason.startswith("curvature -") and "at the first step" in found.reason


def test_negative_curvature_on_the_way_is_told() -> None:
    a = torch.diag(torch.tensor([3.0, 1.0, -0.1], dtype=torch.float64))
    found = hypergradient(
        torch.ones(3, dtype=torch.float64),
        torch.ones(3, dtype=torch.float64),
        lambda v: a @ v,
        solve=partial(conjugate_gradients, max_iter=9),
        max_residual=1e-3,
    )
    assert not found.usable and found.iterations > 0 and "was met" in found.reason


def test_a_solve_that_did_not_converge_is_told() -> None:
    problem = two_branches(0)
    found = problem.solve(0.4, Solver(damping=1e-9, iterations=1, max_residual=1e-3))
    assert not found.usable and found.reason.startswith("residual") and math.isfinite(found.value)


def test_a_diverging_series_is_told() -> None:
    problem = two_branches(0)
    assert float(torch.linalg.eigvalsh(problem.dense(Mixing.of(0.4), "hessian")).min()) < 0
    found = problem.solve(0.4, Solver(curvature="hessian", method="neumann", iterations=3000, damping=1e-6))
    assert not found.usable and found.reason


def test_a_value_that_is_not_finite_is_told() -> None:
    problem = two_branches(0)
    problem.params[0][0, 0] = math.nan
    for curvature in ("gauss_newton", "hessian", "identity"):
        found = problem.solve(0.4, Solver(curvature=curvature))  # type: ignore[arg-type]
        assert not found.usable and found.reason == "the value is not finite"


def test_an_upper_loss_without_gradient_gives_zero() -> None:
    problem = two_branches(0)
    problem.upper = lambda *p: torch.zeros((), dtype=torch.float64)
    found = problem.solve(0.4, Solver())
    assert found.usable and found.value == 0.0 and found.direction == 0.0


def test_no_curvature_at_all_is_not_usable() -> None:
    theta = normal(0, 3).requires_grad_()
    found = implicit_gradient(
        lambda: Inner([theta], lambda o: (o[0].sum(), -2 * o[0].sum())), lambda: theta.sum(), [theta], 0.5
    )
    assert not found.usable and found.lambda_max == 0.0 and found.damping == 0.0


@pytest.mark.parametrize(
    "options",
    [
        {"curvature": "fisher"},
        {"method": "lu"},
        {"damping": -1.0},
        {"damping": math.nan},
        {"fallback": -0.1},
        {"fallback": math.inf},
        {"iterations": 0},
        {"power_iterations": (0, 2)},
        {"tol": -1.0},
        {"max_residual": 0.0},
    ],
)
def test_solver_options_that_mean_nothing_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(BadValue):
        Solver(**options)


def test_the_default_method_follows_the_curvature() -> None:
    assert (Solver().how, Solver(curvature="hessian").how) == ("cg", "minres")
    assert Solver(curvature="hessian", method="cg").how == "cg"

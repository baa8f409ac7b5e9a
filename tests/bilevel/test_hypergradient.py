"""The gradient of an upper loss in the mixing weight against dense linear algebra and differences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.bilevel_problems import normal, spd, two_branches
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmzoo.bilevel import (
    Hypergradient,
    Inner,
    Mixing,
    Solver,
    implicit_gradient,
)

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=25)
FEW = settings(FIXED, max_examples=8)
SEEDS = st.integers(0, 10_000)
EXACT = Solver(iterations=2_000, tol=1e-13, power_iterations=(1, 1), relative=False, damping=0.0)
ALPHAS = st.floats(0.05, 0.95)


@dataclass
class Quadratic:
    """L_cls, L_mm and the upper loss are half squares around points of their own."""

    seed: int
    n: int

    def __post_init__(self) -> None:
        self.a, self.b, self.c = (spd(self.seed + i, self.n) for i in range(3))
        self.at_a, self.at_b, self.at_c = (normal(self.seed + 3 + i, self.n) for i in range(3))

    def losses(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        a, b = theta - self.at_a, theta - self.at_b
        return 0.5 * a @ self.a @ a, 0.5 * b @ self.b @ b

    def upper(self, theta: Tensor) -> Tensor:
        c = theta - self.at_c
        return 0.5 * c @ self.c @ c

    def best(self, mixing: Mixing) -> Tensor:
        """The inner optimum."""
        (f, g), (a, b) = mixing.factors, (self.a, self.b)
        return torch.linalg.solve(f * a + g * b, f * a @ self.at_a + g * b @ self.at_b)

    def solve(self, mixing: Mixing, solver: Solver, upper: Callable[[Tensor], Tensor] | None = None) -> Hypergradient:
        theta = self.best(mixing).requires_grad_()
        return implicit_gradient(
            lambda: Inner([theta], lambda o: self.losses(o[0])),
            lambda: (upper or self.upper)(theta),
            [theta],
            mixing,
            solver=solver,
        )


# ---------------------------------------------------------------------- against dense linear algebra
@FIXED
@given(SEEDS, ALPHAS)
def test_hessian_and_minres_are_the_paper_s_formula_where_the_hessian_is_indefinite(seed: int, alpha: float) -> None:
    problem = two_branches(seed)
    dense = problem.dense(Mixing.of(alpha), "hessian")
    values = torch.linalg.eigvalsh(dense)
    damping = 0.05 * float(values.abs().max())
    if float((values + damping).abs().min()) < 1e-3 * float(values.abs().max()):
        damping *= 1.5  # not on top of an eigenvalue
    found = problem.solve(alpha, replace(EXACT, curvature="hessian", damping=damping))
    assert found.usable and found.reason == ""
    expected = problem.expected(alpha, "hessian", damping)
    assert found.value == pytest.approx(expected, rel=1e-8, abs=1e-8 * float(found.solution.x.norm()))
    assert found.indefinite == (float(values.min()) + damping < 0)
    assert float(values.min()) < 0


@FIXED
@given(SEEDS, ALPHAS)
def test_gauss_newton_and_conjugate_gradients_against_the_dense_matrix(seed: int, alpha: float) -> None:
    problem = two_branches(seed)
    damping = 0.01 * float(torch.linalg.eigvalsh(problem.dense(Mixing.of(alpha), "gauss_newton")).max())
    found = problem.solve(alpha, replace(EXACT, damping=damping))
    assert found.value == pytest.approx(problem.expected(alpha, "gauss_newton", damping), rel=1e-8, abs=1e-10)
    assert found.usable and found.curvature > 0 and found.residual < 1e-10
    assert abs(found.direction) <= 1


@FEW
@given(SEEDS, ALPHAS, st.sampled_from(["gauss_newton", "hessian"]), st.sampled_from(["cg", "minres", "neumann"]))
def test_every_solver_agrees_where_the_matrix_is_definite(seed: int, alpha: float, curvature: Any, method: Any) -> None:
    problem = two_branches(seed)
    values = torch.linalg.eigvalsh(problem.dense(Mixing.of(alpha), curvature))
    damping = 0.5 * float(values.abs().max()) + max(0.0, -float(values.min()))
    solver = replace(
        EXACT, curvature=curvature, method=method, damping=damping, iterations=400, power_iterations=(60, 2)
    )
    found = problem.solve(alpha, solver)
    assert found.value == pytest.approx(problem.expected(alpha, curvature, damping), rel=1e-8, abs=1e-10)
    assert found.usable and not found.indefinite


@FEW
@given(SEEDS, ALPHAS)
def test_identity_is_the_inner_product_of_both_gradients_without_a_product(seed: int, alpha: float) -> None:
    problem = two_branches(seed)
    found = problem.solve(alpha, Solver(curvature="identity"))
    mixed, upper = problem.mixed(Mixing.of(alpha)), problem.gradient()
    assert found.value == pytest.approx(-float(mixed @ upper), rel=1e-12)
    assert found.direction == pytest.approx(-float(F.cosine_similarity(mixed, upper, 0)), rel=1e-10)
    assert (found.products, found.backwards, found.usable, found.damping) == (0, 3, True, 0.0)


@FEW
@given(SEEDS, st.floats(0.05, 2.0))
def test_the_additive_form_has_slopes_of_its_own(seed: int, alpha: float) -> None:
    problem = two_branches(seed)
    mixing = Mixing.additive(alpha)
    found = problem.solve(mixing, replace(EXACT, damping=0.1))
    assert found.value == pytest.approx(problem.expected(mixing, "gauss_newton", 0.1), rel=1e-8, abs=1e-10)


@FEW
@given(SEEDS)
def test_relative_damping_is_a_multiple_of_the_largest_eigenvalue(seed: int) -> None:
    problem = two_branches(seed)
    largest = float(torch.linalg.eigvalsh(problem.dense(Mixing.of(0.4), "gauss_newton")).max())
    found = problem.solve(0.4, Solver(power_iterations=(200, 2), iterations=400, tol=1e-13))
    assert found.lambda_max == pytest.approx(largest, rel=1e-3)
    assert found.damping == 0.01 * found.lambda_max
    assert found.value == pytest.approx(problem.expected(0.4, "gauss_newton", found.damping), rel=1e-8, abs=1e-10)


# ---------------------------------------------------------------------- against the true two-level objective
@FIXED
@given(SEEDS, st.integers(1, 6), ALPHAS, st.booleans(), st.sampled_from(["gauss_newton", "hessian"]))
def test_it_is_the_change_of_the_upper_loss_at_the_inner_optimum(
    seed: int, n: int, alpha: float, additive: bool, curvature: Any
) -> None:
    problem = Quadratic(seed, n)
    form = Mixing.additive if additive else Mixing.of
    found = problem.solve(form(alpha), replace(EXACT, curvature=curvature))
    up, down = (float(problem.upper(problem.best(form(alpha + step)))) for step in (1e-5, -1e-5))
    assert found.value == pytest.approx((up - down) / 2e-5, rel=1e-6, abs=1e-7)


@FIXED
@given(SEEDS, st.integers(1, 6), st.floats(0.0, 1.0))
def test_on_the_same_data_alpha_can_only_fall_and_rests_at_zero(seed: int, n: int, alpha: float) -> None:
    """At an inner optimum (1 - a) g_cls + a g_mm = 0, so that h = g_cls^T H^{-1} g_cls / a."""
    problem = Quadratic(seed, n)
    found = problem.solve(Mixing.of(alpha), EXACT, upper=lambda theta: problem.losses(theta)[0])
    assert found.value >= -1e-12
    at_zero = problem.solve(Mixing.of(0.0), EXACT, upper=lambda theta: problem.losses(theta)[0])
    assert at_zero.value == pytest.approx(0.0, abs=1e-10)
    if alpha > 1e-3:
        theta = problem.best(Mixing.of(alpha))
        g = problem.a @ (theta - problem.at_a)
        h = (1 - alpha) * problem.a + alpha * problem.b
        assert found.value == pytest.approx(float(g @ torch.linalg.solve(h, g)) / alpha, rel=1e-7, abs=1e-10)

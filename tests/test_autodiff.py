"""The gradient of an upper loss in the mixing weight against dense linear algebra, differences, and every trap."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import model as small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from mmzoo import MultimodalModel
from mmzoo.api import Encoder
from mmzoo.bilevel import (
    Hypergradient,
    Inner,
    Mixing,
    Solution,
    Solver,
    Upper,
    Warm,
    conjugate_gradients,
    double_backward,
    flat_grad,
    frozen_statistics,
    full_precision,
    gauss_newton_operator,
    hessian_operator,
    hypergradient,
    implicit_gradient,
    minres,
    neumann,
    not_still,
    power_iteration,
    scoped_parameters,
    solvers,
)
from mmzoo.core.precision import tf32
from mmzoo.errors import BadValue, Incompatible
from mmzoo.functional import cosine_similarities, info_nce
from mmzoo.heads.concat import Concat

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=25)
FEW = settings(FIXED, max_examples=8)
SEEDS = st.integers(0, 10_000)
EXACT = Solver(iterations=2_000, tol=1e-13, power_iterations=(1, 1), relative=False, damping=0.0)
ALPHAS = st.floats(0.05, 0.95)


def hessian(loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The matrix of second derivatives."""
    return jacrev(jacrev(loss))


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------------- two problems
@dataclass
class Problem:
    """Two losses as functions of parameters, an upper loss, and what a call of implicit_gradient wants of them."""

    params: list[Tensor]
    outputs: Callable[..., list[Tensor]]
    losses: Callable[[Any], tuple[Tensor, Tensor]]
    upper: Callable[..., Tensor]

    def solve(self, alpha: float | Mixing, solver: Solver, **kwargs: Any) -> Hypergradient:
        leaves = [p.clone().requires_grad_() for p in self.params]
        return implicit_gradient(
            lambda: Inner(self.outputs(*leaves), self.losses),
            lambda: self.upper(*leaves),
            leaves,
            alpha,
            solver=solver,
            **kwargs,
        )

    def flat(self, loss: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        """A loss of the parameters as one of a single vector (P,)."""
        sizes, shapes = [p.numel() for p in self.params], [p.shape for p in self.params]
        return lambda v: loss(*(t.reshape(s) for t, s in zip(v.split(sizes), shapes)))

    @property
    def point(self) -> Tensor:
        return torch.cat([p.reshape(-1) for p in self.params])

    def inner(self, mixing: Mixing) -> Callable[[Tensor], Tensor]:
        return self.flat(lambda *p: mixing.total(*self.losses(self.outputs(*p))))

    def mixed(self, mixing: Mixing) -> Tensor:
        return jacrev(self.flat(lambda *p: mixing.slope(*self.losses(self.outputs(*p)))))(self.point)

    def gradient(self) -> Tensor:
        return jacrev(self.flat(self.upper))(self.point)

    def dense(self, mixing: Mixing, curvature: str) -> Tensor:
        """The curvature as a matrix (P, P), by torch.func and not by our products."""
        if curvature == "hessian":
            return hessian(self.inner(mixing))(self.point)
        jacobian = jacrev(self.flat(lambda *p: torch.cat([o.reshape(-1) for o in self.outputs(*p)])))(self.point)
        now = self.outputs(*self.params)
        sizes, shapes = [o.numel() for o in now], [o.shape for o in now]

        def loss(values: Tensor) -> Tensor:
            return mixing.total(*self.losses([t.reshape(s) for t, s in zip(values.split(sizes), shapes)]))

        return jacobian.T @ hessian(loss)(torch.cat([o.reshape(-1) for o in now])) @ jacobian

    def expected(self, alpha: float | Mixing, curvature: str, damping: float) -> float:
        mixing = Mixing.of(alpha)
        matrix = self.dense(mixing, curvature) + damping * torch.eye(len(self.point), dtype=torch.float64)
        return -float(self.mixed(mixing) @ torch.linalg.solve(matrix, self.gradient()))


def two_branches(seed: int, items: int = 6, activation: Callable[[Tensor], Tensor] = torch.tanh) -> Problem:
    """Two encoders of one layer, a joint classifier, cross-entropy and InfoNCE; the upper loss on other items."""
    x, held = ({m: normal(seed + k + i, items, 3) for i, m in enumerate("av")} for k in (0, 10))
    generator = torch.Generator().manual_seed(seed)
    target, held_target = (torch.randint(3, (items,), generator=generator) for _ in range(2))

    def outputs(a: Tensor, v: Tensor, joint: Tensor, rows: dict[str, Tensor] = x) -> list[Tensor]:
        z = {"a": activation(rows["a"] @ a), "v": activation(rows["v"] @ v)}
        return [torch.cat([z["a"], z["v"]], 1) @ joint, *cosine_similarities(z, 0.5)]

    params = [normal(seed + 20, 3, 2), normal(seed + 21, 3, 2), normal(seed + 22, 4, 3)]
    return Problem(
        params,
        outputs,
        lambda o: (F.cross_entropy(o[0], target), info_nce(o[1:])),
        lambda *p: F.cross_entropy(outputs(*p, rows=held)[0], held_target),
    )


def spd(seed: int, n: int) -> Tensor:
    q, _ = torch.linalg.qr(normal(seed, n, n))
    return q @ torch.diag(torch.linspace(0.3, 3.0, n, dtype=torch.float64)) @ q.T


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


# ---------------------------------------------------------------------- micro-batches, warm starts, accounting
def linear(seed: int) -> tuple[nn.Linear, Tensor, Tensor]:
    torch.manual_seed(seed)
    return nn.Linear(4, 3).double(), normal(seed, 12, 4), torch.arange(12) % 3


def piece(model: nn.Module, x: Tensor, target: Tensor, weight: float = 1.0) -> Callable[[], Inner]:
    """Cross-entropy, and a second loss that is a mean over items too."""
    return lambda: Inner([model(x)], lambda o: (F.cross_entropy(o[0], target), o[0].pow(4).mean(0).sum()), weight)


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


# ---------------------------------------------------------------------- when the result is no good
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


# ---------------------------------------------------------------------- traps
class Norm(nn.Module):
    """An encoder with batch norm and dropout, and a head."""

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(dropout))
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


def with_norm(seed: int = 0, dropout: float = 0.3) -> tuple[Norm, Tensor, Tensor]:
    torch.manual_seed(seed)
    model = Norm(dropout).double()
    model(normal(seed + 9, 30, 4))  # moves the running statistics away from where they start
    return model, normal(seed, 12, 4), torch.arange(12) % 3


def on_model(model: nn.Module, x: Tensor, y: Tensor, solver: Solver, of: Any = None) -> Hypergradient:
    upper = partial(lambda a, b: F.cross_entropy(model(a), b), x.flip(0), y)
    return implicit_gradient(piece(model, x, y), upper, model if of is None else of, 0.3, solver=solver)


def dense_of_model(model: nn.Module, x: Tensor, y: Tensor, damping: float, names: list[str]) -> float:
    """The same by torch.func on the parameters named."""
    state = {n: p.detach() for n, p in model.named_parameters()}
    sizes = [state[n].numel() for n in names]
    point = torch.cat([state[n].reshape(-1) for n in names])

    def out(v: Tensor, rows: Tensor) -> Tensor:
        moved = {n: t.reshape(state[n].shape) for n, t in zip(names, v.split(sizes))}
        return functional_call(model, {**state, **moved}, (rows,))

    def losses(v: Tensor) -> tuple[Tensor, Tensor]:
        logits = out(v, x)
        return F.cross_entropy(logits, y), logits.pow(4).mean(0).sum()

    h = hessian(lambda v: Mixing.of(0.3).total(*losses(v)))(point) + damping * torch.eye(len(point)).double()
    mixed = jacrev(lambda v: Mixing.of(0.3).slope(*losses(v)))(point)
    upper = jacrev(lambda v: F.cross_entropy(out(v, x.flip(0)), y))(point)
    return -float(mixed @ torch.linalg.solve(h, upper))


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


def test_scopes_of_a_model() -> None:
    model, x, y = with_norm()
    model.eval()
    for scope, names in {
        "heads": ["head.weight", "head.bias"],
        r"pattern:encoder\.0": ["encoder.0.weight", "encoder.0.bias"],
        "pattern:bias$": ["encoder.0.bias", "encoder.1.bias", "head.bias"],
    }.items():
        found = on_model(model, x, y, replace(HESSIAN, scope=scope))
        assert found.value == pytest.approx(dense_of_model(model, x, y, 0.7, names), rel=1e-8), scope
        assert len(found.solution.x) == sum(p.numel() for n, p in model.named_parameters() if n in names)
    assert {id(p) for p in scoped_parameters(model, "last")} == {id(p) for p in model.head.parameters()}  # no encoders
    wrong = {"tail": "must be", "pattern:": "must be", "pattern:(": "regular", "pattern:no": "none of"}
    for scope, says in wrong.items():
        with pytest.raises(BadValue, match=says):
            on_model(model, x, y, replace(HESSIAN, scope=scope))
    with pytest.raises(BadValue, match="give the model"):
        on_model(model, x, y, replace(HESSIAN, scope="heads"), of=list(model.parameters()))


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
def test_the_heads_of_a_multimodal_model_where_a_loss_does_not_reach_them(curvature: Any) -> None:
    """InfoNCE on features is constant in the head: only the classification loss is left there."""
    model = small_model().double().eval()
    x = {"a": normal(0, 6, 4), "b": normal(1, 6, 3)}
    y = torch.arange(6) % 3

    def inner() -> Inner:
        out = model(x)
        return Inner(
            [out.logits, *cosine_similarities(out.features, 0.5)], lambda o: (F.cross_entropy(o[0], y), info_nce(o[1:]))
        )

    def upper() -> Tensor:
        return F.cross_entropy(model(x).logits, y.flip(0))

    heads = scoped_parameters(model, "heads")
    assert {id(p) for p in heads} == {id(p) for p in model.head.parameters()}
    solver = replace(EXACT, curvature=curvature, damping=0.2, scope="heads")
    found = implicit_gradient(inner, upper, model, 0.4, solver=solver)
    l_cls = F.cross_entropy(model(x).logits, y)
    h = torch.stack([hessian_operator(0.6 * l_cls, heads)(e) for e in torch.eye(len(found.solution.x)).double()])
    x_exact = torch.linalg.solve(h + 0.2 * torch.eye(len(h)).double(), flat_grad(upper(), heads))
    assert found.value == pytest.approx(float(flat_grad(l_cls, heads) @ x_exact), rel=1e-8)


class Tail(Encoder):
    """Ends in a norm, made before a layer that is frozen. Not in a layer norm, for the sake of the dense matrix: the
    second derivative of torch.func in a layer norm's weight is wrong (torch 2.14; backward over backward is right)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh())
        self.last = nn.ModuleList([nn.Linear(5, 5), nn.BatchNorm1d(5)])
        self.unused = nn.Linear(2, 2)
        self.unused.requires_grad_(False)
        self.out_dim = 5

    def forward(self, x: Tensor) -> Tensor:
        return self.last[1](self.last[0](self.body(x)))


def two_tails() -> tuple[MultimodalModel, dict[str, Tensor], Tensor]:
    torch.manual_seed(0)
    model = MultimodalModel({"a": Tail(), "b": Tail()}, Concat({"a": 5, "b": 5}, 3)).double().eval()
    return model, {m: normal(i, 6, 4) for i, m in enumerate("ab")}, torch.arange(6) % 3


def matching_pieces(model: MultimodalModel, x: Any, y: Tensor) -> tuple[Callable[[], Inner], Callable[[], Tensor]]:
    def inner() -> Inner:
        out = model(x)
        return Inner(
            [out.logits, *cosine_similarities(out.features, 0.5)], lambda o: (F.cross_entropy(o[0], y), info_nce(o[1:]))
        )

    return inner, lambda: F.cross_entropy(model(x).logits, y.flip(0))


@pytest.mark.parametrize("curvature", ["gauss_newton", "hessian"])
def test_the_last_layers_of_a_multimodal_model(curvature: Any) -> None:
    model, x, y = two_tails()
    last = scoped_parameters(model, "last")
    names = {id(p): name for name, p in model.named_parameters()}
    ends = [f"encoders.{m}.last.{i}.{kind}" for m in "ab" for i in (0, 1) for kind in ("weight", "bias")]
    assert sorted(names[id(p)] for p in last) == sorted([*ends, "head.bias", "head.weight.a", "head.weight.b"])
    inner, upper = matching_pieces(model, x, y)
    solver = replace(EXACT, curvature=curvature, damping=3.0, scope="last")
    found = implicit_gradient(inner, upper, model, 0.4, solver=solver)
    at = torch.cat([p.detach().flatten() for p in last])
    sizes, shapes = [p.numel() for p in last], [p.shape for p in last]

    def outputs(vector: Tensor) -> list[Tensor]:
        pieces = (t.reshape(s) for t, s in zip(vector.split(sizes), shapes))
        out = functional_call(model, dict(zip((names[id(p)] for p in last), pieces)), (x,))
        return [out.logits, *cosine_similarities(out.features, 0.5)]

    def total(given: list[Tensor]) -> Tensor:
        return Mixing.of(0.4).total(F.cross_entropy(given[0], y), info_nce(given[1:]))

    if curvature == "hessian":
        dense = hessian(lambda v: total(outputs(v)))(at)
    else:
        now = outputs(at)
        jacobian = jacrev(lambda v: torch.cat([o.flatten() for o in outputs(v)]))(at)
        cut = [o.numel() for o in now]
        middle = hessian(lambda w: total([t.reshape(o.shape) for t, o in zip(w.split(cut), now)]))(
            torch.cat([o.flatten() for o in now])
        )
        dense = jacobian.T @ middle @ jacobian
    upper_grad = flat_grad(upper(), last)
    wanted = torch.linalg.solve((dense + 3.0 * torch.eye(len(at), dtype=at.dtype)).detach(), upper_grad)
    both = [flat_grad(loss, last) for loss in inner().losses(inner().outputs)]
    assert found.value == pytest.approx(-float((both[1] - both[0]) @ wanted), rel=1e-8)
    assert found.norms == pytest.approx([float(g.norm()) for g in both], rel=1e-10)
    assert float(both[1].norm()) > 1e-3  # unlike the heads alone, which a matching loss on features does not reach


def test_a_scoped_solve_keeps_no_graph_below_its_scope() -> None:
    model, x, y = two_tails()
    for p in model.encoders["b"].last[1].parameters():
        p.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    seen: dict[str, set[bool]] = {}
    for name in ("body", "last.1"):
        module = model.encoders["a"].get_submodule(name)
        module.register_forward_hook(lambda _m, _x, out, name=name: seen.setdefault(name, set()).add(out.requires_grad))
    inner, upper = matching_pieces(model, x, y)
    for scope, wanted in {
        "all": {"body": {True}, "last.1": {True}},
        "last": {"body": {False}, "last.1": {True}},
        "heads": {"body": {False}, "last.1": {False}},
    }.items():
        seen.clear()
        implicit_gradient(inner, upper, model, 0.4, solver=Solver(scope=scope))
        assert seen == wanted, scope
        assert before == {name: p.requires_grad for name, p in model.named_parameters()}
    with pytest.raises(ZeroDivisionError):
        implicit_gradient(lambda: 1 / 0, upper, model, 0.4, solver=Solver(scope="heads"))  # type: ignore[arg-type]
    assert before == {name: p.requires_grad for name, p in model.named_parameters()}


def test_every_vector_of_a_solve_is_reduced() -> None:
    """With a mean over processes that doubles what it is given, all that is linear in the vectors is doubled once."""
    model, x, y = two_tails()
    inner, upper = matching_pieces(model, x, y)
    shapes: list[torch.Size] = []

    def double(v: Tensor) -> Tensor:
        shapes.append(v.shape)
        return 2 * v

    solver = replace(EXACT, damping=0.1, relative=True, iterations=400)
    plain = implicit_gradient(inner, upper, model, 0.4, solver=solver)
    found = implicit_gradient(inner, upper, model, 0.4, solver=solver, reduce=double)
    assert found.lambda_max == pytest.approx(2 * plain.lambda_max, rel=1e-10)
    assert found.value == pytest.approx(2 * plain.value, rel=1e-6)  # 2 mixed (2 A)^-1 2 upper
    assert len(shapes) == 3 + found.products and set(shapes) == {plain.solution.x.shape}


def test_autocast_is_switched_off_inside() -> None:
    torch.manual_seed(0)
    model = Norm().eval()
    x, y = normal(0, 12, 4).float(), torch.arange(12) % 3
    expected = on_model(model, x, y, Solver())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
        found = on_model(model, x, y, Solver())
        assert torch.is_autocast_enabled("cpu")
        logits = model(x)
    assert found.value == expected.value and torch.equal(found.solution.x, expected.solution.x)
    with pytest.raises(Incompatible, match="half precision"):
        implicit_gradient(
            lambda: Inner([logits], lambda o: (F.cross_entropy(o[0], y), o[0].sum())),
            lambda: model(x).sum(),
            model,
            0.3,
        )


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize("wanted", [False, True])
def test_tf32_is_what_is_asked_for_off_in_a_solve_and_comes_back(wanted: bool) -> None:
    cudnn: Any = torch.backends.cudnn

    def seen() -> list[bool]:
        # What torch asks itself before it multiplies, which raises where its two ways of setting it disagree.
        return [
            torch._C._get_cublas_allow_tf32(),
            torch._C._get_cudnn_allow_tf32(),
            *(kind.fp32_precision == "tf32" for kind in (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)),
        ]

    before = seen()
    with tf32(wanted):
        assert seen() == [wanted] * 5
        with full_precision(torch.device("cuda")):
            assert seen() == [False] * 5
        assert seen() == [wanted] * 5
    assert seen() == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters_are_refused(dtype: torch.dtype) -> None:
    model = Norm().eval().to(dtype)
    with pytest.raises(Incompatible, match=r"need float32 or float64 \(model\.float\(\)\)"):
        on_model(model, torch.zeros(12, 4, dtype=dtype), torch.arange(12) % 3, Solver())


def test_it_works_where_gradients_are_switched_off() -> None:
    problem = two_branches(0)
    expected = problem.solve(0.4, Solver())
    with torch.no_grad():
        assert problem.solve(0.4, Solver()).value == expected.value


def test_float32_is_as_good_as_its_precision_allows() -> None:
    model, x, y = with_norm()
    model.eval()
    solver = replace(EXACT, damping=0.3, tol=1e-5, iterations=60)
    expected = on_model(model, x, y, solver).value
    assert on_model(model.float(), x.float(), y, solver).value == pytest.approx(expected, rel=1e-4)


# ---------------------------------------------------------------------- another library
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("seed", range(3))
def test_products_agree_with_curvlinops(seed: int) -> None:
    curvlinops = pytest.importorskip("curvlinops", reason="curvlinops-for-pytorch is an oracle for tests alone")
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y, loss = normal(seed, 9, 4), torch.arange(9) % 3, nn.CrossEntropyLoss()
    params = list(model.parameters())
    v = normal(seed + 1, sum(p.numel() for p in params))
    for kind, ours in {
        "HessianLinearOperator": hessian_operator(loss(model(x), y), params),
        "GGNLinearOperator": gauss_newton_operator([model(x)], lambda o: loss(o[0], y), params),
    }.items():
        theirs = getattr(curvlinops, kind)(model, loss, params, [(x, y)])
        torch.testing.assert_close(ours(v), theirs @ v, rtol=1e-10, atol=1e-13)


def test_the_lower_level_call_is_the_same_formula() -> None:
    a, b, mixed = spd(0, 5), normal(1, 5), normal(2, 5)
    solve: Callable[..., Solution] = partial(conjugate_gradients, max_iter=50, tol=1e-14)
    found = hypergradient(b, mixed, lambda v: a @ v, solve=solve, damping=0.3)
    assert found.value == pytest.approx(-float(mixed @ torch.linalg.solve(a + 0.3 * torch.eye(5).double(), b)))
    assert found.residual == found.solution.residual and found.products == found.solution.products

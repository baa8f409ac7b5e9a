"""A solve under autocast, TF32, half precision and float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.bilevel_problems import Norm, normal, on_model, spd, two_branches, with_norm
from torch import nn

from mmzoo.bilevel import (
    Inner,
    Solution,
    Solver,
    conjugate_gradients,
    full_precision,
    gauss_newton_operator,
    hessian_operator,
    hypergradient,
    implicit_gradient,
)
from mmzoo.core.precision import tf32
from mmzoo.errors import Incompatible

EXACT = Solver(iterations=2_000, tol=1e-13, power_iterations=(1, 1), relative=False, damping=0.0)


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

"""Second-order quantities: curvature products, linear solves, and the gradient of an upper loss in a mixing weight.

Losses must come from a forward in which batch statistics and dropout stand still (eval mode), in float32 or float64
without autocast; open the forward and everything here under `double_backward()`, since fused attention kernels have
no second derivative. Products go backward over backward on one kept graph, the order that is right for every layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Operator = Callable[[Tensor], Tensor]


def double_backward() -> AbstractContextManager[None]:
    """Attention by plain matrix products, which can be differentiated twice."""
    return sdpa_kernel(SDPBackend.MATH)


def flat_grad(
    value: Tensor, params: Sequence[Tensor], grad_output: Tensor | None = None, *, create_graph: bool = False
) -> Tensor:
    """(P,) gradient of a tensor with respect to all parameters, zeros where it does not depend on them."""
    grads = torch.autograd.grad(
        value, params, grad_output, create_graph=create_graph, retain_graph=True, allow_unused=True
    )
    return torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in zip(grads, params)])


def hessian_operator(loss: Tensor, params: Sequence[Tensor]) -> Operator:
    """v -> H v with H the exact Hessian of `loss`. It may be indefinite."""
    gradient = flat_grad(loss, params, create_graph=True)
    if not gradient.requires_grad:
        return torch.zeros_like
    return lambda v: flat_grad(gradient, params, v)


def gauss_newton_operator(
    outputs: Sequence[Tensor], loss_of: Callable[[Sequence[Tensor]], Tensor], params: Sequence[Tensor]
) -> Operator:
    """v -> J^T H_out J v: the Hessian with the curvature of the model left out (Schraudolph, 2002).

    outputs: what the model gives; loss_of: the loss as a function of them. Positive semi-definite when that function
    is convex.
    """
    leaves = [o.detach().requires_grad_() for o in outputs]
    with torch.enable_grad():
        local = torch.autograd.grad(loss_of(leaves), leaves, create_graph=True, allow_unused=True)
    used = [(o, leaf, g) for o, leaf, g in zip(outputs, leaves, local) if g is not None and g.requires_grad]
    transposed = []
    for o, _, _ in used:
        dummy = torch.zeros_like(o, requires_grad=True)
        transposed.append((dummy, flat_grad(o, params, dummy, create_graph=True)))

    def product(v: Tensor) -> Tensor:
        # J v is the derivative of w -> J^T w in the direction v, since that map is linear.
        moved = [torch.autograd.grad(jt, dummy, v, retain_graph=True)[0] for dummy, jt in transposed]
        curved = torch.autograd.grad(
            [g for _, _, g in used], [leaf for _, leaf, _ in used], moved, retain_graph=True, allow_unused=True
        )
        total = torch.zeros_like(v)
        for (o, _, _), c in zip(used, curved):
            if c is not None:
                total = total + flat_grad(o, params, c)
        return total

    return product


@dataclass(frozen=True)
class Solution:
    """x with A x = b. residual is relative to b; curvature is the smallest p^T A p / p^T p met (nan: none taken)."""

    x: Tensor
    residual: float
    iterations: int
    curvature: float


def conjugate_gradients(a: Operator, b: Tensor, *, max_iter: int, tol: float = 0.0) -> Solution:
    """Solve A x = b for positive definite A (Hestenes and Stiefel, 1952); exact after as many steps as dimensions.

    It stops before a direction of curvature that is not positive, keeping the iterate so far; `curvature` says so.
    """
    x, r = torch.zeros_like(b), b.clone()
    p, rr, bb = r.clone(), r @ r, b @ b
    curvature, done = math.inf, 0
    for _ in range(max_iter):
        if float(rr) <= tol**2 * float(bb):
            break
        ap = a(p)
        pap = p @ ap
        curvature = min(curvature, float(pap / (p @ p)))
        if not curvature > 0:
            break
        step = rr / pap
        x, r = x + step * p, r - step * ap
        fresh = r @ r
        p, rr, done = r + (fresh / rr) * p, fresh, done + 1
    return Solution(x, _relative(r, b), done, curvature if math.isfinite(curvature) else math.nan)


def minres(a: Operator, b: Tensor, *, max_iter: int, tol: float = 0.0) -> Solution:
    """Solve A x = b for symmetric A, indefinite or not, with the smallest residual (Paige and Saunders, 1975)."""
    beta = float(torch.linalg.vector_norm(b))
    x = torch.zeros_like(b)
    if beta == 0:
        return Solution(x, 0.0, 0, math.nan)
    scale, v_old, v = beta, torch.zeros_like(b), b / beta
    w_old, w = torch.zeros_like(b), torch.zeros_like(b)
    cos_old, sin_old, cos, sin = 1.0, 0.0, 1.0, 0.0
    eta, beta, curvature, done = scale, 0.0, math.inf, 0
    for _ in range(max_iter):
        if abs(eta) <= tol * scale:
            break
        av = a(v)
        alpha = float(v @ av)
        curvature = min(curvature, alpha)
        av = av - alpha * v - beta * v_old
        beta_next = float(torch.linalg.vector_norm(av))
        # The two former rotations act on the new column of the tridiagonal matrix, then a new one clears beta_next.
        upper = sin_old * beta
        middle = cos_old * beta
        above = cos * middle + sin * alpha
        pivot = -sin * middle + cos * alpha
        norm = math.hypot(pivot, beta_next)
        if norm == 0.0:
            break
        cos_old, sin_old, cos, sin = cos, sin, pivot / norm, beta_next / norm
        w_old, w = w, (v - upper * w_old - above * w) / norm
        x = x + cos * eta * w
        eta, done = -sin * eta, done + 1
        if beta_next <= 1e-15 * scale:
            break
        v_old, v, beta = v, av / beta_next, beta_next
    return Solution(x, _relative(b - a(x), b), done, curvature if math.isfinite(curvature) else math.nan)


def neumann(a: Operator, b: Tensor, *, terms: int, step: float) -> Solution:
    """x = step * sum_{k=0..terms} (I - step A)^k b. Converges only for step < 2 / lambda_max and A positive definite."""
    term, total = b.clone(), b.clone()
    for _ in range(terms):
        term = term - step * a(term)
        total = total + term
    x = step * total
    return Solution(x, _relative(b - a(x), b), terms, math.nan)


def largest_eigenvalue(a: Operator, like: Tensor, generator: torch.Generator, *, iterations: int = 6) -> float:
    """The size of the eigenvalue of largest absolute value, by power iteration: a lower bound that tightens."""
    v = torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
    size = 0.0
    for _ in range(iterations):
        v = v / torch.linalg.vector_norm(v).clamp_min(1e-30)
        v = a(v)
        size = float(torch.linalg.vector_norm(v))
        if size == 0.0:
            break
    return size


@dataclass(frozen=True)
class Hypergradient:
    """The derivative of the upper loss in the mixing weight, and how far it can be trusted.

    value: the derivative. direction: the same on a scale of -1 to 1, the cosine between the mixed derivative and the
    solution, which does not depend on the size of the losses or of the damping. usable: the solve converged to a
    finite value.
    """

    value: float
    direction: float
    damping: float
    solution: Solution
    usable: bool


def hypergradient(
    upper: Tensor, mixed: Tensor, operator: Operator, *, solve: Callable[[Operator, Tensor], Solution],
    damping: float = 0.0, max_residual: float = 0.5,
) -> Hypergradient:  # fmt: skip
    """-mixed^T (H + damping I)^{-1} upper (Yang et al., NeurIPS 2024, eq. 3).

    upper: (P,) gradient of the upper loss. mixed: (P,) derivative of the inner gradient in the mixing weight; for the
    inner loss (1 - a) L_cls + a L_mm it is grad L_mm - grad L_cls exactly. operator: products with the curvature of
    the inner loss.
    """
    solution = solve(lambda v: operator(v) + damping * v, upper)
    value = -float(mixed @ solution.x)
    size = float(torch.linalg.vector_norm(mixed) * torch.linalg.vector_norm(solution.x))
    usable = math.isfinite(value) and solution.residual <= max_residual and solution.iterations > 0
    return Hypergradient(value, value / size if size > 0 else 0.0, damping, solution, usable)


def _relative(residual: Tensor, b: Tensor) -> float:
    size = float(torch.linalg.vector_norm(b))
    return float(torch.linalg.vector_norm(residual)) / size if size > 0 else 0.0

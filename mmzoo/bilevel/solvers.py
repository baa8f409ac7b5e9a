"""Matrix-free iterative solvers for A x = b, and an estimate of the spectral norm of A.

Used by the hypergradients of `mmzoo.bilevel`; independent of models and strategies. Solvers take flat vectors (P,),
start from zero or from `x0`, and return the residual that they reached. Inner products of float32 vectors are
accumulated in float64: with 1e7 parameters, float32 rounding would limit the accuracy of a solve.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Operator = Callable[[Tensor], Tensor]
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Solution:
    """An approximate solution x of A x = b.

    Args:
        x: (P,).
        residual: |b - A x| / |b|; 0 for b = 0.
        iterations: number of iterations.
        curvature: the smallest Rayleigh quotient p^T A p / p^T p found; nan without an iteration. A negative value
            proves that A is indefinite.
        products: number of products with A.
        largest: the largest absolute Ritz value, a lower bound of the spectral norm of A; nan: none was computed.
    """

    x: Tensor
    residual: float
    iterations: int
    curvature: float
    products: int = 0
    largest: float = math.nan


def dot(a: Tensor, b: Tensor) -> float:
    """a^T b of two vectors (P,), in float64 for any dtype, computed in pieces to avoid a copy."""
    if a.dtype == torch.float64 or a.device.type == "mps":
        return float(a @ b)
    return float(sum(x.double() @ y.double() for x, y in zip(a.split(_CHUNK), b.split(_CHUNK))))


def length(a: Tensor) -> float:
    """The Euclidean norm of a vector (P,), summed in float64."""
    square = dot(a, a)
    return math.sqrt(square) if square >= 0 else math.nan


def conjugate_gradients(
    a: Operator, b: Tensor, *, max_iter: int, tol: float = 0.0, x0: Tensor | None = None
) -> Solution:
    """Solve A x = b for positive definite A (Hestenes and Stiefel, 1952).

    Exact after as many steps as dimensions. Stops before a direction of non-positive curvature and returns the iterate
    so far; `Solution.curvature` shows this.

    Args:
        a: products with A.
        b: (P,).
        max_iter: largest number of iterations.
        tol: stop when the residual is below `tol` times |b|.
        x0: (P,), starting point; ignored if it is worse than zero.
    """
    x, r, products = _start(a, b, x0)
    p, rr, size = r.clone(), dot(r, r), length(b)
    curvature, done = math.inf, 0
    for _ in range(max_iter):
        if math.sqrt(rr) <= tol * size:
            break
        ap = a(p)
        products += 1
        pap = dot(p, ap)
        curvature = min(curvature, pap / dot(p, p))
        if not curvature > 0:
            break
        step = rr / pap
        x, r = x + step * p, r - step * ap
        fresh = dot(r, r)
        p, rr, done = r + (fresh / rr) * p, fresh, done + 1
    return Solution(x, _relative(r, b), done, curvature if math.isfinite(curvature) else math.nan, products)


def minres(a: Operator, b: Tensor, *, max_iter: int, tol: float = 0.0, x0: Tensor | None = None) -> Solution:
    """Solve A x = b for symmetric, possibly indefinite A with the smallest residual (Paige and Saunders, 1975).

    `Solution.curvature` is the smallest Ritz value. One more product measures the residual (its recurrence drifts).

    Args:
        a: products with A.
        b: (P,).
        max_iter, tol, x0: as for `conjugate_gradients`.
    """
    x, r, products = _start(a, b, x0)
    scale, size = length(r), length(b)
    if scale == 0:
        return Solution(x, 0.0, 0, math.nan, products)
    v_old, v = torch.zeros_like(b), r / scale
    w_old, w = torch.zeros_like(b), torch.zeros_like(b)
    cos_old, sin_old, cos, sin = 1.0, 0.0, 1.0, 0.0
    eta, beta, norm_a = scale, 0.0, 0.0
    diagonal: list[float] = []
    beside: list[float] = []
    for _ in range(max_iter):
        if abs(eta) <= tol * size:
            break
        av = a(v)
        products += 1
        alpha = dot(v, av)
        av = av - alpha * v - beta * v_old
        beta_next = length(av)
        if not math.isfinite(alpha + beta_next):
            x = torch.full_like(x, math.nan)
            break
        diagonal.append(alpha)
        beside.append(beta_next)
        # The two former rotations act on the new column of the tridiagonal matrix, then a new one clears beta_next.
        upper, middle = sin_old * beta, cos_old * beta
        above = cos * middle + sin * alpha
        pivot = -sin * middle + cos * alpha
        norm = math.hypot(pivot, beta_next)
        if norm == 0.0:
            break
        cos_old, sin_old, cos, sin = cos, sin, pivot / norm, beta_next / norm
        w_old, w = w, (v - upper * w_old - above * w) / norm
        x = x + cos * eta * w
        eta = -sin * eta
        norm_a = max(norm_a, beta + abs(alpha) + beta_next)
        if beta_next <= 1e-15 * norm_a:
            break
        v_old, v, beta = v, av / beta_next, beta_next
    smallest, largest = _ritz(diagonal, beside)
    return Solution(x, _relative(b - a(x), b), len(diagonal), smallest, products + 1, largest)


def neumann(a: Operator, b: Tensor, *, terms: int, step: float, x0: Tensor | None = None) -> Solution:
    """x = x0 + step * sum_{k=0..terms} (I - step A)^k (b - A x0): the Neumann series (Lorraine et al., 2020).

    Converges for positive definite A and step < 2 / lambda_max, slowly: each term reduces the error by a factor of 1 -
    step * lambda_min. One more product measures the residual.

    Args:
        a: products with A.
        b: (P,).
        terms: number of terms after the first.
        step: step size.
        x0: (P,), starting point; None: zero.
    """
    x, r, products = _start(a, b, x0)
    term, total, curvature = r.clone(), r.clone(), math.inf
    for _ in range(terms):
        moved = a(term)
        square = dot(term, term)
        if square > 0:
            curvature = min(curvature, dot(term, moved) / square)
        term = term - step * moved
        total = total + term
    x = x + step * total
    found = curvature if math.isfinite(curvature) else math.nan
    return Solution(x, _relative(b - a(x), b), terms, found, products + terms + 1)


def power_iteration(a: Operator, v: Tensor, *, iterations: int) -> tuple[float, Tensor]:
    """The largest absolute eigenvalue, and the vector (P,) reached.

    The value is a lower bound that improves with every product; from a vector reached before, two are enough.

    Args:
        a: products with A.
        v: (P,), starting vector.
        iterations: number of products.
    """
    size = 0.0
    for _ in range(iterations):
        norm = length(v)
        moved = a(v / max(norm, 1e-30))
        size = length(moved)
        if not size > 0.0 or not math.isfinite(size):
            break
        v = moved
    return size, v / max(length(v), 1e-30)


def largest_eigenvalue(a: Operator, like: Tensor, generator: torch.Generator, *, iterations: int = 6) -> float:
    """The largest absolute eigenvalue, by `power_iteration` from a random vector.

    Args:
        a: products with A.
        like: (P,), a vector of the shape, dtype and device wanted.
        generator: draws the starting vector.
        iterations: number of products.
    """
    return power_iteration(a, random_vector(like, generator), iterations=iterations)[0]


def random_vector(like: Tensor, generator: torch.Generator) -> Tensor:
    """A normal vector, drawn on the CPU so that it does not depend on the device."""
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def _start(a: Operator, b: Tensor, x0: Tensor | None) -> tuple[Tensor, Tensor, int]:
    """The first iterate, its residual vector, and how many products that took."""
    if x0 is None or not bool(x0.any()):
        return torch.zeros_like(b), b.clone(), 0
    r = b - a(x0)
    if not length(r) < length(b):  # no better than nothing, or not finite
        return torch.zeros_like(b), b.clone(), 1
    return x0.clone(), r, 1


def _ritz(diagonal: list[float], beside: list[float]) -> tuple[float, float]:
    """The smallest and the largest absolute eigenvalue of the tridiagonal matrix of a Lanczos process."""
    if not diagonal:
        return math.nan, math.nan
    off = torch.tensor(beside[:-1], dtype=torch.float64)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)
    values = torch.linalg.eigvalsh(matrix)
    return float(values[0]), float(values.abs().max())


def _relative(residual: Tensor, b: Tensor) -> float:
    size = length(b)
    return length(residual) / size if size > 0 else 0.0

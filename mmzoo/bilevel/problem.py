"""The inputs and results of an implicit solve: losses of both levels, the solver, and the derivative."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from mmzoo.bilevel.solvers import Solution
from mmzoo.errors import BadValue

Losses = Callable[[Sequence[Tensor]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Mixing:
    """The inner loss factors[0] * L_cls + factors[1] * L_mm.

    Args:
        factors: the two factors.
        slopes: their derivatives in the weight alpha.
    """

    factors: tuple[float, float]
    slopes: tuple[float, float] = (-1.0, 1.0)

    @classmethod
    def of(cls, alpha: float | Mixing) -> Mixing:
        """(1 - alpha) * L_cls + alpha * L_mm for a number (Yang et al., NeurIPS 2024, eq. 1)."""
        return alpha if isinstance(alpha, Mixing) else cls((1.0 - alpha, alpha))

    @classmethod
    def additive(cls, alpha: float) -> Mixing:
        """L_cls + alpha * L_mm."""
        return cls((1.0, alpha), (0.0, 1.0))

    def total(self, l_cls: Tensor, l_mm: Tensor) -> Tensor:
        """The inner loss, from the scalars `l_cls` and `l_mm`."""
        return self.factors[0] * l_cls + self.factors[1] * l_mm

    def slope(self, l_cls: Tensor, l_mm: Tensor) -> Tensor:
        """The derivative of the inner loss in alpha at fixed parameters, from the scalars `l_cls` and `l_mm`."""
        return self.slopes[0] * l_cls + self.slopes[1] * l_mm


@dataclass(frozen=True)
class Inner:
    """One micro-batch of the inner problem.

    Args:
        outputs: outputs of the model with their graph; for Gauss-Newton, the layer up to which the model's own
            curvature is left out.
        losses: (L_cls, L_mm), means over samples, as a function of these outputs only.
        weight: weight in the average over micro-batches, e.g. the number of samples.
    """

    outputs: Sequence[Tensor]
    losses: Losses
    weight: float = 1.0


@dataclass(frozen=True)
class Upper:
    """One micro-batch of the upper loss.

    Args:
        loss: a scalar with its graph.
        weight: weight in the average over micro-batches, e.g. the number of samples.
    """

    loss: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Warm:
    """Starting point for the next solve.

    Args:
        solution: (P,), the solution.
        eigenvector: (P,), the vector that power iteration reached.
    """

    solution: Tensor
    eigenvector: Tensor | None = None


@dataclass(frozen=True)
class Solver:
    """How (H + damping I) x = grad L_upper is solved, H being the curvature of the inner loss.

    Args:
        curvature: "gauss_newton" (default) is positive semi-definite; "hessian" is the paper's formula, indefinite in
            practice; "identity" is first order: I replaces H + damping I without a product (Luketina et al., 2016), so
            that only sign and direction of the result are meaningful.
        method: "cg" (default for gauss_newton), "minres" (default for hessian) or "neumann" (step 1 / lambda_max of the
            damped matrix, `iterations` terms; needs hundreds of them and a definite matrix).
        damping: added to the diagonal.
        iterations: largest number of iterations.
        tol: relative residual at which the solve stops.
        power_iterations: products to estimate lambda_max, without and with a starting vector.
        scope: see `scoped_parameters`.
        relative: `damping` is a multiple of lambda_max.
        max_residual: relative residual above which a result is not usable.
        fallback: a larger damping, of a second solve where the first is not usable; None: no second one.

    Raises:
        BadValue: a value is out of range.
    """

    curvature: Literal["gauss_newton", "hessian", "identity"] = "gauss_newton"
    method: Literal["cg", "minres", "neumann"] | None = None
    damping: float = 0.01
    iterations: int = 10
    tol: float = 1e-2
    power_iterations: tuple[int, int] = (6, 2)
    scope: str = "all"
    relative: bool = True
    max_residual: float = 0.5
    fallback: float | None = None

    def __post_init__(self) -> None:
        known = {"curvature": ("gauss_newton", "hessian", "identity"), "method": (None, "cg", "minres", "neumann")}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise BadValue(f"{name} must be one of {', '.join(map(repr, values))}, not {getattr(self, name)!r}.")
        for name in ("damping", "fallback"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise BadValue(f"{name} must be a number that is not negative, not {value}.")
        if self.iterations < 1 or min(self.power_iterations) < 1:
            raise BadValue("iterations and power_iterations must be at least 1.")
        if not (self.tol >= 0 and self.max_residual > 0):
            raise BadValue("tol must not be negative, and max_residual must be positive.")

    @property
    def dampings(self) -> tuple[float, ...]:
        """Of the first solve, and of the second one where there may be one."""
        if self.fallback is None or self.fallback <= self.damping:
            return (self.damping,)
        return self.damping, self.fallback

    @property
    def how(self) -> str:
        """The method, with None resolved."""
        return self.method or ("minres" if self.curvature == "hessian" else "cg")


@dataclass(frozen=True)
class Hypergradient:
    """The derivative of the upper loss in the mixing weight, and how far it can be trusted.

    Args:
        value: the derivative.
        direction: the cosine between the mixed derivative and the solution; independent of the size of the losses, and
            nearly of the damping.
        damping: as added to the diagonal.
        solution: the solution of the linear system.
        usable: the solve came close enough to a finite value.
        reason: why it is not usable.
        lambda_max: the estimate; nan: none.
        products: number of curvature products.
        backwards: their cost, in backwards over one micro-batch.
        norms: of grad L_cls and grad L_mm in the scope of the solve.
        warm: starting point for the next solve.
    """

    value: float
    direction: float
    damping: float
    solution: Solution
    usable: bool
    reason: str = ""
    lambda_max: float = math.nan
    products: int = 0
    backwards: int = 0
    norms: tuple[float, float] = (math.nan, math.nan)
    warm: Warm | None = None

    @property
    def residual(self) -> float:
        """|b - A x| / |b| of the damped system."""
        return self.solution.residual

    @property
    def iterations(self) -> int:
        """The number of iterations."""
        return self.solution.iterations

    @property
    def curvature(self) -> float:
        """The smallest curvature of the damped matrix found in the solve; nan: none."""
        return self.solution.curvature

    @property
    def indefinite(self) -> bool:
        """Whether the solve found a direction of negative curvature: the damping was too small."""
        return self.solution.curvature < 0

"""The values that an implicit solve is given and gives: losses of both levels, how to solve, and what was found."""

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
    """The inner loss factors[0] * L_cls + factors[1] * L_mm, and the slopes of both factors in the weight alpha."""

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
        """The inner loss."""
        return self.factors[0] * l_cls + self.factors[1] * l_mm

    def slope(self, l_cls: Tensor, l_mm: Tensor) -> Tensor:
        """Its derivative in alpha where the parameters stand still."""
        return self.slopes[0] * l_cls + self.slopes[1] * l_mm


@dataclass(frozen=True)
class Inner:
    """One micro-batch of the inner problem.

    outputs: what the model gives, with its graph (for Gauss-Newton, the layer up to which the model's own curvature
    is left out). losses: (L_cls, L_mm), both means over the items, as a function of those outputs alone. weight: its
    share in the average over micro-batches, for instance how many items it has.
    """

    outputs: Sequence[Tensor]
    losses: Losses
    weight: float = 1.0


@dataclass(frozen=True)
class Upper:
    """One micro-batch of the upper loss, with its graph. weight: its share in the average, as in Inner."""

    loss: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Warm:
    """What the next call may start from: the solution (P,) and the vector (P,) that power iteration reached."""

    solution: Tensor
    eigenvector: Tensor | None = None


@dataclass(frozen=True)
class Solver:
    """How (H + damping I) x = grad L_upper is solved, H being the curvature of the inner loss.

    curvature: "gauss_newton" is positive semi-definite and the safe one; "hessian" is the paper's formula, and
    indefinite in practice; "identity" is first order: H + damping I is replaced by I without a single product
    (Luketina et al., 2016), so only the sign and the direction of the result mean something.
    method: "cg" (None: for gauss_newton), "minres" (None: for hessian) or "neumann" (step 1 / lambda_max of the
    damped matrix, `iterations` terms; wants hundreds, and a definite matrix).
    damping: added to the diagonal; a multiple of lambda_max, or as it is with `relative=False`.
    power_iterations: products to estimate lambda_max, without and with a vector to start from.
    scope: see `scoped_parameters`. max_residual: the relative residual above which a result is not usable.

    Raises BadValue for values that mean nothing.
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

    def __post_init__(self) -> None:
        known = {"curvature": ("gauss_newton", "hessian", "identity"), "method": (None, "cg", "minres", "neumann")}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise BadValue(f"{name} must be one of {', '.join(map(repr, values))}, not {getattr(self, name)!r}.")
        if not (self.damping >= 0 and math.isfinite(self.damping)):
            raise BadValue(f"damping must be a number that is not negative, not {self.damping}.")
        if self.iterations < 1 or min(self.power_iterations) < 1:
            raise BadValue("iterations and power_iterations must be at least 1.")
        if not (self.tol >= 0 and self.max_residual > 0):
            raise BadValue("tol must not be negative, and max_residual must be positive.")

    @property
    def how(self) -> str:
        """The method, with None resolved."""
        return self.method or ("minres" if self.curvature == "hessian" else "cg")


@dataclass(frozen=True)
class Hypergradient:
    """The derivative of the upper loss in the mixing weight, and how far it can be trusted.

    value: the derivative. direction: the same on a scale of -1 to 1, the cosine between the mixed derivative and the
    solution, which does not depend on the size of the losses and hardly on that of the damping. damping: as added to
    the diagonal. usable: the solve came close enough to a finite value; `reason` says why not. lambda_max: the
    estimate (nan: none was made). products: with the curvature, in all. backwards: what that cost, in backwards over
    one micro-batch. norms: of grad L_cls and grad L_mm in the scope of the solve. warm: what the next call may start
    from.
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
        return self.solution.iterations

    @property
    def curvature(self) -> float:
        """The smallest curvature of the damped matrix that the solve met (nan: none)."""
        return self.solution.curvature

    @property
    def indefinite(self) -> bool:
        """Whether the solve met a direction of negative curvature: damping did not cover it."""
        return self.solution.curvature < 0

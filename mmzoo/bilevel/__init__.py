"""Derivatives of a validation loss in the weight of a training loss: implicit solves, and the forward tangent.

The public names of the folder. Imports torch.
"""

from mmzoo.bilevel.curvature import flat_grad, gauss_newton_operator, hessian_operator, not_still, scoped_parameters
from mmzoo.bilevel.forward import Derivative, ForwardTangent
from mmzoo.bilevel.implicit import hypergradient, implicit_gradient
from mmzoo.bilevel.problem import Hypergradient, Inner, Mixing, Solver, Upper, Warm
from mmzoo.bilevel.solvers import (
    Operator,
    Solution,
    conjugate_gradients,
    largest_eigenvalue,
    minres,
    neumann,
    power_iteration,
)
from mmzoo.core.modes import double_backward, frozen_statistics
from mmzoo.core.precision import full_precision

__all__ = [
    "Derivative",
    "ForwardTangent",
    "Hypergradient",
    "Inner",
    "Mixing",
    "Operator",
    "Solution",
    "Solver",
    "Upper",
    "Warm",
    "conjugate_gradients",
    "double_backward",
    "flat_grad",
    "frozen_statistics",
    "full_precision",
    "gauss_newton_operator",
    "hessian_operator",
    "hypergradient",
    "implicit_gradient",
    "largest_eigenvalue",
    "minres",
    "neumann",
    "not_still",
    "power_iteration",
    "scoped_parameters",
]

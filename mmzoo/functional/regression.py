"""Linear classifiers fitted to the optimum: logistic regression and ridge regression on one-hot labels.

Used through `mmzoo.functional` by linear probes and by the strategy `refit`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def logistic_regression(
    x: Tensor,
    target: Tensor,
    n_classes: int,
    *,
    c: float = 1.0,
    start: tuple[Tensor, Tensor] | None = None,
    max_iter: int = 200,
) -> tuple[Tensor, Tensor]:
    """Weight (C, D) and bias (C,) of a multinomial logistic regression, without a graph.

    Minimises the sum of cross-entropies plus ||W||^2 / (2 c), scikit-learn's objective, with L-BFGS. The problem is
    convex: the result depends on no seed and not on the order of the rows.

    Args:
        x: (N, D) float64.
        target: (N,).
        n_classes: number of classes C.
        c: inverse strength of the penalty.
        start: weight and bias to start from, e.g. the solution for a similar c; None: zeros.
        max_iter: largest number of iterations.
    """
    zeros = (x.new_zeros(n_classes, x.shape[1]), x.new_zeros(n_classes))
    weight, bias = (t.detach().clone() for t in (start or zeros))
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=max_iter, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )
    x, n, true = x.detach(), len(x), target[:, None]
    z, share = x.new_empty(n, n_classes), x.new_tensor(-1.0 / n).expand(n, 1)

    def loss() -> Tensor:
        # The gradient is written out, in one buffer: autograd would keep three, and on small problems takes as long as
        # the products.
        torch.addmm(bias, x, weight.T, out=z)
        z.sub_(z.amax(1, keepdim=True))
        hit = z.gather(1, true)
        total = z.exp_().sum(1, keepdim=True)
        z.div_(n * total).scatter_add_(1, true, share)
        weight.grad, bias.grad = torch.addmm(weight / (c * n), z.T, x), z.sum(0)
        return weight.square().sum() / (2 * c * n) + (total.log() - hit).mean()

    optimizer.step(loss)
    return weight, bias


class RidgeClassifier:
    """Ridge regression on one-hot labels, for any number of strengths after one decomposition, without a graph.

    Minimises ||X W' + b - Y||^2 + strength * N * ||W||^2, the objective of scikit-learn's Ridge with alpha = strength *
    N. Its outputs are no log-probabilities, so `fit` scales them by the factor with which the *leave-one-out*
    predictions (closed form: y - (y - f) / (1 - h), h the diagonal of the hat matrix) have the least cross-entropy. A
    positive factor changes no decision.

    Args:
        x: (N, D) float64.
        target: (N,).
        n_classes: number of classes C.
    """

    def __init__(self, x: Tensor, target: Tensor, n_classes: int) -> None:
        self._target = target
        self._y = F.one_hot(target, n_classes).to(x)
        self._mean_x, self._mean_y = x.mean(0), self._y.mean(0)
        values, self._basis = torch.linalg.eigh((x - self._mean_x).T @ (x - self._mean_x))
        self._values = values.clamp_min(0.0)
        self._rotated = (x - self._mean_x) @ self._basis
        self._right = self._rotated.T @ (self._y - self._mean_y)

    def fit(self, strength: float) -> tuple[Tensor, Tensor]:
        """Weight (C, D) and bias (C,) of the scaled outputs for one `strength`."""
        n = len(self._y)
        shrunk = 1.0 / (self._values + strength * n)
        weight = (self._basis @ (shrunk[:, None] * self._right)).T
        fitted = self._rotated @ (shrunk[:, None] * self._right) + self._mean_y
        leverage = (self._rotated.square() @ shrunk + 1.0 / n).clamp_max(1.0 - 1e-9)[:, None]
        left_out = self._y - (self._y - fitted) / (1.0 - leverage)
        factor = _best_factor(left_out, self._target)
        return factor * weight, factor * (self._mean_y - weight @ self._mean_x)


def _best_factor(values: Tensor, target: Tensor) -> float:
    """The factor from 0.1 to 1000 with which `values` (N, C) have the least cross-entropy: convex in it, by bisection."""
    low, high = math.log(0.1), math.log(1000.0)
    hit = values.gather(1, target[:, None]).squeeze(1)
    for _ in range(40):
        factor = math.exp((low + high) / 2)
        slope = ((factor * values).softmax(-1) * values).sum(-1) - hit
        low, high = (low, (low + high) / 2) if float(slope.mean()) > 0 else ((low + high) / 2, high)
    return math.exp((low + high) / 2)

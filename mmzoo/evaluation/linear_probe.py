"""The linear probe of a frozen encoder: how well a linear classifier does on its features, whatever the head."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmzoo.core.precision import without_compiler
from mmzoo.functional import logistic_regression


def linear_probe(
    features: Tensor, target: Tensor, test_features: Tensor, n_classes: int, *, c: float = 1.0, max_iter: int = 200
) -> Tensor:
    """(N_test, C) logits of a linear probe; see `fit_probe`.

    Args:
        features: (N, D).
        target: (N,).
        test_features: (N_test, D).
        n_classes: number of classes C.
        c: inverse strength of the penalty.
        max_iter: largest number of L-BFGS iterations.
    """
    return fit_probe(features, target, n_classes, c=c, max_iter=max_iter)(test_features)


def fit_probe(
    features: Tensor, target: Tensor, n_classes: int, *, c: float = 1.0, max_iter: int = 200
) -> Callable[[Tensor], Tensor]:
    """A multinomial logistic regression on frozen features: a function from (N, D) features to (N, C) logits.

    Minimises the sum of cross-entropies plus ||W||^2 / (2 c), scikit-learn's objective, with L-BFGS in float64 from
    zero: the result does not depend on a seed.

    Args:
        features: (N, D), standardised here by their own mean and std.
        target: (N,).
        n_classes: number of classes C.
        c: inverse strength of the penalty.
        max_iter: largest number of iterations.
    """
    mean, deviation = features.double().mean(0), features.double().std(0, unbiased=False)
    scale = torch.where(deviation > 0, deviation, 1.0)

    def standardised(z: Tensor) -> Tensor:
        return (z.double() - mean) / scale

    with without_compiler():
        weight, bias = logistic_regression(standardised(features), target, n_classes, c=c, max_iter=max_iter)
    return lambda z: F.linear(standardised(z), weight, bias)

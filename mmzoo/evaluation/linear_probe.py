"""The linear probe of a frozen encoder: what its features tell, whatever the head makes of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mmzoo.core.precision import without_compiler


def linear_probe(
    features: Tensor, target: Tensor, test_features: Tensor, n_classes: int, *, c: float = 1.0, max_iter: int = 200
) -> Tensor:
    """(N_test, C) logits of `fit_probe` for some features."""
    return fit_probe(features, target, n_classes, c=c, max_iter=max_iter)(test_features)


def fit_probe(
    features: Tensor, target: Tensor, n_classes: int, *, c: float = 1.0, max_iter: int = 200
) -> Callable[[Tensor], Tensor]:
    """(N, D) features -> (N, C) logits: a multinomial logistic regression fitted on frozen features.

    features: (N, D), standardised here by their own mean and deviation. Minimises the sum of cross-entropies plus
    ||W||^2 / (2 c), scikit-learn's objective, with L-BFGS in float64 from zero: the result does not depend on a seed.
    """
    mean, deviation = features.double().mean(0), features.double().std(0, unbiased=False)
    scale = torch.where(deviation > 0, deviation, 1.0)

    def standardised(z: Tensor) -> Tensor:
        return (z.double() - mean) / scale

    x = standardised(features)
    weight = torch.zeros(n_classes, x.shape[1], dtype=torch.float64, device=x.device, requires_grad=True)
    bias = torch.zeros(n_classes, dtype=torch.float64, device=x.device, requires_grad=True)

    def loss() -> Tensor:
        weight.grad = bias.grad = None
        value = F.cross_entropy(F.linear(x, weight, bias), target) + weight.square().sum() / (2 * c * len(x))
        value.backward()
        return value

    with torch.enable_grad(), without_compiler():
        optimizer = torch.optim.LBFGS(
            [weight, bias],
            max_iter=max_iter,
            tolerance_grad=1e-6,
            tolerance_change=1e-10,
            line_search_fn="strong_wolfe",
        )
        optimizer.step(loss)
    return lambda z: F.linear(standardised(z), weight, bias).detach()

"""Training steps in numpy, as an independent account of what the library computes: exact gradients and plain SGD."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from mmzoo.api import Encoder

#: name of a parameter -> its values
Weights = Mapping[str, Any]


class Linear(Encoder):
    """One linear layer."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, out)
        self.out_dim = out

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


def weights_of(module: nn.Module) -> dict[str, Any]:
    return {name: p.detach().numpy().copy() for name, p in module.named_parameters()}


def assert_same(module: nn.Module, w: Weights) -> None:
    for name, value in weights_of(module).items():
        np.testing.assert_allclose(value, w[name], rtol=0, atol=1e-11, err_msg=name)


def encode(w: Weights, m: str, x: Tensor) -> Any:
    """What the encoder `Linear` of a modality gives."""
    return x.numpy() @ w[f"encoders.{m}.linear.weight"].T + w[f"encoders.{m}.linear.bias"]


def pass_of_head(head: Any, z: Mapping[str, Tensor], present: Tensor, target: Tensor) -> tuple[Any, Weights, Weights]:
    """A forward and backward of cross-entropy: what the head said, its weights and features (`z.NAME`), their gradients."""
    values = {**weights_of(head), **{f"z.{m}": x.numpy().copy() for m, x in z.items()}}
    for x in z.values():
        x.requires_grad_()
    out = head(z, present)
    nn.functional.cross_entropy(out.logits, target).backward()
    found = {**dict(head.named_parameters()), **{f"z.{m}": x for m, x in z.items()}}
    return out, values, {name: x.grad.numpy() for name, x in found.items()}


def assert_gradients(seen: Weights, exact: Weights) -> None:
    assert set(seen) == set(exact)
    for name, grad in exact.items():
        np.testing.assert_allclose(seen[name], grad, rtol=0, atol=1e-12, err_msg=name)


def log_softmax(z: Any) -> Any:
    z = z - z.real.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def cross_entropy(z: Any, y: Any) -> Any:
    return -log_softmax(z)[np.arange(len(y)), y].mean()


def gradient(loss: Callable[[Weights], Any], w: Weights) -> dict[str, Any]:
    """The exact gradient by a complex step of 1e-30 in every entry."""
    grads = {name: np.zeros_like(value) for name, value in w.items()}
    for name, value in w.items():
        for at in np.ndindex(value.shape):
            moved = value.astype(complex)
            moved[at] += 1e-30j
            grads[name][at] = loss({**w, name: moved}).imag / 1e-30
    return grads


class Sgd:
    """v <- 0.9 v + g + 0.03 w, then w <- w - 0.2 v."""

    def __init__(self) -> None:
        self.velocity: dict[str, Any] = {}

    def step(self, w: Weights, g: Weights) -> dict[str, Any]:
        moved = {}
        for name in w:
            total = g[name] + 0.03 * w[name]
            self.velocity[name] = 0.9 * self.velocity[name] + total if name in self.velocity else total
            moved[name] = w[name] - 0.2 * self.velocity[name]
        return moved

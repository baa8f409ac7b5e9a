"""Bilevel problems whose answer dense linear algebra knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from mmzoo.bilevel import (
    Hypergradient,
    Inner,
    Mixing,
    Solver,
    implicit_gradient,
)
from mmzoo.functional import cosine_similarities, info_nce


def hessian(loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The matrix of second derivatives."""
    return jacrev(jacrev(loss))


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------------- two problems
@dataclass
class Problem:
    """Two losses as functions of parameters, an upper loss, and what a call of implicit_gradient wants of them."""

    params: list[Tensor]
    outputs: Callable[..., list[Tensor]]
    losses: Callable[[Any], tuple[Tensor, Tensor]]
    upper: Callable[..., Tensor]

    def solve(self, alpha: float | Mixing, solver: Solver, **kwargs: Any) -> Hypergradient:
        leaves = [p.clone().requires_grad_() for p in self.params]
        return implicit_gradient(
            lambda: Inner(self.outputs(*leaves), self.losses),
            lambda: self.upper(*leaves),
            leaves,
            alpha,
            solver=solver,
            **kwargs,
        )

    def flat(self, loss: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
        """A loss of the parameters as one of a single vector (P,)."""
        sizes, shapes = [p.numel() for p in self.params], [p.shape for p in self.params]
        return lambda v: loss(*(t.reshape(s) for t, s in zip(v.split(sizes), shapes)))

    @property
    def point(self) -> Tensor:
        return torch.cat([p.reshape(-1) for p in self.params])

    def inner(self, mixing: Mixing) -> Callable[[Tensor], Tensor]:
        return self.flat(lambda *p: mixing.total(*self.losses(self.outputs(*p))))

    def mixed(self, mixing: Mixing) -> Tensor:
        return jacrev(self.flat(lambda *p: mixing.slope(*self.losses(self.outputs(*p)))))(self.point)

    def gradient(self) -> Tensor:
        return jacrev(self.flat(self.upper))(self.point)

    def dense(self, mixing: Mixing, curvature: str) -> Tensor:
        """The curvature as a matrix (P, P), by torch.func and not by our products."""
        if curvature == "hessian":
            return hessian(self.inner(mixing))(self.point)
        jacobian = jacrev(self.flat(lambda *p: torch.cat([o.reshape(-1) for o in self.outputs(*p)])))(self.point)
        now = self.outputs(*self.params)
        sizes, shapes = [o.numel() for o in now], [o.shape for o in now]

        def loss(values: Tensor) -> Tensor:
            return mixing.total(*self.losses([t.reshape(s) for t, s in zip(values.split(sizes), shapes)]))

        return jacobian.T @ hessian(loss)(torch.cat([o.reshape(-1) for o in now])) @ jacobian

    def expected(self, alpha: float | Mixing, curvature: str, damping: float) -> float:
        mixing = Mixing.of(alpha)
        matrix = self.dense(mixing, curvature) + damping * torch.eye(len(self.point), dtype=torch.float64)
        return -float(self.mixed(mixing) @ torch.linalg.solve(matrix, self.gradient()))


def two_branches(seed: int, items: int = 6, activation: Callable[[Tensor], Tensor] = torch.tanh) -> Problem:
    """Two encoders of one layer, a joint classifier, cross-entropy and InfoNCE; the upper loss on other items."""
    x, held = ({m: normal(seed + k + i, items, 3) for i, m in enumerate("av")} for k in (0, 10))
    generator = torch.Generator().manual_seed(seed)
    target, held_target = (torch.randint(3, (items,), generator=generator) for _ in range(2))

    def outputs(a: Tensor, v: Tensor, joint: Tensor, rows: dict[str, Tensor] = x) -> list[Tensor]:
        z = {"a": activation(rows["a"] @ a), "v": activation(rows["v"] @ v)}
        return [torch.cat([z["a"], z["v"]], 1) @ joint, *cosine_similarities(z, 0.5)]

    params = [normal(seed + 20, 3, 2), normal(seed + 21, 3, 2), normal(seed + 22, 4, 3)]
    return Problem(
        params,
        outputs,
        lambda o: (F.cross_entropy(o[0], target), info_nce(o[1:])),
        lambda *p: F.cross_entropy(outputs(*p, rows=held)[0], held_target),
    )


def spd(seed: int, n: int) -> Tensor:
    q, _ = torch.linalg.qr(normal(seed, n, n))
    return q @ torch.diag(torch.linspace(0.3, 3.0, n, dtype=torch.float64)) @ q.T


def piece(model: nn.Module, x: Tensor, target: Tensor, weight: float = 1.0) -> Callable[[], Inner]:
    """Cross-entropy, and a second loss that is a mean over items too."""
    return lambda: Inner([model(x)], lambda o: (F.cross_entropy(o[0], target), o[0].pow(4).mean(0).sum()), weight)


# ---------------------------------------------------------------------- traps
class Norm(nn.Module):
    """An encoder with batch norm and dropout, and a head."""

    def __init__(self, dropout: float = 0.3) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(dropout))
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


def with_norm(seed: int = 0, dropout: float = 0.3) -> tuple[Norm, Tensor, Tensor]:
    torch.manual_seed(seed)
    model = Norm(dropout).double()
    model(normal(seed + 9, 30, 4))  # moves the running statistics away from where they start
    return model, normal(seed, 12, 4), torch.arange(12) % 3


def on_model(model: nn.Module, x: Tensor, y: Tensor, solver: Solver, of: Any = None) -> Hypergradient:
    upper = partial(lambda a, b: F.cross_entropy(model(a), b), x.flip(0), y)
    return implicit_gradient(piece(model, x, y), upper, model if of is None else of, 0.3, solver=solver)


def dense_of_model(model: nn.Module, x: Tensor, y: Tensor, damping: float, names: list[str]) -> float:
    """The same by torch.func on the parameters named."""
    state = {n: p.detach() for n, p in model.named_parameters()}
    sizes = [state[n].numel() for n in names]
    point = torch.cat([state[n].reshape(-1) for n in names])

    def out(v: Tensor, rows: Tensor) -> Tensor:
        moved = {n: t.reshape(state[n].shape) for n, t in zip(names, v.split(sizes))}
        return functional_call(model, {**state, **moved}, (rows,))

    def losses(v: Tensor) -> tuple[Tensor, Tensor]:
        logits = out(v, x)
        return F.cross_entropy(logits, y), logits.pow(4).mean(0).sum()

    h = hessian(lambda v: Mixing.of(0.3).total(*losses(v)))(point) + damping * torch.eye(len(point)).double()
    mixed = jacrev(lambda v: Mixing.of(0.3).slope(*losses(v)))(point)
    upper = jacrev(lambda v: F.cross_entropy(out(v, x.flip(0)), y))(point)
    return -float(mixed @ torch.linalg.solve(h, upper))

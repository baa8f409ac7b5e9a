"""Small trainings whose tangent is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmzoo.bilevel import Mixing, double_backward
from mmzoo.bilevel.forward import Derivative, ForwardTangent
from mmzoo.functional import cosine_similarities, info_nce

SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
OPTIMIZERS: dict[str, tuple[type, dict[str, Any]]] = {
    "sgd": (SGD, {"lr": 0.1}),
    "momentum": (SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.02}),
    "dampened": (SGD, {"lr": 0.1, "momentum": 0.8, "dampening": 0.3}),
    "nesterov": (SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "adam": (ADAM, {"lr": 0.01, "eps": 1e-4}),
    "adam decay": (ADAM, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-4}),
    "adamw": (ADAMW, {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-4}),
}


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------------- one training, three times
class Net(nn.Module):
    """Two branches with batch norm and dropout, and a joint head."""

    def __init__(self, momentum: float | None = 0.1, dropout: float = 0.2) -> None:
        super().__init__()
        for m in "av":
            part = [nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=momentum), nn.Tanh(), nn.Dropout(dropout)]
            setattr(self, m, nn.Sequential(*part))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Mapping[str, Tensor]) -> list[Tensor]:
        a, v = self.a(x["a"]), self.v(x["v"])
        return [self.head(torch.cat([a, v], 1)), a, v]


def losses(out: Sequence[Tensor], target: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and InfoNCE; dropout can clear a whole row, and a cosine has no second derivative at zero."""
    features = {m: z + 0.1 for m, z in zip("av", out[1:])}
    return F.cross_entropy(out[0], target), info_nce(cosine_similarities(features, 0.5))


def batch(seed: int, items: int = 7) -> tuple[dict[str, Tensor], Tensor]:
    x = {m: normal(seed * 10 + i, items, 3) for i, m in enumerate("av")}
    return x, torch.randint(3, (items,), generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Setting:
    """How a small training goes. rates: the factor on the learning rate, one a step."""

    kind: str = "momentum"
    seed: int = 0
    steps: int = 6
    alpha: float = 0.4
    momentum: float | None = 0.1
    dropout: float = 0.2
    rates: tuple[float, ...] = (1.0, 0.7, 1.3)
    form: Callable[[float], Mixing] = Mixing.of
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, net: Callable[[], nn.Module] | None = None) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(self.seed)
        model = (Net(self.momentum, self.dropout) if net is None else net()).double()
        kind, options = OPTIMIZERS[self.kind]
        params = list(model.parameters())
        groups = [{"params": params[:3]}, {"params": params[3:], "lr": 2 * options["lr"]}]
        return model, kind(groups, **{**options, **self.options})

    def rate(self, step: int) -> float:
        return self.rates[step % len(self.rates)]


def upper_loss(model: nn.Module) -> Tensor:
    x, target = batch(99, 9)
    return F.cross_entropy(model(x)[0], target)


Around = Callable[[int, nn.Module, torch.optim.Optimizer], None]


def nothing(*_: Any) -> None:
    pass


def trained(
    s: Setting,
    alpha: float | None = None,
    *,
    tangent: bool = False,
    since: int = 0,
    net: Any = None,
    before: Around = nothing,
    between: Around = nothing,
    pieces: int = 1,
) -> tuple[nn.Module, ForwardTangent | None]:
    """Train, plainly or with a tangent. alpha holds from step `since` on, that of the setting before."""
    model, optimizer = s.build(net)
    carried = ForwardTangent(optimizer, model) if tangent else None
    base = [g["lr"] for g in optimizer.param_groups]
    for step in range(s.steps):
        if carried is not None and step == since:
            carried.reset()
        model.train()
        before(step, model, optimizer)
        for group, lr in zip(optimizer.param_groups, base):
            group["lr"] = lr * s.rate(step)
        optimizer.zero_grad()
        now = s.alpha if alpha is None or step < since else alpha
        torch.manual_seed(1000 * s.seed + step)
        for k in range(pieces):
            x, target = batch(s.seed + 7 * step + k)
            l_cls, l_mm = losses(model(x), target)
            if carried is None:
                s.form(now).total(l_cls, l_mm).backward()
            else:
                carried.backward(l_cls, l_mm, s.form(now))
        between(step, model, optimizer)
        optimizer.step()
        if carried is not None:
            carried.stepped()
    return model, carried


def difference(s: Setting, **how: Any) -> float:
    """d upper / d alpha from two trainings a little apart."""
    values = []
    for sign in (1, -1):
        model, _ = trained(s, s.alpha + sign * 1e-5, **how)
        with torch.no_grad():
            values.append(float(upper_loss(model.eval())))
    return (values[0] - values[1]) / 2e-5


def derivative(s: Setting, **how: Any) -> Derivative:
    model, carried = trained(s, tangent=True, **how)
    assert carried is not None
    return carried.derivative(lambda: upper_loss(model))


class Images(nn.Module):
    """Convolutions, batch norm in two dimensions after pooling, and one batch norm used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 2, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.twice = nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Mapping[str, Tensor]) -> list[Tensor]:
        z = [F.softplus(self.norm(self.conv(t[:, None, None, :].expand(-1, 1, 3, 3)))) for t in x.values()]
        z = [F.softplus(self.norm(self.twice(t))).mean((2, 3)) for t in z]
        return [self.head(torch.cat(z, 1)), *z]


class Tokens(nn.Module):
    """Attention, layer norm, dropout within attention: no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(1, 4)
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Mapping[str, Tensor]) -> list[Tensor]:
        z = [self.up(t[..., None]) for t in x.values()]
        with double_backward():
            z = [self.norm(t + self.attention(t, t, t, need_weights=False)[0]).mean(1) for t in z]
        return [self.head(torch.cat(z, 1)), *z]


def one_step(
    s: Setting,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    carried: ForwardTangent,
    base: Sequence[float] | None = None,
) -> None:
    for group, lr in zip(optimizer.param_groups, base or ()):
        group["lr"] = lr * s.rate(step)
    optimizer.zero_grad()
    torch.manual_seed(1000 * s.seed + step)
    x, target = batch(s.seed + 7 * step)
    carried.backward(*losses(model.train()(x), target), s.alpha)
    optimizer.step()
    carried.stepped()

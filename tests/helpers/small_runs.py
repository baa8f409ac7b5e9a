"""Small models and data for tests of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.api import Encoder, Loader, MultimodalModel, Run, Strategy, Training
from mmzoo.core.seeding import seeded
from mmzoo.encoders.mlp import MLP
from mmzoo.heads.concat import Concat


class NormEncoder(Encoder):
    """Linear, batch norm, dropout: everything whose state must stand still when it should."""

    def __init__(self, width: int, out: int = 5) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(width, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), nn.Linear(6, out))
        self.out_dim = out

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def data(n: int = 40, widths: Mapping[str, int] | None = None, classes: int = 3, seed: int = 0) -> dict[str, Any]:
    """inputs, target and index of a small problem with a signal in every modality."""
    g = torch.Generator().manual_seed(seed)
    widths = widths or {"a": 4, "b": 3}
    target = torch.randint(0, classes, (n,), generator=g)
    noise = {m: torch.randn(n, w, generator=g) for m, w in widths.items()}
    inputs = {m: z + target[:, None] * (0.5 + i) for i, (m, z) in enumerate(noise.items())}
    return {"inputs": inputs, "target": target, "index": torch.arange(n)}


def loader(batch_size: int = 8, present: Tensor | None = None, **kwargs: Any) -> Loader:
    return Loader(**data(**kwargs), present=present, batch_size=batch_size)


def model(
    widths: Mapping[str, int] | None = None,
    classes: int = 3,
    *,
    norm: bool = False,
    head: type = Concat,
    dims: Mapping[str, int] | None = None,
    **head_params: Any,
) -> MultimodalModel:
    """A model whose weights depend on the names of its modalities alone."""
    encoders = {}
    for m, w in (widths or {"a": 4, "b": 3}).items():
        with seeded(0, "init", m):
            out = (dims or {}).get(m, 5)
            encoders[m] = NormEncoder(w, out) if norm else MLP((w,), hidden=(6,), width=out)
    with seeded(0, "init", "head"):
        return MultimodalModel(encoders, head({m: e.out_dim for m, e in encoders.items()}, classes, **head_params))


def run(strategy: Strategy | None = None, m: MultimodalModel | None = None, **kwargs: Any) -> Run:
    kwargs.setdefault("train", loader())
    kwargs.setdefault("training", Training(lr=0.05, epochs=4, weight_decay=0.01))
    return Run(model() if m is None else m, Strategy() if strategy is None else strategy, **kwargs)


def train(r: Run, epochs: int) -> Run:
    for _ in range(epochs):
        r.train_epoch()
        r.end_epoch()
    return r


def weights(m: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in m.state_dict().items()}


def equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def torch_equal_states(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether the first state has only tensors that the second one has, bit by bit."""
    return all(name in other and torch.equal(t, other[name]) for name, t in one.items())

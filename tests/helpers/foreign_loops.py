"""A network that knows nothing of mmzoo, its data, and what mmzoo's own loop makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.api import Batch, Encoder, MultimodalModel, Run, Training
from mmzoo.heads.shared import Shared
from mmzoo.loops.attached import strategy_of
from mmzoo.loops.branches import as_model

EPOCHS = 2
OPTIONS: dict[str, Any] = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}
#: each adds something else to a loop: factors, noise, prototypes, coalitions, terms, a schedule, a learned weight, a chain
METHODS = (
    "ogm",
    "ogm_ge",
    "pmr",
    "agm",
    "joint_unimodal",
    "dynamic_gap_const",
    "dynamic_gap_h",
    "dynamic_gap_lb",
    "ogm:0-0+pmr+joint_unimodal",
)


class Net(nn.Module):
    """Two branches of different width with dropout, and a linear layer on both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.audio = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6))
        self.video = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 4))
        self.head = nn.Linear(10, 3)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        return {"audio": self.audio, "video": self.video}

    def forward(self, audio: Tensor, video: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.head(torch.cat([self.audio(audio), self.video(video)], 1))
        found = {"logits": logits}
        return found if labels is None else {"loss": nn.functional.cross_entropy(logits, labels), **found}


def samples(n: int = 48, seed: int = 1) -> list[dict[str, Tensor]]:
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    return [
        {
            "audio": torch.randn(5, generator=g) + y[i],
            "video": torch.randn(4, generator=g) - y[i] / 2,
            "labels": y[i],
        }
        for i in range(n)
    ]


def batches(given: list[dict[str, Tensor]] | None = None, size: int = 12) -> list[dict[str, Tensor]]:
    rows = samples() if given is None else given
    return [
        {k: torch.stack([row[k] for row in rows[i : i + size]]) for k in rows[0]} for i in range(0, len(rows), size)
    ]


def held_out() -> list[dict[str, Tensor]]:
    return batches(samples(24, seed=2))


def own(batch: Mapping[str, Tensor]) -> Batch:
    return Batch(
        {"audio": batch["audio"], "video": batch["video"]}, batch["labels"], torch.arange(len(batch["labels"]))
    )


def sgd(params: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, **OPTIONS)


def sgd_groups(groups: Any) -> torch.optim.Optimizer:
    """The same optimizer for mmzoo's groups."""
    return sgd([{"name": g["name"], "params": g["params"], "lr_scale": 1.0} for g in groups])


class _Wrapped(Encoder):
    def __init__(self, module: nn.Module, width: int) -> None:
        super().__init__()
        self.module, self.out_dim = module, width

    def forward(self, x: Any) -> Tensor:
        return self.module(x)


def as_encoder(module: nn.Module, width: int) -> Encoder:
    return _Wrapped(module, width)


def shared_model() -> MultimodalModel:
    """A model of mmzoo's own, under the head that MLA needs."""
    net = Net()
    encoders = {"audio": as_encoder(net.audio, 6), "video": as_encoder(nn.Linear(4, 6), 6)}
    return MultimodalModel(encoders, Shared({"audio": 6, "video": 6}, 3))


def reference(method: str, net: Any = None) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Weights and logged values after mmzoo's own loop over the same batches in the same order."""
    net = Net() if net is None else net
    run = Run(
        as_model(net, own(batches()[0]).inputs),
        strategy_of(method),
        train=[own(b) for b in batches()],
        slice=[own(b) for b in held_out()],
        training=Training(epochs=EPOCHS),
        optimizer=sgd_groups,
    )
    logged: dict[str, float] = {}
    for _ in range(EPOCHS):
        run.train_epoch()
        logged = run.end_epoch()
    return net.state_dict(), logged


def assert_same(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Equal to 1e-6, and with the same names."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(
            torch.as_tensor(found[name]).double(), torch.as_tensor(value).double(), rtol=0, atol=1e-6, msg=name
        )

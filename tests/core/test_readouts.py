"""Heads that need features of one width, under encoders of several: what `readout` makes of them, and whole runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import train
from torch import Tensor, nn

from mmzoo.api import (
    Batch,
    Encoder,
    FusionHead,
    Incompatible,
    InputSpec,
    MultimodalModel,
    Projected,
    Run,
    Strategy,
    Training,
    to_one_width,
)
from mmzoo.benchmark.results.store import Store
from mmzoo.encoders.cnn import CNN
from mmzoo.encoders.mlp import MLP
from mmzoo.heads.concat import Concat
from mmzoo.heads.separate import Separate
from mmzoo.heads.shared import Shared
from mmzoo.testing import check_encoder

Command = Callable[..., Any]


def staged(**options: Any) -> Encoder:
    return CNN((1, 12, 12), width=24, widths=(8, 16)).configure((1, 12, 12), **options)


class Flat(Encoder):
    """One layer, no stages."""

    def __init__(self, spec: Any = (5,), *, width: int = 24) -> None:
        super().__init__()
        self.layer, self.out_dim = nn.Linear(InputSpec.of(spec).shape[0], width), width

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).tanh()


def test_only_what_is_wider_than_the_narrowest_is_projected() -> None:
    encoders = {"a": MLP((4,), width=6), "b": MLP((3,), width=9), "c": MLP((3,), width=6)}
    read = to_one_width(encoders)
    assert read["a"] is encoders["a"] and read["c"] is encoders["c"]
    assert isinstance(read["b"], Projected) and {e.out_dim for e in read.values()} == {6}


@pytest.mark.parametrize("made", [staged, Flat], ids=["stages", "no stages"])
def test_what_is_read_is_a_linear_map_of_the_feature(made: Callable[[], Encoder]) -> None:
    encoder = made().double().eval()
    read = Projected(encoder, 7).double().eval()
    x = torch.randn(3, *((1, 12, 12) if encoder.n_stages else (5,)), dtype=torch.float64)
    w, b = (p.detach().numpy() for p in read.linear.parameters())
    with torch.no_grad():
        assert abs(read(x).numpy() - (encoder(x).numpy() @ w.T + b)).max() < 1e-12
    assert read.n_stages == encoder.n_stages and tuple(read.stage_dims) == tuple(encoder.stage_dims)


@pytest.mark.parametrize(("inner", "shape"), [(Flat, (5,)), (MLP, (5,)), (CNN, (1, 12, 12))])
def test_it_is_an_encoder_like_any_other(inner: type[Encoder], shape: tuple[int, ...]) -> None:
    report = check_encoder(lambda: Projected(inner(shape, width=24), 7), inputs=shape)
    assert report.ok, report


def test_a_frozen_encoder_stands_still_and_its_projection_learns() -> None:
    frozen = staged(frozen=True)
    read = to_one_width({"a": frozen, "b": MLP((3,), width=6)})
    m = MultimodalModel(read, Shared({k: e.out_dim for k, e in read.items()}, 2))
    before = {n: t.clone() for n, t in m.state_dict().items()}
    batch = Batch({"a": torch.randn(8, 1, 12, 12), "b": torch.randn(8, 3)}, torch.arange(8) % 2, torch.arange(8))
    train(Run(m, Strategy(), train=[batch], training=Training(lr=0.1, epochs=1)), 1)
    moved = {n for n, t in m.state_dict().items() if not torch.equal(t, before[n])}
    assert {n for n in moved if n.startswith("encoders.a")} == {f"encoders.a.linear.{p}" for p in ("weight", "bias")}


def test_its_learning_rate_is_that_of_its_encoder() -> None:
    assert Projected(staged(lr_scale=0.25), 4).lr_scale == 0.25


@pytest.mark.parametrize(
    ("head", "params", "equal"),
    [(Shared, {}, True), (Concat, {}, False), (Separate, {}, False), (Separate, {"join": "max"}, True)],
)
def test_a_head_asks_for_one_width_where_it_needs_it(
    head: type[FusionHead], params: dict[str, Any], equal: bool
) -> None:
    encoders = {"a": MLP((4,), width=6), "b": MLP((3,), width=9)}
    read = head.readout(encoders, **params)
    assert (len({e.out_dim for e in read.values()}) == 1) == equal
    head({m: e.out_dim for m, e in read.items()}, 3, **params)
    if equal:
        with pytest.raises(Incompatible, match=rf"{head.__name__}\.readout"):
            head({m: e.out_dim for m, e in encoders.items()}, 3, **params)


def test_methods_that_share_a_classifier_run_where_widths_differ(mmzoo: Command, tmp_path: Path) -> None:
    done = mmzoo(
        "bench",
        "--method",
        "mla",
        "--baselines",
        "mla_released,shared,dynamic_gap_lb@shared,domfn@separate",
        "--seeds",
        "1",
        "--epochs",
        "2",
        "--set",
        "encoder.fou.width=24",
        "--set",
        "separate.join=mean",
        "--out",
        tmp_path,
    )
    assert done.code == 0, done.err
    rows = [r for r in Store(tmp_path).rows()[0] if r["modality"] is None]
    assert {r["label"].partition("[")[0] for r in rows} >= {"mla", "mla_released", "shared", "dynamic_gap_lb@shared"}
    assert all(r["status"] == "ok" and r["metrics"]["n_scored"] == 500 for r in rows), [r["reason"] for r in rows]

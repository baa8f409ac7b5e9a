"""Replays of test vectors of the heads of this package."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.testing.replay import Case, replays, skip
from mmzoo_heads.bilinear import interaction
from mmzoo_heads.bottleneck import exchange
from mmzoo_heads.low_rank import LowRank
from mmzoo_heads.tensor_fusion import outer


def _tensor(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@replays("lmf_tfn")
def _lmf_tfn(case: Case) -> Iterator[Any]:
    z = {m: case.real(m) for m in case.inputs}
    yield "tfn", outer(list(z.values()))
    factors = [_tensor(f) for f in case.params["factors"]]
    rank, _, classes = factors[0].shape
    head = LowRank({m: x.shape[1] for m, x in z.items()}, classes, rank=rank).double()
    weights = {f"factors.{m}": f for m, f in zip(z, factors)}
    weights |= {"weight": _tensor(case.params["fusion_weights"]), "bias": _tensor(case.params["fusion_bias"])[0]}
    head.load_state_dict(weights)
    yield "lmf", head(z).logits


@replays("mi2")
def _mi2(case: Case) -> Iterator[Any]:
    x, y = case.real("x"), case.real("y")
    for form in case.params:
        w, u, v, b = (_tensor(case.params[form][k]) for k in ("W", "U", "V", "b"))
        yield form, interaction(form, x, y, w, u, v, b)


@replays("mbt_exchange")
def _mbt(case: Case) -> Iterator[Any]:
    shared = case.real("bottleneck")
    tokens = {m: case.real(m) for m in case.params}
    blocks = {m: _layer(case.params[m], x.shape[-1]) for m, x in tokens.items()}
    new, each = exchange(tokens, shared, blocks)
    yield from new.items()
    yield "bottleneck", torch.stack(list(each.values())).mean(0)
    yield skip("the values that are given", "inputs")


def _layer(weights: Mapping[str, Any], dim: int) -> nn.TransformerEncoderLayer:
    hidden = len(weights["linear1.bias"])
    # The number of heads is in no weight: the vectors were made with two.
    layer = nn.TransformerEncoderLayer(dim, 2, hidden, 0.0, "gelu", batch_first=True, norm_first=True).double()
    layer.load_state_dict({k: _tensor(v) for k, v in weights.items()})
    return layer.eval()

"""Replays of the methods that act on gradients: DGL, ARL, MLB."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmzoo.api import FusionHead
from mmzoo.functional import true_class_probabilities
from mmzoo.testing.replay import Case, replays, skip
from mmzoo_newer import arl, dgl, mlb
from mmzoo_newer.replays.common import Traced, concat_head, gradient_factors, joined, listed, sum_head, traced


# ---------------------------------------------------------------------- DGL
def _dgl(case: Case, head: FusionHead) -> Traced:
    return traced(dgl.DGL(alpha=case.number("alpha")), listed(case, "features"), case.whole("label"), head)


def _dgl_common(case: Case, found: Traced) -> Iterator[Any]:
    y = case.whole("label")
    yield "fused", found.out.logits
    yield "own", torch.stack(list(found.out.unimodal.values()))
    yield "loss_fused", found.terms["task"]
    yield "loss_own", torch.stack([F.cross_entropy(z, y) for z in found.out.unimodal.values()])
    yield from each("grad_features", found.features, case)


def each(path: str, computed: Any, case: Case) -> Iterator[Any]:
    """Parts of a list whose entries may differ in shape."""
    yield from ((path, value, expected) for value, expected in zip(computed, case[path], strict=True))


@replays("dgl", "step_concat")
def _dgl_concat(case: Case) -> Iterator[Any]:
    head = concat_head(case.real("weight"), case.real("bias"), [z.shape[1] for z in listed(case, "features")])
    found = _dgl(case, head)
    yield from _dgl_common(case, found)
    yield "grad_weight", joined(head, found.head)
    yield "grad_bias", found.head["bias"]


@replays("dgl", "step_sum")
def _dgl_sum(case: Case) -> Iterator[Any]:
    head = sum_head(listed(case, "weights"), listed(case, "biases"))
    found = _dgl(case, head)
    yield from _dgl_common(case, found)
    yield from each("grad_weights", [found.head[f"linear.{m}.weight"] for m in head.dims], case)
    yield from each("grad_biases", [found.head[f"linear.{m}.bias"] for m in head.dims], case)


class _ReleasedHead(FusionHead):
    """A head of the authors' release: `hidden` of the features, then a linear layer; one modality alone stands on both
    sides."""

    def __init__(self, case: Case, widths: list[int]) -> None:
        super().__init__({f"m{i}": d for i, d in enumerate(widths)}, len(case.real("out_bias")))
        self.out = _layer(case, "out")

    def fuse(self, features: Any, present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        there = [i for i in range(2) if present is None or bool(present[:, i].any())]
        x, y = (features[f"m{i}"] for i in (there if len(there) == 2 else 2 * there))
        return self.out(self.hidden(x, y, there)), {}

    def hidden(self, x: Tensor, y: Tensor, there: list[int]) -> Tensor:
        raise NotImplementedError


class _Gated(_ReleasedHead):
    def __init__(self, case: Case, widths: list[int]) -> None:
        super().__init__(case, widths)
        self.project = nn.ModuleList([_layer(case, "fc_x"), _layer(case, "fc_y")])

    def hidden(self, x: Tensor, y: Tensor, there: list[int]) -> Tensor:
        first, last = self.project[there[0]], self.project[there[-1]]
        return first(x).sigmoid() * last(y)


class _Bilinear(_ReleasedHead):
    def __init__(self, case: Case, widths: list[int]) -> None:
        super().__init__(case, widths)
        self.fc = _layer(case, "fc")

    def hidden(self, x: Tensor, y: Tensor, there: list[int]) -> Tensor:
        return self.fc(torch.einsum("bi,bj->bij", x, y).flatten(1))


def _layer(case: Case, name: str) -> nn.Linear:
    weight, bias = case.real(f"{name}_weight"), case.real(f"{name}_bias")
    layer = nn.Linear(weight.shape[1], len(bias), dtype=torch.float64)
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


@replays("dgl", "step_gated")
def _dgl_gated(case: Case) -> Iterator[Any]:
    found = _dgl(case, _Gated(case, [z.shape[1] for z in listed(case, "features")]))
    yield from _dgl_common(case, found)
    yield "grad_out_weight", found.head["out.weight"]
    yield "grad_out_bias", found.head["out.bias"]
    yield skip("the release never trains them; here the fused loss does", "grad_fc_x", "grad_fc_y")


@replays("dgl", "step_bilinear")
def _dgl_bilinear(case: Case) -> Iterator[Any]:
    found = _dgl(case, _Bilinear(case, [z.shape[1] for z in listed(case, "features")]))
    yield from _dgl_common(case, found)
    for name in ("fc", "out"):
        yield f"grad_{name}_weight", found.head[f"{name}.weight"]
        yield f"grad_{name}_bias", found.head[f"{name}.bias"]


# ---------------------------------------------------------------------- ARL
@replays("arl", "weights")
def _arl_weights(case: Case) -> Iterator[Any]:
    own = case.real("own")
    entropy, size = arl.entropies(own).mean(1), own.abs().mean(1).sum(1)
    inverse, dependence = arl.inverse_variances(entropy, case.number("floor")), arl.shares(size)
    yield "entropy", entropy
    yield "entropy_share", arl.shares(entropy).clamp_min(case.number("floor"))
    yield "inverse_share", inverse
    yield "dependence", dependence
    yield "weight", arl.modulation(dependence, inverse, case.number("T"))
    yield "weight_T1", arl.modulation(dependence, inverse, 1.0)


@replays("arl", "step_concat")
def _arl_step(case: Case) -> Iterator[Any]:
    features = listed(case, "features")
    head = concat_head(case.real("weight"), case.real("bias"), [z.shape[1] for z in features])
    strategy = arl.ARL(gamma=case.number("gamma"), temperature=case.number("T"))
    found = traced(strategy, features, case.whole("label"), head, epoch=strategy.start)
    factors = gradient_factors(found)
    yield "fused", found.out.logits
    yield "own", torch.stack(list(found.step.scratch[strategy].values()))
    yield "loss", found.total
    yield "weight", torch.stack(factors) - 1.0
    yield from each("grad_features_plain", found.features, case)
    yield from each("grad_features", [k * g for k, g in zip(factors, found.features) if g is not None], case)
    yield "grad_weight", joined(head, found.head)
    yield "grad_bias", found.head["bias"]


# ---------------------------------------------------------------------- MLB
@replays("mlb", "coefficient")
def _mlb(case: Case) -> Iterator[Any]:
    own, y = case.real("own"), case.whole("label")
    score = torch.stack([true_class_probabilities(z, y).mean() for z in own])
    ratio = mlb.ratios(score)
    yield "score", score
    yield "ratio", ratio
    yield "k", mlb.coefficients(ratio, case.number("alpha"), case.number("beta_max"))


@replays("mlb", "coefficient_regression")
def _mlb_regression(case: Case) -> Iterator[Any]:
    error = (case.real("prediction") - case.real("target")).square().mean(1)
    ratio = 1.0 / mlb.ratios(error)
    yield "error", error
    yield "ratio", ratio
    yield "k", mlb.coefficients(ratio, case.number("alpha"), case.number("beta_max"))

"""Replays of fusion heads: the weights of a vector in the library's own modules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mmzoo.core.head import FusionHead
from mmzoo.errors import BadValue
from mmzoo.heads.concat import Concat
from mmzoo.heads.sum import Sum
from mmzoo.heads.weight import Weight
from mmzoo.testing.replay.registry import Case, real, replays, skip


def widths(features: Mapping[str, Tensor]) -> dict[str, int]:
    return {m: z.shape[1] for m, z in features.items()}


def loaded(head: FusionHead, weights: Mapping[str, Tensor]) -> FusionHead:
    """The head in float64 with the given weights; all of them must be given."""
    head = head.double()
    head.load_state_dict(dict(weights))
    return head


def concat(features: Mapping[str, Tensor], weight: Tensor, bias: Tensor) -> FusionHead:
    """Concat from the joint layer's weight (C, sum of widths) and bias."""
    blocks = zip(features, weight.split(list(widths(features).values()), dim=1))
    weights = {f"weight.{m}": block for m, block in blocks}
    return loaded(Concat(widths(features), len(bias)), {**weights, "bias": bias})


def late(features: Mapping[str, Tensor], params: Mapping[str, Any], reduce: Any) -> FusionHead:
    """Sum from one layer `fc_<modality>` each."""
    parts = ("weight", "bias")
    weights = {f"linear.{m}.{part}": param(params, f"fc_{m}.{part}") for m in features for part in parts}
    n_classes = len(next(iter(weights.values())))
    return loaded(Sum(widths(features), n_classes, reduce=reduce), weights)


def param(params: Mapping[str, Any], *keys: str) -> Tensor:
    value: Any = params
    for key in keys:
        if not isinstance(value, Mapping) or key not in value:
            raise BadValue(f"no parameter {'.'.join(keys)!r}")
        value = value[key]
    return real(value, ".".join(keys))


@replays("ogm", "concat_head_split")
def _split(case: Case) -> Iterator[Any]:
    features = case.named("feat_")
    out = concat(features, case.real("weight"), case.real("bias"))(features)
    yield "full", out.logits
    for m, logits in out.unimodal.items():
        yield f"logits_{m}", logits


@replays("concat_sum_unimodal")
def _concat_sum(case: Case) -> Iterator[Any]:
    features = case.named("")
    joint = concat(features, param(case.params, "concat", "fc_out.weight"), param(case.params, "concat", "fc_out.bias"))
    added = late(features, case.params.get("sum", {}), "sum")
    out, out_added = joint(features), added(features)
    yield "concat_logits", out.logits
    yield "sum_logits", out_added.logits
    for m, z in features.items():
        yield f"concat_uni_{m}_halfbias", out.unimodal[m]
        yield f"concat_uni_{m}_zerofeat", joint({m: z}).logits
        yield f"sum_uni_{m}", out_added.unimodal[m]
    yield skip("the authors' validation loop halves the bias; not reproduced", "sum_uni_*_valid_halfbias")


@replays("mcut_sum_mean")
def _mean(case: Case) -> Iterator[Any]:
    features = case.named("")
    out = late(features, case.params, "mean")(features)
    yield "logits", out.logits
    for m, logits in out.unimodal.items():
        yield f"uni_{m}", logits


@replays("mcut_weight")
def _gate(case: Case) -> Iterator[Any]:
    features = case.named("")
    weight, bias = param(case.params, "fc_out.weight"), param(case.params, "fc_out.bias")
    head = Weight(widths(features), len(bias), level="gate")
    out = loaded(head, {"linear.weight": weight, "linear.bias": bias})(features)
    yield "logits", out.logits
    for m, logits in out.unimodal.items():
        yield f"uni_{m}", logits


@replays("cmml")
def _cmml(case: Case) -> Iterator[Any]:
    features = {m: case.real(m) for m in case.params if m in case.inputs}
    if not features:
        raise BadValue("no input that a layer in 'params' is named after")
    params, width = case.params, next(iter(widths(features).values()))
    attend = {f"attend.{k}": param(params, "attn", k) for k in params.get("attn", {})}
    hidden = [len(w) for name, w in attend.items() if name.endswith("weight")][:-1]
    parts = ("weight", "bias")

    def head(level: Any, n_classes: int, weights: Mapping[str, Tensor]) -> Any:
        empty = Weight(widths(features), n_classes, level=level, attention=hidden)
        return loaded(empty, {**attend, **weights})(features)

    bias = param(params, "fused", "bias")
    joint = head("feature", len(bias), {f"linear.{p}": param(params, "fused", p) for p in parts})
    # With the identity for a classifier the logits are the fused hidden features.
    eye = {"linear.weight": torch.eye(width), "linear.bias": torch.zeros(width)}
    each = head("logit", len(bias), {f"each.{m}.{p}": param(params, m, p) for m in features for p in parts})
    yield "attn", joint.aux["attention"]
    yield "fused", head("feature", width, eye).logits
    yield "p_fused", joint.logits.sigmoid()
    for m, logits in each.unimodal.items():
        yield f"p_{m}", logits.sigmoid()
    yield "softmax_variant_logit_weighting", each.logits
    multi_label = ("loss_*", "div", "dis", "unsup", "total")
    yield skip("multi-label training with unlabelled pairs, not in mmzoo", *multi_label)

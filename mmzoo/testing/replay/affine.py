"""Replays of heads that condition, gate or read one modality after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from mmzoo.errors import BadValue
from mmzoo.heads.affine import Affine
from mmzoo.heads.gated import Gated
from mmzoo.heads.ml_lstm import MLLSTM
from mmzoo.testing.replay.fusion import loaded, param, widths
from mmzoo.testing.replay.registry import Case, replays

PARTS = ("weight", "bias")
#: name of the vector -> the modality that is modulated or gated; the others act on it
TARGETS = {"film": "last", "film_y": "first", "gated": "last", "gated_y": "first"}


def affine(case: Case, features: Mapping[str, Tensor], baseline: int) -> Affine:
    n_classes = len(param(case.params, "fc_out.bias"))
    head = Affine(widths(features), n_classes, gamma_baseline=baseline, target=TARGETS[case.name])
    (target,) = head.conditioners
    layers = {"generate": "fc", "linear": "fc_out"}
    weights = {f"{ours}.{target}.{p}": param(case.params, f"{fc}.{p}") for ours, fc in layers.items() for p in PARTS}
    loaded(head, weights)
    return head


@replays("film")
@replays("film_y")
def _film(case: Case) -> Iterator[Any]:
    features = case.named("")
    head = affine(case, features, 0)
    (target,) = head.conditioners
    out = head(features)
    yield "gamma", out.aux["gamma"][target]
    yield "beta", out.aux["beta"][target]
    yield "logits", out.logits
    yield "logits_gamma_plus1", affine(case, features, 1)(features).logits


@replays("gated")
@replays("gated_y")
def _gated(case: Case) -> Iterator[Any]:
    features = case.named("")
    weights = {f"project.{m}.{p}": param(case.params, f"fc_{m}.{p}") for m in features for p in PARTS}
    weights |= {f"linear.{p}": param(case.params, f"fc_out.{p}") for p in PARTS}
    n_classes, width = weights["linear.weight"].shape
    head = Gated(widths(features), n_classes, target=TARGETS[case.name], width=width)
    out = loaded(head, weights)(features)
    yield "logits", out.logits
    for m, hidden in out.aux["hidden"].items():
        yield f"out_{m}", hidden


@replays("mcut_lstm")
def _lstm(case: Case) -> Iterator[Any]:
    features = case.named("")
    depth = sum(name.startswith("lstm.weight_ih_l") for name in case.params)
    if not depth:
        raise BadValue("no parameter 'lstm.weight_ih_l0'")
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    weights = {f"cells.{i}.{n}": param(case.params, f"lstm.{n}_l{i}") for i in range(depth) for n in names}
    weights |= {f"linear.{p}": param(case.params, f"fc_out.{p}") for p in PARTS}
    n_classes, width = weights["linear.weight"].shape
    out = loaded(MLLSTM(widths(features), n_classes, width=width, layers=depth), weights)(features)
    yield "logits", out.logits
    for m, logits in out.unimodal.items():
        yield f"uni_{m}", logits

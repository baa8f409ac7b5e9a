"""Replays of evaluation scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch.nn.functional as F

from mmzoo.errors import BadValue
from mmzoo.evaluation import gradcam, metrics
from mmzoo.functional import shapley
from mmzoo.testing.replay.registry import Case, Check, replays, skip


@replays("metrics")
def _metrics(case: Case) -> Iterator[Any]:
    scores, label = case.real("scores"), case.whole("label")
    fewer = case.whole("label_missing4")
    predicted = F.one_hot(case.whole("pred_both_missing4"), scores.shape[1]).double()
    yield "acc", metrics.accuracy(scores, label)
    yield "acc_bb", metrics.accuracy(scores, label)
    yield "f1_macro_sklearn", metrics.macro_f1(scores, label)
    yield "f1_missing_truth_sklearn", metrics.macro_f1(scores, fewer)
    yield "f1_absent_both_sklearn", metrics.macro_f1(predicted, fewer)
    yield "map_missing_class_skip", metrics.mean_average_precision(scores, fewer)
    yield from _ranked(case)
    yield skip("a class without samples counts as 0 there; mmzoo leaves it out", "map_missing_class_sklearn")
    yield skip("averages over all classes, occurring or not; mmzoo follows scikit-learn", "f1_*bb")
    yield skip("averages over all pairs of sample and class at once; not in mmzoo", "map_micro")
    yield skip("a score of multi-label rankings; not in mmzoo", "example_ap_cmml")
    yield skip("the shift of each row is not in the file", "map_rawlogits_rowshifted")


def _ranked(case: Case) -> Iterator[Any]:
    """Average precision, per class and on average; without items of a class the two conventions differ."""
    scores, label = case.real("scores"), case.whole("label")
    ap = metrics.average_precision(scores, label)
    there = ap.isfinite().tolist()
    if all(there):
        yield "ap_per_class", ap
        yield "map_lfm", metrics.mean_average_precision(scores, label)
        yield "map_tied", metrics.mean_average_precision(case.real("tied_scores"), label)
        return
    if "ap_per_class" in case:
        expected = [v for v, here in zip(case["ap_per_class"], there) if here]
        yield Check("ap_per_class", ap[ap.isfinite()], expected, note="classes without samples left out")
    yield skip("a class without samples counts as 0 there; mmzoo leaves it out", "map_lfm", "map_tied")


@replays("modality_gap")
def _modality_gap(case: Case) -> Iterator[Any]:
    a, b = case.real("A"), case.real("B")
    yield "distance", metrics.modality_gap(a, b)
    yield "raw_distance", metrics.modality_gap(a, b, normalize=False)
    yield skip("mmzoo gives the distance, not the vector or a shift along it", "gap", "direction", "shifted*")


@replays("gradcam")
def _gradcam(case: Case) -> Iterator[Any]:
    maps, gradient = case.real("activation"), case.real("grad")
    weights = gradcam.channel_weights(gradient)
    yield "alpha", weights
    yield "cam", gradcam.heat_of(maps, weights)
    yield "cam_norm", gradcam.cam(maps, gradient, (maps.shape[-2], maps.shape[-1]))


@replays("shapley")
def _shapley(case: Case) -> Iterator[Any]:
    for key, table in case.inputs.items():
        if not isinstance(table, Mapping):
            raise BadValue(f"input {key!r} is not a table of coalition values")
        value = {frozenset(s.split("+")) - {""}: float(v) for s, v in table.items()}
        players = [p for s in value if len(s) == 1 for p in s]
        yield f"shapley{key.removeprefix('v')}", shapley(value.__getitem__, players)
    for i, row in enumerate(case.expected.get("sample_table", [])):
        for form, full in (("wei", 2.0), ("bb", 1.0)):
            yield from _sample(f"sample_table/{i}", row, form, full)
    yield skip("an input of the row", "sample_table/*/correct_*")


def _sample(path: str, row: Mapping[str, Any], form: str, full: float) -> Iterator[tuple[str, float]]:
    """One row of the table: a correct single modality is worth 1, all together `full`, nothing is worth 0."""
    players = [k.removeprefix(f"{form}_") for k in row if k.startswith(f"{form}_")]
    joint = next(k for k in row if k.startswith("correct_") and k.removeprefix("correct_") not in players)

    def value(coalition: frozenset[str]) -> float:
        if len(coalition) == len(players):
            return float(full * row[joint])
        return float(row[f"correct_{next(iter(coalition))}"]) if coalition else 0.0

    for player, share in shapley(value, players).items():
        yield f"{path}/{form}_{player}", share

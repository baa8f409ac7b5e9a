"""Measures of modalities against brute force and against numpy from the formulas."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers.evaluated_models import acc, by_hand, case, measured, over_orders, powerset

from mmzoo.api import Batch, MultimodalModel
from mmzoo.benchmark.results import forms
from mmzoo.encoders.mlp import MLP
from mmzoo.evaluation.ablations import ABLATIONS
from mmzoo.evaluation.metrics import classification
from mmzoo.heads.concat import Concat
from mmzoo.heads.shared import Shared
from mmzoo.heads.sum import Sum
from mmzoo.heads.weight import Weight
from mmzoo.testing.harness.tasks import CoupledConcat, Mixing

HEADS = [Concat, Sum, partial(Sum, reduce="mean"), Shared, Weight, partial(Weight, level="gate"), Mixing]


# ---------------------------------------------------------------------- brute force
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("head", HEADS, ids=lambda h: str(getattr(h, "__name__", getattr(h, "keywords", h))))
@pytest.mark.parametrize("n", [2, 3])
def test_every_number_is_that_of_brute_force(head: Any, n: int, masked: bool) -> None:
    model, train, test = case(head, n, masked=masked)
    found = measured(model, train, test)
    assert found["undefined"] == {} and set(found["modalities"]) == set(model.modalities)
    for word in ABLATIONS:
        key = word.replace("-", "_")
        logits = {s: by_hand(model, word, train, test, s) for s in powerset(model.modalities)}
        value = {s: acc(z, test.target) for s, z in logits.items()}
        every = frozenset(model.modalities)
        shares = over_orders(value.__getitem__, model.modalities)
        facts = found["shapley"][key]
        assert facts["none"] == pytest.approx(value[frozenset()]) and facts["all"] == pytest.approx(found["acc"])
        assert facts["word"] == f"{word}, exact"
        spread = max(shares.values()) - min(shares.values())
        total = sum(map(abs, shares.values()))
        assert facts["imbalance"] == pytest.approx(spread / total if total else 0.0, abs=1e-9)
        own = {}
        for i, m in enumerate(model.modalities):
            numbers = found["modalities"][m]
            here = slice(None) if test.present is None else test.present[:, i]
            z = logits[frozenset({m})][here]
            assert numbers[key] == pytest.approx({**classification(z.softmax(-1), test.target[here], z), "word": word})
            assert numbers["shapley"][key]["value"] == pytest.approx(shares[m], abs=1e-9)
            lost = (value[every] - value[every - {m}]) / value[every]
            assert numbers["utilisation"][key] == {"value": pytest.approx(lost, abs=1e-9), "word": word}
            own[m] = numbers[key]["acc"]
        assert found["gap"][key] == pytest.approx(max(own.values()) - min(own.values()))


def test_the_ablations_differ_and_so_do_their_numbers() -> None:
    """A test of the test above: its models do tell the three apart."""
    model, train, test = case(Concat)
    for s in powerset(model.modalities):
        a, b, c = (by_hand(model, w, train, test, s) for w in ABLATIONS)
        same = [bool(torch.allclose(x, y)) for x, y in ((a, b), (b, c), (a, c))]
        assert same == ([True] * 3 if len(s) == 3 else [False] * 3)


def test_two_modalities_in_numpy_from_the_formulas() -> None:
    g = np.random.default_rng(3)
    widths, n_classes = {"a": 3, "v": 4}, 3
    model = MultimodalModel({m: MLP((w,), hidden=(), width=w) for m, w in widths.items()}, Concat(widths, n_classes))
    model.double()
    W, b, V = (
        {m: g.normal(size=s(w)) for m, w in widths.items()}
        for s in (lambda w: (w, w), lambda w: w, lambda w: (n_classes, w))
    )
    bias = g.normal(size=n_classes)
    with torch.no_grad():
        for m in widths:
            model.encoders[m].project.weight.copy_(torch.tensor(W[m]))
            model.encoders[m].project.bias.copy_(torch.tensor(b[m]))
            model.head.weight[m].copy_(torch.tensor(V[m]))
        model.head.bias.copy_(torch.tensor(bias))
    x = {m: g.normal(size=(40, w)) + 0.7 for m, w in widths.items()}
    x_train = {m: g.normal(size=(30, w)) + 0.7 for m, w in widths.items()}
    y, y_train = g.integers(0, n_classes, 40), g.integers(0, n_classes, 30)
    z = {m: x[m] @ W[m].T + b[m] for m in widths}
    fill = {
        "zero_feature": {m: 0 * b[m] for m in widths},
        "zero_input": b,
        "mean_feature": {m: (x_train[m] @ W[m].T + b[m]).mean(0) for m in widths},
    }

    def batch(inputs: Mapping[str, np.ndarray], target: np.ndarray) -> Batch:
        return Batch({m: torch.tensor(v) for m, v in inputs.items()}, torch.tensor(target), torch.arange(len(target)))

    found = measured(model, batch(x_train, y_train), batch(x, y))
    for key, rows_ in fill.items():

        def v(s: str, rows_: Mapping[str, np.ndarray] = rows_) -> float:
            logits = sum((z[m] if m in s else np.broadcast_to(rows_[m], z[m].shape)) @ V[m].T for m in widths) + bias
            return float((logits.argmax(1) == y).mean())

        phi = {"a": (v("a") - v("") + v("av") - v("v")) / 2, "v": (v("v") - v("") + v("av") - v("a")) / 2}
        used = {"a": (v("av") - v("v")) / v("av"), "v": (v("av") - v("a")) / v("av")}
        for m in widths:
            numbers = found["modalities"][m]
            assert numbers[key]["acc"] == pytest.approx(v(m), abs=1e-12)
            assert numbers["shapley"][key]["value"] == pytest.approx(phi[m], abs=1e-12)
            assert numbers["utilisation"][key]["value"] == pytest.approx(used[m], abs=1e-12)
        index = abs(phi["a"] - phi["v"]) / (abs(phi["a"]) + abs(phi["v"]))
        assert found["shapley"][key]["imbalance"] == pytest.approx(index, abs=1e-12)
    own = {m: z[m] @ V[m].T + bias / 2 for m in widths}
    for m in widths:
        assert found["modalities"][m]["own"]["acc"] == pytest.approx(float((own[m].argmax(1) == y).mean()), abs=1e-12)


# ---------------------------------------------------------------------- the words
@pytest.mark.parametrize("head", [*HEADS, CoupledConcat], ids=lambda h: str(getattr(h, "__name__", "with parameters")))
def test_every_number_has_its_word(head: Any) -> None:
    model, train, test = case(head)
    found = measured(model, train, test)
    mixed = ", coupled" if model.head.couples else ""
    words = {"own": model.head.how + mixed, "probe": "probe" + mixed, **{w.replace("-", "_"): w for w in ABLATIONS}}
    for numbers in found["modalities"].values():
        for key, value in numbers.items():
            for inner, part in value.items() if key in ("shapley", "utilisation") else [(key, value)]:
                assert part["word"].partition(", exact")[0] == words[inner]
                assert {"value"} < set(part) or {"acc", "macro_f1", "map", "loss"} < set(part)
    assert tuple(w.replace("-", "_") for w in ABLATIONS) == forms.ABLATIONS

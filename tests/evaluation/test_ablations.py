"""Ablations by zero input, zero feature and mean feature, and how they relate."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.evaluated_models import case, measured, powerset
from torch import Tensor

from mmzoo.api import Batch, Strategy
from mmzoo.evaluation.ablations import Ablation, ablate
from mmzoo.evaluation.metrics import gap
from mmzoo.evaluation.predictions import Fitted, predict
from mmzoo.heads.concat import Concat
from mmzoo.heads.weight import Weight
from mmzoo.testing.harness.tasks import Mixing


def test_ablated_logits_are_those_of_zero_feature() -> None:
    model, train, test = case(Mixing)
    p = predict(model, Strategy(), [test])
    zero = ablate("zero-feature", model, Strategy(), p, Fitted.on(p, 3), lambda: [test])
    found = measured(model, train, test)["modalities"]
    for m in model.modalities:
        assert torch.equal(zero.answers([m])[0], p.unimodal[m])
        own, ablated = found[m]["own"], found[m]["zero_feature"]
        assert own["word"] == "ablated" and {**own, "word": ""} == {**ablated, "word": ""}


def test_the_sliced_logits_differ_from_zero_feature_by_a_constant() -> None:
    """l_m carries b / M, the ablated model the whole bias."""
    model, _, test = case(Concat)
    p = predict(model, Strategy(), [test])
    zero = ablate("zero-feature", model, Strategy(), p, Fitted.on(p, 3), lambda: [test])
    for m in model.modalities:
        offset = zero.answers([m])[0] - p.unimodal[m]
        assert torch.allclose(offset, (2 / 3 * model.head.bias).expand_as(offset))


@pytest.mark.parametrize("head", [Concat, Weight, Mixing])
def test_without_bias_in_the_encoders_an_input_of_zeros_is_a_feature_of_zeros(head: Any) -> None:
    model, train, test = case(head)
    with torch.no_grad():
        for name, p in model.encoders.named_parameters():
            if name.endswith("bias"):
                p.zero_()
    found = measured(model, train, test)
    for numbers in found["modalities"].values():
        zero, blank = numbers["zero_feature"], numbers["zero_input"]
        assert {**zero, "word": ""} == pytest.approx({**blank, "word": ""})


@pytest.mark.parametrize("head", [Concat, Weight, Mixing])
def test_features_of_mean_zero_make_mean_feature_zero_feature(head: Any) -> None:
    model, train, test = case(head)
    both = Batch({m: torch.cat([x, -x]) for m, x in train.inputs.items()}, train.target.repeat(2), torch.arange(60))
    with torch.no_grad():  # odd encoders on inputs that come in pairs of either sign
        for name, p in model.encoders.named_parameters():
            if name.endswith("bias"):
                p.zero_()
    p = predict(model, Strategy(), [both])
    assert max(float(z.abs().max()) for z in Fitted.on(p, 3).means.values()) < 1e-12
    found = measured(model, both, test)
    assert found["modalities"]
    for numbers in found["modalities"].values():
        zero, mean = numbers["zero_feature"], numbers["mean_feature"]
        assert {**zero, "word": ""} == pytest.approx({**mean, "word": ""})
        assert numbers["shapley"]["zero_feature"]["value"] == pytest.approx(numbers["shapley"]["mean_feature"]["value"])


def test_the_mean_is_that_of_training_items_alone() -> None:
    model, train, test = case(Concat)
    means = Fitted.on(predict(model, Strategy(), [train]), 3).means
    with torch.no_grad():
        expected = {m: z.mean(0, keepdim=True) for m, z in model.encode(train.inputs).items()}
    assert all(torch.allclose(means[m], expected[m], atol=1e-12) for m in model.modalities)
    # The answers to an item do not depend on which other items are tested; the mean of other training items does.
    p = predict(model, Strategy(), [test])
    part = Batch({m: x[:3] for m, x in test.inputs.items()}, test.target[:3], test.index[:3])
    fitted, few = Fitted(probes={}, means=means), predict(model, Strategy(), [part])
    one = ablate("mean-feature", model, Strategy(), p, fitted, lambda: [test]).answers(["audio"])[0]
    other = ablate("mean-feature", model, Strategy(), few, fitted, lambda: [part]).answers(["audio"])[0]
    assert torch.allclose(one[:3], other)
    moved = Batch({m: x + 1 for m, x in train.inputs.items()}, train.target, train.index)
    assert measured(model, moved, test)["modalities"]["audio"]["mean_feature"] != pytest.approx(
        measured(model, train, test)["modalities"]["audio"]["mean_feature"]
    )


def test_an_ablation_asks_once_for_each_subset_and_never_for_all() -> None:
    model, _, test = case(Concat)
    p = predict(model, Strategy(), [test])
    asked: list[frozenset[str]] = []

    def answer(kept: frozenset[str]) -> tuple[Tensor, Tensor]:
        asked.append(kept)
        return p.logits, p.scores

    ablation = Ablation("zero-feature", p, answer)
    for _ in range(2):
        for kept in powerset(model.modalities):
            ablation.accuracy(kept)
    assert len(asked) == len(set(asked)) == 7
    assert gap({m: ablation.accuracy({m}) for m in model.modalities}) == 0.0

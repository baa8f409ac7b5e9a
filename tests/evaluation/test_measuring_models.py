"""What measuring does to a model (nothing), and models that are hard to measure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from helpers import NormEncoder
from helpers.evaluated_models import acc, by_hand, case, measured, over_orders, powerset, restless
from torch import Tensor, nn

from mmzoo.api import Batch, Encoder, MultimodalModel, Outputs, Strategy, evaluate_modalities
from mmzoo.core.seeding import seeded
from mmzoo.encoders.mlp import MLP
from mmzoo.evaluation import ablations
from mmzoo.evaluation.predictions import predict
from mmzoo.heads.concat import Concat
from mmzoo.heads.sum import Sum
from mmzoo.heads.weight import Weight
from mmzoo.testing.harness.tasks import CoupledConcat, build_model, make_task


def rows(batch: Batch, present: Tensor | None) -> Batch:
    return Batch(batch.inputs, batch.target, batch.index, present)


# ---------------------------------------------------------------------- heads that act between stages
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_a_head_that_couples_is_measured_through_its_encoders(masked: bool) -> None:
    model, train, test = case(CoupledConcat, masked=masked)
    found = measured(model, train, test)
    assert set(found["undefined"]) == {"zero_feature", "mean_feature"} and set(found["shapley"]) == {"zero_input"}
    assert all("between encoder stages" in why for why in found["undefined"].values())
    value = {s: acc(by_hand(model, "zero-input", train, test, s), test.target) for s in powerset(model.modalities)}
    shares = over_orders(value.__getitem__, model.modalities)
    every = frozenset(model.modalities)
    for m, numbers in found["modalities"].items():
        assert set(numbers) == {"own", "probe", "zero_input", "shapley", "utilisation"}
        assert numbers["shapley"]["zero_input"]["value"] == pytest.approx(shares[m])
        lost = (value[every] - value[every - {m}]) / value[every]
        assert numbers["utilisation"]["zero_input"]["value"] == pytest.approx(lost)


def test_with_a_head_that_couples_what_a_branch_is_given_depends_on_the_others() -> None:
    """Why features are not replaced there: that of a branch changes with the inputs of the others."""
    model, _, test = case(CoupledConcat)
    blank = {m: x if m == "audio" else torch.zeros_like(x) for m, x in test.inputs.items()}
    assert not torch.allclose(model.encode(test.inputs)["audio"], model.encode(blank)["audio"])


# ---------------------------------------------------------------------- decision rules, and what is left alone
class Trusts(Strategy):
    """Decides by one modality's own logits alone."""

    owns = frozenset({"predict"})

    def __init__(self, *, modality: str = "audio") -> None:
        self.modality = modality

    def predict(self, out: Outputs) -> Outputs:
        return out.replace(ranking=out.unimodal[self.modality].softmax(-1))


def test_the_decision_rule_answers_where_modalities_are_taken_away() -> None:
    model, train, test = case(Sum)
    plain, ruled = measured(model, train, test), measured(model, train, test, Trusts())
    assert ruled["acc"] == pytest.approx(acc(predict(model, Trusts(), [test]).unimodal["audio"], test.target))
    for m in model.modalities:  # own and probe are no answers of the joint model
        for key in ("own", "probe"):
            assert ruled["modalities"][m][key] == plain["modalities"][m][key]
    for key in ("zero_feature", "zero_input", "mean_feature"):
        shares = {m: n["shapley"][key]["value"] for m, n in ruled["modalities"].items()}
        assert shares["image"] == pytest.approx(0.0, abs=1e-12) == shares["text"]
        assert shares["audio"] == pytest.approx(ruled["acc"] - ruled["shapley"][key]["none"])
        assert ruled["modalities"]["audio"][key]["acc"] == pytest.approx(ruled["acc"])


def test_nothing_is_left_behind() -> None:
    """Modes, weights, buffers, gradients and random state are as before; also after an answer that fails."""
    task = make_task(2)
    model = build_model(task, Concat, norm=True, dropout=0.3).train()
    model.encoders["image"].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes, random = [m.training for m in model.modules()], torch.random.get_rng_state()
    first = measured(model, task.batch("train"), task.batch("test"))
    assert first == measured(model, task.batch("train"), task.batch("test"))

    class Fails(Strategy):
        def predict(self, out: Outputs) -> Outputs:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        measured(model, task.batch("train"), task.batch("test"), Fails())
    assert modes == [m.training for m in model.modules()] and torch.is_grad_enabled()
    assert torch.equal(random, torch.random.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model, train, test = case(Weight, masked=True)
    whole = measured(model, train, test)
    monkeypatch.setattr(ablations, "EVAL_BATCH", 7)
    pieces = [test.map(lambda t, r=r: t[r]) for r in (slice(0, 20), slice(20, 21), slice(21, 80))]
    parts = evaluate_modalities(model, Strategy(), train=lambda: [train], test=lambda: pieces)
    flat, other = pytest.approx(flattened(whole), abs=1e-9), flattened(parts)
    assert other == flat


def flattened(value: Any, name: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {name: value}
    return {k: v for key, inner in value.items() for k, v in flattened(inner, f"{name}.{key}").items()}


def test_encoders_with_batch_statistics_are_asked_in_eval_mode() -> None:
    encoders = {"a": NormEncoder(4), "b": NormEncoder(3)}
    model = MultimodalModel(encoders, Concat({"a": 5, "b": 5}, 3)).train()
    g = torch.Generator().manual_seed(0)
    batch = Batch(
        {"a": torch.randn(9, 4, generator=g), "b": torch.randn(9, 3, generator=g)}, torch.arange(9) % 3, torch.arange(9)
    )
    found = ablations.features_of_zeros(model, [batch, batch])
    with torch.no_grad():
        for m, encoder in model.eval().encoders.items():
            assert torch.allclose(found[m], encoder(torch.zeros_like(batch.inputs[m])).repeat(2, 1))


# ---------------------------------------------------------------------- what is not defined
class Words(Encoder):
    """Token ids and their mask; the mean of the embeddings that the mask shows."""

    def __init__(self, guarded: bool) -> None:
        super().__init__()
        self.table, self.guarded, self.out_dim = nn.Embedding(7, 4), guarded, 4

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        shown = x["mask"].unsqueeze(-1).float()
        total = shown.sum(1).clamp_min(1.0) if self.guarded else shown.sum(1)
        return (self.table(x["ids"]) * shown).sum(1) / total


@pytest.mark.parametrize("guarded", [True, False])
def test_an_encoder_that_makes_nothing_of_an_empty_input_leaves_that_measure_out(guarded: bool) -> None:
    g = torch.Generator().manual_seed(0)
    words = {"ids": torch.randint(0, 7, (12, 5), generator=g), "mask": torch.rand(12, 5, generator=g) < 0.7}
    words["mask"][:, 0] = True
    batch = Batch({"text": words, "a": torch.randn(12, 3, generator=g)}, torch.arange(12) % 3, torch.arange(12))
    encoders = {"text": Words(guarded), "a": MLP((3,), hidden=(4,), width=4)}
    with seeded(0, "here"):
        model = restless(MultimodalModel(encoders, Concat({"text": 4, "a": 4}, 3)))
    found = measured(model, batch, batch)
    if guarded:
        assert found["undefined"] == {} and "zero_input" in found["modalities"]["a"]
        return
    assert found["undefined"] == {"zero_input": "with a kept the model's answers are not finite"}
    for numbers in found["modalities"].values():
        assert set(numbers) == {"own", "probe", "zero_feature", "mean_feature", "shapley", "utilisation"}
        assert "zero_input" not in numbers["shapley"] and "zero_input" not in numbers["utilisation"]
    assert "zero_input" not in found["gap"] and all(map(math.isfinite, found["gap"].values()))


def test_one_answer_that_is_not_finite_is_one_too_many() -> None:
    """An arg-max over NaN is a class like any other, so that the accuracy would not show it."""

    class Sure(Strategy):
        owns = frozenset({"predict"})

        def predict(self, out: Outputs) -> Outputs:
            sure = out.scores.amax(1, keepdim=True) > 0.9
            return out.replace(ranking=torch.where(sure, torch.nan, out.scores))

    model, train, test = case(Concat)
    assert set(measured(model, train, test, Sure())["undefined"]) == {"zero_feature", "zero_input", "mean_feature"}


def test_nothing_is_used_of_an_accuracy_of_zero() -> None:
    model, train, test = case(Concat, 2)
    wrong = predict(model, Strategy(), [test]).scores.argmin(1)
    found = measured(model, train, Batch(test.inputs, wrong, test.index))
    assert found["acc"] == 0.0
    for numbers in found["modalities"].values():
        assert "utilisation" not in numbers and set(numbers["shapley"]) == {
            "zero_feature",
            "zero_input",
            "mean_feature",
        }


def test_a_modality_that_no_item_has_is_left_out() -> None:
    model, train, test = case(Sum)
    present = torch.ones(80, 3, dtype=torch.bool)
    present[:, 2] = False
    found = measured(model, train, rows(test, present))
    assert list(found["modalities"]) == ["audio", "image"] and found["undefined"] == {}
    untrained = measured(model, rows(train, present[:30]), test)
    assert list(untrained["modalities"]) == ["audio", "image"] and all(map(math.isfinite, flat_numbers(untrained)))


def flat_numbers(found: dict[str, Any]) -> list[float]:
    return [v for v in flattened(found).values() if isinstance(v, float)]

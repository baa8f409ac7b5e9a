"""Contributions of modalities of whole models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.evaluated_models import case, measured, restless

from mmzoo.api import Batch, MultimodalModel, Strategy
from mmzoo.core.seeding import seeded
from mmzoo.evaluation.ablations import ablate
from mmzoo.evaluation.contributions import contributions
from mmzoo.evaluation.predictions import Fitted, predict
from mmzoo.functional import shapley
from mmzoo.heads.concat import Concat
from mmzoo.heads.shared import Shared
from mmzoo.heads.sum import Sum
from mmzoo.heads.weight import Weight
from mmzoo.testing.harness.tasks import CoupledConcat, Mixing, Task, TinyEncoder, build_model, make_task


@pytest.mark.parametrize("head", [Concat, Sum, Weight, Mixing])
def test_a_modality_whose_features_say_nothing_gives_nothing(head: Any) -> None:
    model, train, test = case(head)
    with torch.no_grad():  # its encoder makes zeros of everything
        for p in model.encoders["image"].parameters():
            p.zero_()
    found = measured(model, train, test)
    for key in ("zero_feature", "zero_input", "mean_feature"):
        assert found["modalities"]["image"]["shapley"][key]["value"] == pytest.approx(0.0, abs=1e-12)
        assert found["modalities"]["image"]["utilisation"][key]["value"] == 0.0
        total = sum(n["shapley"][key]["value"] for n in found["modalities"].values())
        assert total == pytest.approx(found["acc"] - found["shapley"][key]["none"])


@pytest.mark.parametrize("head", [Concat, Sum, Shared, Mixing])
def test_twins_give_the_same(head: Any) -> None:
    """Two modalities with one input, one encoder's weights and one block of the head's."""
    task = make_task(3, equal=True, dtype=torch.float64)
    task = Task(
        {s: {**x, "image": x["audio"], "text": x["text"]} for s, x in task.inputs.items()},
        task.target,
        task.present,
        task.widths,
        task.n_classes,
        task.dtype,
    )
    model = restless(build_model(task, head))
    with torch.no_grad():
        model.encoders["image"].load_state_dict(model.encoders["audio"].state_dict())
        state = model.head.state_dict()
        for name, value in state.items():
            if ".audio" in name:
                state[name.replace(".audio", ".image")] = value.clone()
        if head is Mixing:
            state["hidden.weight"][:, 5:10] = state["hidden.weight"][:, :5]
        model.head.load_state_dict(state)
    found = measured(model, task.batch("train"), task.batch("test"))["modalities"]
    for key in ("zero_feature", "zero_input", "mean_feature"):
        assert found["audio"]["shapley"][key]["value"] == pytest.approx(found["image"]["shapley"][key]["value"])
        assert found["audio"][key] == pytest.approx(found["image"][key])


@pytest.mark.parametrize("head", [Concat, Sum])
@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
def test_with_an_additive_head_the_contribution_to_the_logits_is_the_modalitys_own_part(
    head: Any, masked: bool
) -> None:
    """phi_m of every logit is l_m(z_m) - l_m(0), whatever the others do; with the sum of them the logits come back."""
    model, _, test = case(head, masked=masked)
    assert model.head.additive
    p = predict(model, Strategy(), [test])
    zero = ablate("zero-feature", model, Strategy(), p, Fitted.on(p, 3), lambda: [test])
    found = shapley(lambda s: zero.answers(s)[0], model.modalities)
    with torch.no_grad():
        empty = model.head({m: torch.zeros_like(z) for m, z in p.features.items()}, test.present)
    for m in model.modalities:
        assert torch.allclose(found[m], p.unimodal[m] - empty.unimodal[m], atol=1e-12)
    assert torch.allclose(sum(found.values()) + zero.answers([])[0], p.logits, atol=1e-12)


# ---------------------------------------------------------------------- many modalities
def wide(n: int, head: Any = Concat, n_items: int = 40) -> tuple[MultimodalModel, Batch]:
    g = torch.Generator().manual_seed(n)
    target = torch.randint(0, 3, (n_items,), generator=g)
    names = [f"m{i}" for i in range(n)]
    inputs = {
        m: torch.randn(n_items, 4, generator=g) + (target == 1)[:, None] * (i + 1) / 3 for i, m in enumerate(names)
    }
    with seeded(0, "wide"):
        model = MultimodalModel({m: TinyEncoder(4, 5) for m in names}, head(dict.fromkeys(names, 5), 3))
    return restless(model), Batch(inputs, target, torch.arange(n_items))


def test_up_to_six_modalities_are_exact_and_more_are_sampled_and_say_so() -> None:
    for n, word in ((6, "exact"), (7, "10 sampled orders"), (9, "6 sampled orders")):
        model, batch = wide(n)
        found = measured(model, batch, batch)
        for key, facts in found["shapley"].items():
            assert facts["word"] == f"{key.replace('_', '-')}, {word}"
            shares = {m: numbers["shapley"][key] for m, numbers in found["modalities"].items()}
            assert {s["word"] for s in shares.values()} == {facts["word"]}
            assert sum(s["value"] for s in shares.values()) == pytest.approx(facts["all"] - facts["none"])
        assert found == measured(model, batch, batch)


def test_sampled_contributions_are_near_the_exact_ones() -> None:
    model, batch = wide(7)
    p = predict(model, Strategy(), [batch])
    ablation = ablate("zero-input", model, Strategy(), p, Fitted.on(p, 3), lambda: [batch])
    sampled, facts = contributions(ablation)
    exact = shapley(ablation.accuracy, model.modalities)
    assert "sampled" in facts["word"] and max(abs(sampled[m] - exact[m]) for m in exact) < 0.05


@pytest.mark.parametrize(
    ("n", "head", "most"),
    [
        (6, Concat, 64),
        (7, Concat, 64),
        (10, Concat, 64),
        (4, CoupledConcat, 16),
        (5, CoupledConcat, 16),
        (7, CoupledConcat, 16),
    ],
)
def test_no_more_subsets_are_scored_than_the_limit(
    n: int, head: Any, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = wide(n, head)
    p = predict(model, Strategy(), [batch])
    ablation = ablate("zero-input", model, Strategy(), p, Fitted.on(p, 3), lambda: [batch])
    asked: list[frozenset[str]] = []
    answer = ablation._answer
    monkeypatch.setattr(ablation, "_answer", lambda kept: (asked.append(kept), answer(kept))[1])
    contributions(ablation)
    assert len(asked) == len(set(asked)) < most


def test_one_modality_gives_everything() -> None:
    model, train, test = case(Concat, 1)
    found = measured(model, train, test)
    for key, facts in found["shapley"].items():
        numbers = found["modalities"]["audio"]
        assert {**numbers[key], "word": ""} == pytest.approx({**numbers["own"], "word": ""})
        assert numbers["shapley"][key]["value"] == pytest.approx(facts["all"] - facts["none"])
        assert facts["imbalance"] == 0.0

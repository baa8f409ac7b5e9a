"""Measures of modalities: against brute force, against numpy from the formulas, and the properties that they have."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import NormEncoder
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmzoo.api import Batch, Encoder, MultimodalModel, Outputs, Strategy, evaluate_modalities
from mmzoo.benchmark.results import forms
from mmzoo.core.seeding import seeded
from mmzoo.encoders.mlp import MLP
from mmzoo.evaluation import scores
from mmzoo.evaluation.metrics import classification, gap, imbalance, utilisation
from mmzoo.evaluation.scores import ABLATIONS, Ablation, Fitted, ablate, contributions, paired_orders, predict
from mmzoo.functional import sampled_shapley, shapley
from mmzoo.heads.concat import Concat
from mmzoo.heads.shared import Shared
from mmzoo.heads.sum import Sum
from mmzoo.heads.weight import Weight
from mmzoo.testing.harness.tasks import CoupledConcat, Mixing, Task, TinyEncoder, build_model, make_task

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=25)
VECTORS = Path(__file__).parent / "vectors"
HEADS = [Concat, Sum, partial(Sum, reduce="mean"), Shared, Weight, partial(Weight, level="gate"), Mixing]
SUBSETS = Mapping[frozenset[str], float]


# ---------------------------------------------------------------------- how the tests do it
def powerset(names: Iterable[str]) -> list[frozenset[str]]:
    names = list(names)
    return [frozenset(s) for k in range(len(names) + 1) for s in itertools.combinations(names, k)]


def over_orders(value: Callable[[frozenset[Any]], Any], players: Iterable[Any]) -> dict[Any, Any]:
    """The Shapley value as it is defined: the mean gain over all orders."""
    players = list(players)
    orders = list(itertools.permutations(players))
    total: dict[Any, Any] = dict.fromkeys(players, 0.0)
    for order in orders:
        for i, p in enumerate(order):
            total[p] = total[p] + value(frozenset(order[: i + 1])) - value(frozenset(order[:i]))
    return {p: t / len(orders) for p, t in total.items()}


def rows(batch: Batch, present: Tensor | None) -> Batch:
    return Batch(batch.inputs, batch.target, batch.index, present)


def some_present(n: int, m: int, seed: int) -> Tensor:
    present = torch.rand(n, m, generator=torch.Generator().manual_seed(seed)) < 0.7
    present[torch.arange(m), torch.arange(m)] = True  # each modality somewhere
    return present


def restless(model: MultimodalModel, seed: int = 0) -> MultimodalModel:
    """Weights and biases that are not near zero, so that taking an input away leaves something of its own."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g, dtype=p.dtype) * 0.5)
    return model.eval()


def case(head: Any, n: int = 3, *, masked: bool = False, seed: int = 0) -> tuple[MultimodalModel, Batch, Batch]:
    """A model in float64 and the batches that it is fitted and tested on.

    Targets follow the model's answers to some items with some of the modalities, so that accuracies tell subsets apart.
    """
    task = make_task(n, equal=getattr(getattr(head, "func", head), "equal_dims", False), dtype=torch.float64, seed=seed)
    model = restless(build_model(task, head), seed)
    g = torch.Generator().manual_seed(seed)
    widths = {m: x.shape[1] for m, x in task.inputs["train"].items()}
    made = []
    for i, size in enumerate((30, 80)):
        inputs = {m: torch.randn(size, w, generator=g, dtype=torch.float64) + 0.5 for m, w in widths.items()}
        present = some_present(size, n, seed + i) if masked else None
        target = torch.randint(0, 3, (size,), generator=g)
        for kept in powerset(widths):
            blank = {m: x if m in kept else torch.zeros_like(x) for m, x in inputs.items()}
            with torch.no_grad():
                here = torch.rand(size, generator=g) < 0.2
                target = torch.where(here, model(blank, present).logits.argmax(1), target)
        made.append(Batch(inputs, target, torch.arange(size), present))
    return model, *made


def measured(model: MultimodalModel, train: Batch, test: Batch, strategy: Strategy | None = None) -> dict[str, Any]:
    return evaluate_modalities(model, strategy or Strategy(), train=lambda: [train], test=lambda: [test])


@torch.no_grad()
def by_hand(model: MultimodalModel, word: str, train: Batch, test: Batch, kept: frozenset[str]) -> Tensor:
    """Logits with some modalities kept, by a whole forward with inputs or features replaced one by one."""
    if word == "zero-input":
        blank = {m: x if m in kept else torch.zeros_like(x) for m, x in test.inputs.items()}
        return model(blank, test.present).logits
    feats, other = model.encode(test.inputs, present=test.present), model.encode(train.inputs, present=train.present)
    for i, m in enumerate(model.modalities):
        if m in kept:
            continue
        known = other[m] if train.present is None else other[m][train.present[:, i]]
        row = known.mean(0) if word == "mean-feature" else torch.zeros(known.shape[1], dtype=known.dtype)
        feats[m] = row.repeat(len(test), 1)
    return model.head(feats, test.present).logits


def acc(logits: Tensor, target: Tensor) -> float:
    return float((logits.argmax(1) == target).double().mean())


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


# ---------------------------------------------------------------------- properties of the contributions
@st.composite
def games(draw: st.DrawFn, least: int = 1, most: int = 4) -> tuple[list[str], dict[frozenset[str], float]]:
    players = [f"p{i}" for i in range(draw(st.integers(least, most)))]
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    return players, {s: float(v) for s, v in zip(powerset(players), rng.uniform(size=2 ** len(players)))}


ways = [
    lambda value, players: shapley(value, players),
    lambda value, players: sampled_shapley(value, list(itertools.permutations(players))),
]


@pytest.mark.parametrize("way", ways, ids=["exact", "every order"])
@FIXED
@given(games())
def test_contributions_add_up_and_are_the_mean_gain(way: Any, game: Any) -> None:
    players, value = game
    found = way(value.__getitem__, players)
    assert found == pytest.approx(over_orders(value.__getitem__, players), abs=1e-12)
    assert sum(found.values()) == pytest.approx(value[frozenset(players)] - value[frozenset()], abs=1e-12)


@pytest.mark.parametrize("way", ways, ids=["exact", "every order"])
@FIXED
@given(games(least=2), st.floats(-2, 2))
def test_symmetric_players_get_the_same_a_dummy_its_own_and_values_are_linear(way: Any, game: Any, c: float) -> None:
    players, value = game
    a, b, *_ = players
    swap = {a: b, b: a}
    symmetric = {s: (v + value[frozenset(swap.get(p, p) for p in s)]) / 2 for s, v in value.items()}
    found = way(symmetric.__getitem__, players)
    assert found[a] == pytest.approx(found[b], abs=1e-12)
    dummy = {s: value[s - {a}] + c * (a in s) for s in value}
    assert way(dummy.__getitem__, players)[a] == pytest.approx(c, abs=1e-12)
    mixed = way(lambda s: 2 * value[s] - dummy[s], players)
    one, other = way(value.__getitem__, players), way(dummy.__getitem__, players)
    assert mixed == pytest.approx({p: 2 * one[p] - other[p] for p in players}, abs=1e-12)


@FIXED
@given(games(least=3, most=5), st.integers(1, 4))
def test_sampled_orders_keep_efficiency_and_dummies(game: Any, pairs: int) -> None:
    players, value = game
    orders = paired_orders(players, pairs)
    assert len(orders) == 2 * pairs and all(sorted(o) == sorted(players) for o in orders)
    assert all(orders[i + 1] == orders[i][::-1] for i in range(0, len(orders), 2))
    found = sampled_shapley(value.__getitem__, orders)
    gains = {p: [] for p in players}  # type: dict[str, list[float]]
    for order in orders:
        for i, p in enumerate(order):
            gains[p].append(value[frozenset(order[: i + 1])] - value[frozenset(order[:i])])
    assert found == pytest.approx({p: np.mean(g) for p, g in gains.items()}, abs=1e-12)
    assert sum(found.values()) == pytest.approx(value[frozenset(players)] - value[frozenset()], abs=1e-12)
    a = players[0]
    dummy = sampled_shapley(lambda s: value[s - {a}], orders)
    assert dummy[a] == pytest.approx(0.0, abs=1e-12)
    additive = sampled_shapley(lambda s: sum(players.index(p) for p in s), orders)
    assert additive == {p: pytest.approx(i) for i, p in enumerate(players)}


@FIXED
@given(st.dictionaries(st.text(max_size=2), st.floats(-1, 1), min_size=1, max_size=5), st.floats(0.1, 10))
def test_the_imbalance_lies_between_0_and_1_and_ignores_scale(shares: dict[str, float], scale: float) -> None:
    index = imbalance(shares)
    assert 0.0 <= index <= 1.0 + 1e-12
    assert imbalance({m: scale * v for m, v in shares.items()}) == pytest.approx(index, rel=1e-6, abs=1e-9)
    assert imbalance(dict.fromkeys(shares, 0.3)) == 0.0 == imbalance(dict.fromkeys(shares, 0.0))
    if len(shares) > 1:
        first = next(iter(shares))
        assert imbalance({m: 0.4 * (m == first) for m in shares}) == pytest.approx(1.0)


def test_utilisation_by_hand() -> None:
    assert utilisation(0.8, 0.6) == pytest.approx(0.25) and utilisation(0.5, 0.6) == pytest.approx(-0.2)


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
    monkeypatch.setattr(scores, "EVAL_BATCH", 7)
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
    found = scores.features_of_zeros(model, [batch, batch])
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


# ---------------------------------------------------------------------- the authors' numbers
class Table:
    """An ablation whose accuracies are given."""

    word, costly = "zero-input", False

    def __init__(self, value: Mapping[str, float]) -> None:
        self._value = {frozenset(filter(None, s.split("+"))): v for s, v in value.items()}
        self.all = max(self._value, key=len)
        self.modalities = tuple(sorted(self.all))

    def accuracy(self, kept: Iterable[str]) -> float:
        return self._value[frozenset(kept)]


@pytest.mark.parametrize("n", ["2", "3"])
def test_contributions_of_the_vector(n: str) -> None:
    vector = json.loads((VECTORS / "shapley.json").read_text())
    table: Any = Table(vector["inputs"][f"v{n}"])
    shares, facts = contributions(table)
    assert shares == pytest.approx(vector["outputs"][f"shapley{n}"], abs=1e-12)
    assert sum(shares.values()) == pytest.approx(facts["all"] - facts["none"], abs=1e-12)
    total = sum(map(abs, shares.values()))
    assert facts["imbalance"] == pytest.approx((max(shares.values()) - min(shares.values())) / total, abs=1e-12)


def test_zero_feature_logits_of_the_vector() -> None:
    vector = json.loads((VECTORS / "concat_sum_unimodal.json").read_text())
    features = {m: torch.tensor(v, dtype=torch.float64) for m, v in vector["inputs"].items()}
    widths = {m: z.shape[1] for m, z in features.items()}
    weight = torch.tensor(vector["params"]["concat"]["fc_out.weight"], dtype=torch.float64)
    bias = torch.tensor(vector["params"]["concat"]["fc_out.bias"], dtype=torch.float64)

    class Given(Encoder):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.out_dim = width

        def forward(self, x: Tensor) -> Tensor:
            return x

    model = MultimodalModel({m: Given(w) for m, w in widths.items()}, Concat(widths, len(bias)).double())
    blocks = dict(zip(widths, weight.split(list(widths.values()), dim=1)))
    model.head.load_state_dict({**{f"weight.{m}": w for m, w in blocks.items()}, "bias": bias})
    n = len(next(iter(features.values())))
    batch = Batch(features, torch.arange(n) % len(bias), torch.arange(n))
    p = predict(model, Strategy(), [batch])
    for word in ("zero-feature", "zero-input"):
        ablation = ablate(word, model, Strategy(), p, Fitted.on(p, len(bias)), lambda: [batch])
        for m in features:
            expected = torch.tensor(vector["outputs"][f"concat_uni_{m}_zerofeat"], dtype=torch.float64)
            assert torch.allclose(ablation.answers([m])[0], expected, atol=1e-12, rtol=0)


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

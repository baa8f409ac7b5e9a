"""Heads that condition, gate, read in turn, add up or weigh: logits and gradients against numpy."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers.by_hand import Weights, assert_gradients, cross_entropy, gradient, pass_of_head
from helpers.heads_by_hand import WIDTHS, N, built, dims_of, features_of, layer, sigmoid, softmax

from mmzoo.heads.affine import Affine
from mmzoo.heads.gated import Gated
from mmzoo.heads.gmu import GMU
from mmzoo.heads.ml_lstm import MLLSTM
from mmzoo.heads.weight import Weight
from mmzoo.testing import check_part

ByHand = Callable[[Weights, dict[str, Any]], Any]


def side_by_side(z: Mapping[str, Any], names: str) -> Any:
    return np.concatenate([z[m] for m in names], 1)


def affine_by_hand(roles: Mapping[str, str], baseline: int, w: Weights, z: dict[str, Any]) -> Any:
    total = 0.0
    for t, by in roles.items():
        made = layer(w, f"generate.{t}", side_by_side(z, by))
        gamma, beta = baseline + made[:, : WIDTHS[t]], made[:, WIDTHS[t] :]
        total = total + layer(w, f"linear.{t}", gamma * z[t] + beta)
    return total


def gated_by_hand(roles: Mapping[str, str], w: Weights, z: dict[str, Any]) -> Any:
    h = {m: layer(w, f"project.{m}", x) for m, x in z.items()}
    return layer(w, "linear", sum(sigmoid(sum(h[c] for c in by)) * h[t] for t, by in roles.items()))


def gmu_by_hand(tied: bool, of_projections: bool, w: Weights, z: dict[str, Any]) -> Any:
    h = {m: layer(w, f"project.{m}", x) for m, x in z.items()}
    score = layer(w, "score", side_by_side(h if of_projections else z, "".join(z)))
    scores = np.split(score, len(z) - tied, axis=1)
    if tied and len(z) == 2:
        gates = [sigmoid(scores[0]), 1 - sigmoid(scores[0])]
    elif tied:
        gates = list(softmax(np.stack([*scores, 0 * scores[0]]), 0))
    else:
        gates = [sigmoid(s) for s in scores]
    return layer(w, "linear", sum(g * np.tanh(x) for g, x in zip(gates, h.values())))


def lstm_by_hand(in_turn: bool, w: Weights, z: dict[str, Any]) -> Any:
    steps = [layer(w, f"project.{m}", x) for m, x in z.items()] if in_turn else [side_by_side(z, "".join(z))]
    for k in range(sum(name.endswith("weight_ih") for name in w)):
        width = w[f"cells.{k}.weight_hh"].shape[1]
        h = c = np.zeros((len(steps[0]), width))
        for at, x in enumerate(steps):
            ih, hh = f"cells.{k}.weight_ih", f"cells.{k}.weight_hh"
            gates = x @ w[ih].T + h @ w[hh].T + w[f"cells.{k}.bias_ih"] + w[f"cells.{k}.bias_hh"]
            i, f, g, o = np.split(gates, 4, axis=1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            steps[at] = h
    return layer(w, "linear", steps[-1])


def weight_by_hand(w: Weights, z: dict[str, Any]) -> Any:
    """Level feature with two hidden layers in the attention network, no modality absent."""
    h = {m: layer(w, f"project.{m}", x) for m, x in z.items()}
    k = []
    for x in h.values():
        for i in (0, 2):
            x = layer(w, f"attend.{i}", x)
            x = x * (x.real > 0)
        k.append(layer(w, "attend.4", x))
    a = softmax(np.stack(k), 0)
    return layer(w, "linear", sum(a[i] * x for i, x in enumerate(h.values())))


def others(m: int) -> dict[str, str]:
    """Every modality -> all the rest."""
    names = "abcd"[:m]
    return {t: names.replace(t, "") for t in names}


def only(m: int, target: str) -> dict[str, str]:
    return {target: others(m)[target]}


def from_one(m: int, giver: str) -> dict[str, str]:
    return {t: giver for t in "abcd"[:m] if t != giver}


def cases() -> list[Any]:
    found: list[tuple[str, Any, dict[str, Any], int, ByHand]] = []
    for m in (2, 3, 4):
        last = "abcd"[m - 1]
        directions: list[tuple[dict[str, Any], dict[str, str]]] = [
            ({}, only(m, last)),
            ({"target": "first"}, only(m, "a")),
            ({"target": "b"}, only(m, "b")),
            ({"condition": "first", "target": "others"}, from_one(m, "a")),
            ({"condition": last, "target": "others"}, from_one(m, last)),
            ({"target": "others"}, others(m)),
        ]
        for params, roles in directions:
            for baseline in (0, 1):
                given = {**params, "gamma_baseline": baseline}
                found.append(("affine", Affine, given, m, partial(affine_by_hand, roles, baseline)))
            found.append(("gated", Gated, params, m, partial(gated_by_hand, roles)))
        for gates, of_projections in itertools.product(("paper", "tied", "independent"), (False, True)):
            tied = gates == "tied" or (gates == "paper" and m == 2)
            given = {"gates": gates, "reads": "projections" if of_projections else "features", "width": 4}
            found.append(("gmu", GMU, given, m, partial(gmu_by_hand, tied, of_projections)))
        for mode, layers in itertools.product(("concat_step", "modality_sequence"), (None, 2)):
            in_turn = mode == "modality_sequence"
            given = {"mode": mode, "width": 3, "layers": layers}
            found.append(("ml_lstm", MLLSTM, given, m, partial(lstm_by_hand, in_turn)))
    return [pytest.param(*rest, id=f"{name}-{rest[2]}-{rest[1]}") for name, *rest in found]


def with_zeros(z: Mapping[str, Any], present: Any) -> dict[str, Any]:
    return {m: x * present[:, [i]] for i, (m, x) in enumerate(z.items())}


@pytest.mark.parametrize(("cls", "params", "m", "by_hand"), cases())
def test_logits_and_gradients_by_hand(cls: type, params: dict, m: int, by_hand: ByHand) -> None:
    head, z = built(cls, dims_of(m), seed=m, **params), features_of(dims_of(m), seed=m)
    present = torch.rand(N, m, generator=torch.Generator().manual_seed(m)) < 0.7
    present[0], present[1] = True, False
    target = torch.tensor([0, 1, 2, 0, 1])
    out, every, seen = pass_of_head(head, z, present, target)
    w, x = {k: every[k] for k in head.state_dict()}, {k: every[f"z.{k}"] for k in z}
    here = present.numpy()
    np.testing.assert_allclose(out.logits.detach().numpy(), by_hand(w, with_zeros(x, here)), rtol=0, atol=1e-12)
    for i, m_ in enumerate(z):
        alone = with_zeros(x, here * (np.arange(m) == i))
        np.testing.assert_allclose(out.unimodal[m_].detach().numpy(), by_hand(w, alone), rtol=0, atol=1e-12)

    def loss(values: Weights) -> Any:
        given = with_zeros({k: values[f"z.{k}"] for k in x}, here)
        return cross_entropy(by_hand({k: values[k] for k in w}, given), target.numpy())

    assert_gradients(seen, gradient(loss, every))


@pytest.mark.parametrize("m", [2, 3, 4])
def test_a_deeper_attention_network_by_hand(m: int) -> None:
    head, z = built(Weight, dims_of(m), seed=m, attention=(6, 4), width=5), features_of(dims_of(m))
    w = {k: v.numpy() for k, v in head.state_dict().items()}
    by_hand = weight_by_hand(w, {k: v.numpy() for k, v in z.items()})
    np.testing.assert_allclose(head(z).logits.detach().numpy(), by_hand, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------- contract, in every variant
NAMED = [
    {"condition": "first", "target": "others"},
    {"condition": "others", "target": "first"},
    {"condition": "others", "target": "others"},
    {"condition": "last", "target": "others"},
]
VARIANTS = [
    *[(head, params) for head in (Affine, Gated) for params in NAMED],
    (Affine, {"gamma_baseline": 1}),
    (Gated, {"width": 2}),
    (GMU, {"gates": "tied", "reads": "projections", "width": 2}),
    (MLLSTM, {"mode": "modality_sequence", "layers": 1}),
    (Weight, {"attention": ()}),
    (Weight, {"level": "logit", "attention": (64, 32)}),
]


@pytest.mark.parametrize(("cls", "params"), VARIANTS, ids=str)
def test_variants_keep_the_contract(cls: type, params: dict) -> None:
    check_part("head", cls, params, draws=4)


NEW = [
    (Affine, {}),
    (Affine, {"target": "others"}),
    (Gated, {}),
    (GMU, {}),
    (GMU, {"gates": "tied"}),
    (MLLSTM, {}),
    (MLLSTM, {"mode": "modality_sequence"}),
]


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize(("cls", "params"), NEW, ids=str)
def test_a_modality_fed_alone_gives_its_ablated_logits(cls: type, params: dict, m: int) -> None:
    head, z = built(cls, dims_of(m), **params), features_of(dims_of(m))
    assert head.how == "ablated" and not head.additive
    whole = head(z)
    for name in z:
        torch.testing.assert_close(head({name: z[name]}).logits, whole.unimodal[name], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("cls", "params"), NEW, ids=str)
def test_logits_have_second_derivatives(cls: type, params: dict) -> None:
    head, z = built(cls, dims_of(3), **params), features_of(dims_of(3))
    leaves = [z["a"].requires_grad_(), *head.parameters()]
    loss = head(z).logits.square().sum()
    grads = torch.autograd.grad(loss, leaves, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in grads), leaves, allow_unused=True)
    assert bool(second[0].any()) and all(bool(g.isfinite().all()) for g in second if g is not None)

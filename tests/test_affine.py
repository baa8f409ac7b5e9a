"""Heads that condition, gate, read in turn, add up or weigh: by hand in numpy, and what their mathematics promises."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from by_hand import Weights, assert_gradients, cross_entropy, gradient, pass_of_head
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmzoo.api import FusionHead, Incompatible, conditioners
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.config.spec import BenchSpec
from mmzoo.errors import BadValue
from mmzoo.heads.affine import Affine
from mmzoo.heads.concat import Concat
from mmzoo.heads.gated import Gated
from mmzoo.heads.gmu import GMU
from mmzoo.heads.ml_lstm import MLLSTM
from mmzoo.heads.shared import Shared
from mmzoo.heads.sum import Sum
from mmzoo.heads.weight import Weight
from mmzoo.registry import Catalogue, read_entries
from mmzoo.testing import check_part

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=25)
SEEDS = st.integers(0, 10_000)
SIZES = st.integers(2, 4)
WIDTHS = {"a": 3, "b": 5, "c": 2, "d": 4}
N, C = 5, 3
ByHand = Callable[[Weights, dict[str, Any]], Any]


def dims_of(m: int) -> dict[str, int]:
    return dict(list(WIDTHS.items())[:m])


def features_of(dims: Mapping[str, int], seed: int = 0, n: int = N) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {m: torch.randn(n, d, generator=g, dtype=torch.float64) for m, d in dims.items()}


def built(cls: Callable[..., FusionHead], dims: Mapping[str, int], seed: int = 0, **params: Any) -> Any:
    torch.manual_seed(seed)
    return cls(dims, C, **params).double()


# ---------------------------------------------------------------------- by hand, in numpy
def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def softmax(x: Any, axis: int) -> Any:
    e = np.exp(x - x.real.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def layer(w: Weights, name: str, x: Any) -> Any:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)


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


# ---------------------------------------------------------------------- affine
@FIXED
@given(SEEDS, SIZES, st.integers(0, 1))
def test_a_scale_of_zero_shuts_the_target_out_and_one_without_shift_lets_it_pass(seed: int, m: int, base: int) -> None:
    head, z = built(Affine, dims_of(m), seed, gamma_baseline=base), features_of(dims_of(m), seed)
    (target,) = head.conditioners
    other, width = features_of(dims_of(m), seed + 1)[target], WIDTHS[target]
    make = head.generate[target]
    with torch.no_grad():
        make.weight[:width] = 0.0
        make.bias[:width] = -base
        torch.testing.assert_close(head(z).logits, head({**z, target: other}).logits, rtol=0, atol=1e-12)
        make.weight.zero_()
        make.bias[:width], make.bias[width:] = 1.0 - base, 0.0
    linear = head.linear[target]
    torch.testing.assert_close(head(z).logits, linear(z[target]), rtol=0, atol=1e-12)


@FIXED
@given(SEEDS, SIZES, st.floats(-2, 2))
def test_affine_is_affine_in_its_target(seed: int, m: int, t: float) -> None:
    head, z = built(Affine, dims_of(m), seed), features_of(dims_of(m), seed)
    (target,) = head.conditioners
    other = features_of(dims_of(m), seed + 1)[target]
    between = head({**z, target: t * z[target] + (1 - t) * other}).logits
    ends = t * head(z).logits + (1 - t) * head({**z, target: other}).logits
    torch.testing.assert_close(between, ends, rtol=0, atol=1e-10)


@FIXED
@given(SEEDS, SIZES)
def test_a_baseline_of_one_adds_the_linear_head_of_the_target(seed: int, m: int) -> None:
    z = features_of(dims_of(m), seed)
    zero, one = (built(Affine, dims_of(m), seed, gamma_baseline=b) for b in (0, 1))
    (target,) = zero.conditioners
    added = z[target] @ zero.linear[target].weight.T
    torch.testing.assert_close(one(z).logits - zero(z).logits, added, rtol=0, atol=1e-12)


@FIXED
@given(SEEDS, st.sampled_from([Affine, Gated]))
def test_the_two_directions_are_each_other_with_the_order_of_modalities_reversed(seed: int, cls: type) -> None:
    dims = dims_of(2)
    z = features_of(dims, seed)
    forth, back = built(cls, dims, seed), built(cls, dict(reversed(dims.items())), target="first")
    back.load_state_dict(forth.state_dict())
    torch.testing.assert_close(forth(z).logits, back(z).logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cls", [Affine, Gated])
def test_the_two_directions_differ(cls: type) -> None:
    dims = {"a": 4, "b": 4}
    head, z = built(cls, dims), features_of(dims)
    assert not torch.allclose(head(z).logits, head({"a": z["b"], "b": z["a"]}).logits, atol=1e-3)


# ---------------------------------------------------------------------- gated
@FIXED
@given(SEEDS, SIZES)
def test_a_gate_is_half_open_at_zero_and_lets_all_pass_when_saturated(seed: int, m: int) -> None:
    head, z = built(Gated, dims_of(m), seed), features_of(dims_of(m), seed)
    (target,) = head.conditioners
    gate = head(z).aux["gate"][target]
    assert bool(((gate > 0) & (gate < 1)).all())
    passed = head.project[target](z[target])
    with torch.no_grad():
        for c in head.conditioners[target]:
            head.project[c].bias.zero_()
        nothing = {k: x if k == target else torch.zeros_like(x) for k, x in z.items()}
        torch.testing.assert_close(head(nothing).logits, head.linear(0.5 * passed), rtol=0, atol=1e-12)
        head.project[head.conditioners[target][0]].bias.fill_(200.0)
        torch.testing.assert_close(head(z).logits, head.linear(passed), rtol=0, atol=1e-12)


# ---------------------------------------------------------------------- GMU
@FIXED
@given(SEEDS, SIZES, st.sampled_from(["paper", "tied", "independent"]))
def test_gates_lie_between_zero_and_one_and_tied_ones_add_up_to_one(seed: int, m: int, gates: Any) -> None:
    head, z = built(GMU, dims_of(m), seed, gates=gates), features_of(dims_of(m), seed)
    out = head(z)
    g = out.aux["gates"]
    assert g.shape == (N, m, max(dims_of(m).values())) and bool(((g > 0) & (g < 1)).all())
    adds_up = torch.allclose(g.sum(1), torch.ones_like(g[:, 0]), atol=1e-12)
    assert adds_up == (gates == "tied" or (gates == "paper" and m == 2))
    most = head.linear.weight.abs().sum(1) * (1 if adds_up else m)
    assert bool(((out.logits - head.linear.bias).abs() <= most + 1e-12).all())


@FIXED
@given(SEEDS, SIZES)
def test_an_absent_modality_has_no_term_of_its_own_in_a_gated_unit(seed: int, m: int) -> None:
    head, z = built(GMU, dims_of(m), seed), features_of(dims_of(m), seed)
    present = torch.rand(N, m, generator=torch.Generator().manual_seed(seed)) < 0.5
    hidden = head(z, present).aux["hidden"]
    assert bool((hidden == 0).all(2).eq(~present).all())


# ---------------------------------------------------------------------- ML-LSTM
@FIXED
@given(SEEDS, SIZES, st.integers(1, 3))
def test_in_one_step_recurrence_and_forgetting_act_on_nothing(seed: int, m: int, layers: int) -> None:
    head, z = built(MLLSTM, dims_of(m), seed, layers=layers), features_of(dims_of(m), seed)
    before = head(z).logits
    before.square().sum().backward()
    for cell in head.cells:
        width = cell.hidden_size
        assert not cell.weight_hh.grad.any() and not cell.weight_ih.grad[width : 2 * width].any()
        assert bool(cell.weight_ih.grad[:width].any()) and bool(cell.bias_hh.grad.any())
        with torch.no_grad():
            cell.weight_hh.normal_()
            cell.weight_ih[width : 2 * width].normal_()
    assert torch.equal(head(z).logits, before)


@FIXED
@given(SEEDS, SIZES)
def test_in_a_sequence_order_and_recurrence_matter(seed: int, m: int) -> None:
    dims = dims_of(m)
    head = built(MLLSTM, dims, seed, mode="modality_sequence")
    turned = built(MLLSTM, dict(reversed(dims.items())), mode="modality_sequence")
    turned.load_state_dict(head.state_dict())
    z = features_of(dims, seed)
    before = head(z).logits
    assert not torch.allclose(before, turned(z).logits, atol=1e-6)
    with torch.no_grad():
        head.cells[0].weight_hh.zero_()
    assert not torch.allclose(before, head(z).logits, atol=1e-6)


@FIXED
@given(SEEDS, st.sampled_from(["concat_step", "modality_sequence"]), st.floats(1, 1e6))
def test_the_hidden_state_is_bounded_whatever_comes_in(seed: int, mode: Any, size: float) -> None:
    head, z = built(MLLSTM, dims_of(3), seed, mode=mode), features_of(dims_of(3), seed)
    hidden = head({k: size * x for k, x in z.items()}).aux["hidden"]
    assert bool((hidden.abs() <= 1).all())


@pytest.mark.parametrize(("mode", "depth", "enters"), [("concat_step", 1, 10), ("modality_sequence", 2, 5)])
def test_depth_and_width_by_default(mode: Any, depth: int, enters: int) -> None:
    cells = built(MLLSTM, dims_of(3), mode=mode).cells
    assert [(c.input_size, c.hidden_size) for c in cells] == [(enters, 5), (5, 5)][:depth]
    for cls in (Gated, GMU):
        assert built(cls, dims_of(3)).linear.in_features == 5


# ---------------------------------------------------------------------- concat, sum, mean, shared, weight
MEAN = partial(Sum, reduce="mean")


@FIXED
@given(SEEDS, st.integers(1, 4))
def test_sum_is_concat_with_the_bias_shared_out_and_mean_is_sum_over_m(seed: int, m: int) -> None:
    dims, z = dims_of(m), features_of(dims_of(m), seed)
    joint, added, averaged = (built(cls, dims, seed) for cls in (Concat, Sum, MEAN))
    averaged.load_state_dict(added.state_dict())
    with torch.no_grad():
        for k in dims:
            joint.weight[k].copy_(added.linear[k].weight)
        joint.bias.copy_(torch.stack([added.linear[k].bias for k in dims]).sum(0))
    for x in z.values():
        x.requires_grad_()
    total = added(z)
    torch.testing.assert_close(joint(z).logits, total.logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(averaged(z).logits, total.logits / m, rtol=0, atol=1e-12)
    assert torch.equal(averaged(z).logits.argmax(1), total.logits.argmax(1))
    of_sum, of_mean = (torch.autograd.grad(h(z).logits.sum(), list(z.values())) for h in (added, averaged))
    torch.testing.assert_close(of_mean, tuple(g / m for g in of_sum), rtol=0, atol=1e-12)
    for k, x in z.items():
        torch.testing.assert_close(total.unimodal[k], added.linear[k](x), rtol=0, atol=1e-12)
        torch.testing.assert_close(averaged(z).unimodal[k], added.linear[k](x), rtol=0, atol=1e-12)
        # Zeroed features leave the whole bias, a slice its share: one offset a class apart.
        apart = joint({k: x}).logits - joint(z).unimodal[k]
        torch.testing.assert_close(apart, (1 - 1 / m) * joint.bias.expand(N, C), rtol=0, atol=1e-12)
    with torch.no_grad():
        for p in added.parameters():
            p.mul_(3.0)
    assert torch.equal(added(z).logits.argmax(1), total.logits.argmax(1))


ALIKE = [
    (Concat, {}),
    (Sum, {}),
    (Sum, {"reduce": "mean"}),
    (Shared, {}),
    (Weight, {}),
    (Weight, {"level": "logit"}),
    (Weight, {"level": "gate"}),
    (Affine, {"target": "others"}),
    (Gated, {"target": "others"}),
]


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize(("cls", "params"), ALIKE, ids=str)
def test_the_order_of_modalities_does_not_matter(cls: type, params: dict, m: int) -> None:
    dims = dict.fromkeys(dims_of(m), 3) if cls is Shared else dims_of(m)
    head, z = built(cls, dims, **params), features_of(dims)
    present = torch.rand(N, m, generator=torch.Generator().manual_seed(m)) < 0.7
    turned = built(cls, dict(reversed(dims.items())), **params)
    if cls is Affine:  # a generator's columns lie in the order of the modalities
        with torch.no_grad():
            for t, by in head.conditioners.items():
                blocks = dict(zip(by, head.generate[t].weight.split([dims[c] for c in by], 1)))
                turned.generate[t].weight.copy_(torch.cat([blocks[c] for c in turned.conditioners[t]], 1))
                turned.generate[t].bias.copy_(head.generate[t].bias)
            turned.linear.load_state_dict(head.linear.state_dict())
    else:
        turned.load_state_dict(head.state_dict())
    torch.testing.assert_close(head(z, present).logits, turned(z, present.flip(1)).logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("cls", "params"), ALIKE[:7], ids=str)
def test_one_modality_gives_a_linear_classifier(cls: type, params: dict) -> None:
    head, z = built(cls, {"a": 3}, **params), features_of({"a": 3}, n=9)
    out = head(z)
    torch.testing.assert_close(out.logits, out.unimodal["a"], rtol=0, atol=1e-12)
    design = torch.cat([z["a"], torch.ones(9, 1, dtype=torch.float64)], 1)
    fitted = design @ torch.linalg.lstsq(design, out.logits.detach()).solution
    torch.testing.assert_close(out.logits, fitted, rtol=0, atol=1e-10)


@FIXED
@given(SEEDS, SIZES, st.sampled_from(["feature", "logit", "gate"]))
def test_weights_add_up_to_one_over_what_is_there(seed: int, m: int, level: Any) -> None:
    head, z = built(Weight, dims_of(m), seed, level=level), features_of(dims_of(m), seed)
    present = torch.rand(N, m, generator=torch.Generator().manual_seed(seed)) < 0.6
    present[:, 0] |= ~present.any(1)
    a = head(z, present).aux["attention"]
    torch.testing.assert_close(a.sum(1), torch.ones_like(a[:, 0]))
    there = a.flatten(2).gt(0).all(2) if a.ndim == 3 else a > 0
    assert torch.equal(there, present)


@FIXED
@given(SEEDS, SIZES, st.floats(-5, 5))
def test_a_constant_on_all_scores_changes_no_weight_and_one_classifier_makes_the_levels_one(
    seed: int, m: int, shift: float
) -> None:
    dims, z = dims_of(m), features_of(dims_of(m), seed)
    feature, logit = (built(Weight, dims, seed, level=level) for level in ("feature", "logit"))
    with torch.no_grad():
        before = feature(z).logits
        feature.attend[-1].bias.add_(shift)
        torch.testing.assert_close(feature(z).logits, before, rtol=0, atol=1e-12)
        for part in ("project", "attend"):
            getattr(logit, part).load_state_dict(getattr(feature, part).state_dict())
        for k in dims:
            logit.each[k].load_state_dict(feature.linear.state_dict())
    torch.testing.assert_close(logit(z).logits, before, rtol=0, atol=1e-12)


# ---------------------------------------------------------------------- roles
def test_roles_of_two_modalities_are_the_two_directions() -> None:
    forth, back = {"v": ("a",)}, {"a": ("v",)}
    for condition, target in (("others", "last"), ("first", "others"), ("a", "v"), ("first", "last"), ("a", "others")):
        assert conditioners(["a", "v"], condition, target) == forth
    for condition, target in (("others", "first"), ("last", "others"), ("v", "a"), ("last", "first")):
        assert conditioners(["a", "v"], condition, target) == back
    assert conditioners(["a", "v"], "others", "others") == {**back, **forth}


def test_roles_of_more_modalities() -> None:
    names = ("a", "v", "t")
    assert conditioners(names, "others", "last") == {"t": ("a", "v")}
    assert conditioners(names, "others", "v") == {"v": ("a", "t")}
    assert conditioners(names, "v", "others") == {"a": ("v",), "t": ("v",)}
    assert conditioners(names, "others", "others") == {"a": ("v", "t"), "v": ("a", "t"), "t": ("a", "v")}
    # A modality may be called as one of the words; its name comes first.
    assert conditioners(("last", "v", "t"), "others", "last") == {"last": ("v", "t")}


@pytest.mark.parametrize(
    ("condition", "target", "said"),
    [
        ("vidoe", "others", r"condition must be one of audio, video, text, first, last, others, not 'vidoe'\. Did you"),
        ("others", "all", "target must be one of audio, video, text, first, last, others, not 'all'"),
        ("audio", "first", r"condition and target are both audio\. Set one of them to others"),
        ("first", "last", r"condition audio and target text leave out video\. Set one of them to others"),
    ],
)
def test_roles_that_cannot_be_are_refused_with_what_can(condition: str, target: str, said: str) -> None:
    for cls in (Affine, Gated):
        with pytest.raises(Incompatible, match=said):
            cls({"audio": 3, "video": 4, "text": 2}, C, condition=condition, target=target)


# ---------------------------------------------------------------------- how many modalities a head takes
@pytest.mark.parametrize("cls", [Affine, Gated, GMU, MLLSTM])
def test_fewer_than_two_modalities_are_refused(cls: type[FusionHead]) -> None:
    assert cls.min_modalities == 2
    for dims, given_ in (({"audio": 3}, "audio"), ({}, "none")):
        with pytest.raises(Incompatible, match=rf"{cls.__name__} needs at least 2 modalities, but got {given_}\. Use"):
            cls(dims, C)


def test_a_bench_refuses_a_head_that_needs_more_modalities(catalogue: Catalogue) -> None:
    one_view = (("mfeat.views", ["fou"]),)
    bench = BenchSpec(method="concat", baselines=("gmu",), seeds=(0,), settings=one_view, references=False)
    (refused,) = make_plan(bench, catalogue).refused
    assert (refused.method, refused.reason) == ("gmu", "head gmu needs at least 2 modalities; there is 1.")


def test_the_contract_sees_a_head_that_takes_fewer_than_it_says() -> None:
    class Lenient(Concat):
        def __init__(self, dims: Mapping[str, int], n_classes: int) -> None:
            super().__init__(dims, n_classes)
            self.min_modalities = 2  # type: ignore[misc]

    with pytest.raises(AssertionError, match=r"too few modalities are refused \(min_modalities\)"):
        check_part("head", Lenient, only=["check_head_tags"])


def test_the_limits_of_a_head_are_whole_numbers(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text("heads:\n  x: {summary: X., path: 'a:B', how: exact, modalities: {min: two}}\n", encoding="utf-8")
    with pytest.raises(BadValue, match=r"heads\.x\.modalities: must be whole numbers for min and max"):
        read_entries(path, "pkg")


# ---------------------------------------------------------------------- recipes
@pytest.mark.parametrize(
    ("name", "head", "differs"),
    [
        ("film", "affine", {}),
        ("affine_plus1", "affine", {"gamma_baseline": 1}),
        ("gated", "gated", {}),
        ("gmu", "gmu", {}),
        ("lstm", "ml_lstm", {}),
        ("ml_lstm_sequence", "ml_lstm", {"mode": "modality_sequence"}),
        ("ml_lstm_tokens", "ml_lstm", {"mode": "tokens"}),
        ("mean", "sum", {"reduce": "mean"}),
        ("weight_logit", "weight", {"level": "logit"}),
        ("weight_gate", "weight", {"level": "gate"}),
        ("concat@film", "affine", {}),
    ],
)
def test_recipes_name_their_heads(name: str, head: str, differs: dict, catalogue: Catalogue) -> None:
    method = resolve_method(catalogue, name, Settings(catalogue, ()))
    entry = catalogue.get("heads", method.head)
    assert entry.name == head
    assert {k: v for k, v in method.head_params.items() if v != entry.params[k].default} == differs
    assert [part.strategy for part in method.parts] == ["plain"]


def test_weight_unimodal_has_the_losses_of_cmml_two_to_one(catalogue: Catalogue) -> None:
    method = resolve_method(catalogue, "weight_unimodal", Settings(catalogue, ()))
    assert method.head == "weight" and [(p.strategy, dict(p.params)) for p in method.parts] == [
        ("joint_unimodal", {"weight": 0.5})
    ]


@pytest.mark.parametrize("head", ["affine", "gated", "gmu", "ml_lstm"])
def test_methods_that_need_unimodal_logits_are_refused_with_the_reason(head: str, catalogue: Catalogue) -> None:
    bench = BenchSpec(method=head, baselines=(f"ogm@{head}",), seeds=(0,), references=False)
    (refused,) = make_plan(bench, catalogue).refused
    assert f"head {head} has none of its own" in refused.reason

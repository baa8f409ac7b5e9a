"""What the mathematics of affine, gated and recurrent heads promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.heads_by_hand import WIDTHS, N, built, dims_of, features_of
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.heads.affine import Affine
from mmzoo.heads.gated import Gated
from mmzoo.heads.gmu import GMU
from mmzoo.heads.ml_lstm import MLLSTM

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=25)
SEEDS = st.integers(0, 10_000)
SIZES = st.integers(2, 4)


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

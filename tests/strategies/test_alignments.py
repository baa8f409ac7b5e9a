"""Alignment losses, schedules of alpha and weights by similarity: what their mathematics promises."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers.steps_by_hand import FIXED, SEEDS, C, D, N
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mmzoo.functional import cosine_similarities, info_nce, jensen_shannon, kl_to_mean
from mmzoo.heads.weight import Weight
from mmzoo.strategies.dynamic_gap import heuristic, stepwise


# ---------------------------------------------------------------------- dynamic gap
def modality_features(seed: int, n: int = 5, modalities: int = 2) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {m: torch.randn(n, D, generator=g, dtype=torch.float64) for m in "avt"[:modalities]}


@FIXED
@given(SEEDS, st.integers(1, 6), st.integers(2, 3), st.floats(0.05, 2.0))
def test_info_nce_is_not_negative_symmetric_and_blind_to_length_and_order(
    seed: int, n: int, modalities: int, tau: float
) -> None:
    z = modality_features(seed, n, modalities)
    g = torch.Generator().manual_seed(seed)
    value = float(info_nce(cosine_similarities(z, tau)))
    assert value >= 0
    swapped = dict(reversed(z.items()))
    assert float(info_nce(cosine_similarities(swapped, tau))) == pytest.approx(value, abs=1e-12)
    longer = {m: x * (0.1 + 9 * torch.rand(n, 1, generator=g, dtype=torch.float64)) for m, x in z.items()}
    assert float(info_nce(cosine_similarities(longer, tau))) == pytest.approx(value, abs=1e-10)
    order = torch.randperm(n, generator=g)
    moved = {m: x[order] for m, x in z.items()}
    assert float(info_nce(cosine_similarities(moved, tau))) == pytest.approx(value, abs=1e-12)


@FIXED
@given(st.integers(2, 8), st.integers(2, 3), st.floats(0.05, 2.0))
def test_info_nce_is_log_n_when_nothing_can_be_told_apart(n: int, modalities: int, tau: float) -> None:
    same = {m: torch.ones(n, D, dtype=torch.float64) for m in "avt"[:modalities]}
    assert float(info_nce(cosine_similarities(same, tau))) == pytest.approx(math.log(n), abs=1e-12)


@FIXED
@given(SEEDS, st.integers(2, 3), st.floats(0.1, 30.0))
def test_alignments_are_zero_for_equal_predictions_and_js_is_bounded(seed: int, n: int, size: float) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = [size * torch.randn(N, C, generator=g, dtype=torch.float64) for _ in range(n)]
    equal = [logits[0]] * n
    for divergence in (kl_to_mean, jensen_shannon):
        assert divergence(logits).shape == (N,)
        assert float(divergence(equal).abs().max()) == pytest.approx(0, abs=1e-12)
        assert float(divergence(logits).min()) >= -1e-12
    assert float(jensen_shannon(logits).max()) <= math.log(n) + 1e-12


@FIXED
@given(st.integers(1, 10_000))
def test_heuristic_alpha_falls_from_1_minus_1_over_e_like_1_over_t(t: int) -> None:
    assert 0 < heuristic(t + 1) < heuristic(t) <= heuristic(1) == 1 - math.exp(-1)
    assert 1 - 1 / (2 * t) <= heuristic(t) * t < 1


@FIXED
@given(st.floats(0, 1), st.integers(1, 50), st.data())
def test_stepwise_alphas_of_p_and_1_minus_p_add_up_to_one(p: float, n_epochs: int, data: st.DataObject) -> None:
    epoch = data.draw(st.integers(0, n_epochs - 1))
    assert stepwise(p, epoch, n_epochs) + stepwise(1 - p, epoch, n_epochs) == pytest.approx(1, abs=1e-12)
    assert stepwise(p, epoch, n_epochs) == (p if 2 * epoch < n_epochs else 1 - p)


# ---------------------------------------------------------------------- Weight
@FIXED
@given(SEEDS, st.sampled_from(["feature", "logit", "gate"]), st.integers(2, 3))
def test_weights_add_up_to_one_and_equal_features_weigh_the_same(seed: int, level: Any, n: int) -> None:
    torch.manual_seed(seed)
    z = modality_features(seed, modalities=n)
    head = Weight(dict.fromkeys(z, D), C, level=level).double()
    attention = head(z).aux["attention"]
    torch.testing.assert_close(attention.sum(1), torch.ones_like(attention[:, 0]))
    equal = head(dict.fromkeys(z, z["a"])).aux["attention"]
    torch.testing.assert_close(equal, torch.full_like(equal, 1 / n))


def test_similarities_have_finite_second_derivatives_at_a_row_of_zeros() -> None:
    z = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z[1] = 0.0

    def loss(a: Tensor) -> Tensor:
        return info_nce(cosine_similarities({"a": a, "b": z.flip(0)}, 0.5))

    hessian = torch.autograd.functional.hessian(loss, z)
    assert bool(torch.isfinite(hessian).all())

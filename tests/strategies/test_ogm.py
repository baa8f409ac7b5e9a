"""OGM: what its mathematics promises."""

from __future__ import annotations

from typing import Any

import torch
from helpers.steps_by_hand import ALPHAS, FIXED, FORMS, SCORES
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from mmzoo.strategies import ogm


def off_the_jump(scores: Tensor) -> bool:
    """No modality lies so close to rho = 1 that rounding decides on which side it is."""
    rho = ogm.ratios(scores)
    return bool(((rho - 1).abs() > 1e-9).all()) or len(set(scores.tolist())) == 1


@FIXED
@given(SCORES, ALPHAS, FORMS)
def test_ogm_factors_lie_in_0_1_and_spare_those_behind(drawn: list[float], alpha: float, form: Any) -> None:
    scores = torch.tensor(drawn, dtype=torch.float64)
    k = ogm.coefficients(scores, alpha, form)
    assert bool(((k > 0) & (k <= 1)).all())
    assert bool((k[ogm.ratios(scores) <= 1] == 1).all())
    if len(drawn) == 2:
        assert int((k < 1).sum()) <= 1


@FIXED
@given(SCORES, ALPHAS, FORMS, st.floats(1e-3, 1e3), st.randoms(use_true_random=False))
def test_ogm_factors_ignore_scale_and_follow_a_permutation(
    drawn: list[float], alpha: float, form: Any, scale: float, random: Any
) -> None:
    scores = torch.tensor(drawn, dtype=torch.float64)
    assume(off_the_jump(scores))
    k = ogm.coefficients(scores, alpha, form)
    torch.testing.assert_close(ogm.coefficients(scale * scores, alpha, form), k, rtol=0, atol=1e-12)
    order = random.sample(range(len(drawn)), len(drawn))
    torch.testing.assert_close(ogm.coefficients(scores[order], alpha, form), k[order], rtol=0, atol=1e-12)


@FIXED
@given(SCORES, ALPHAS, ALPHAS, FORMS)
def test_ogm_factors_fall_with_alpha(drawn: list[float], one: float, two: float, form: Any) -> None:
    scores = torch.tensor(drawn, dtype=torch.float64)
    low, high = (ogm.coefficients(scores, alpha, form) for alpha in sorted((one, two)))
    assert bool((high <= low).all())


@FIXED
@given(st.floats(1e-300, 1e3), st.integers(2, 4), ALPHAS, FORMS)
def test_ogm_leaves_everyone_alone_at_a_tie(score: float, n: int, alpha: float, form: Any) -> None:
    k = ogm.coefficients(torch.full((n,), score, dtype=torch.float64), alpha, form)
    assert k.tolist() == [1.0] * n


def test_ogm_survives_scores_of_zero_and_a_single_entry() -> None:
    zero = torch.zeros(2, dtype=torch.float64)
    assert ogm.coefficients(zero, 0.3).tolist() == [1.0, 1.0]
    assert ogm.coefficients(torch.tensor([0.0, 1.0], dtype=torch.float64), 0.3).tolist() == [1.0, 0.0]
    one = torch.full((1, 1, 1, 1), 2.0, dtype=torch.float64)
    assert float(ogm.with_noise(one, 0.5, torch.ones_like(one))) == 1.0


def test_ogm_noise_has_the_mean_and_the_deviation_it_claims() -> None:
    g = torch.Generator().manual_seed(0)
    grad = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
    noise = torch.randn(20_000, 3, generator=g, dtype=torch.float64)
    found = torch.stack([ogm.with_noise(grad, 0.25, row) for row in noise])
    torch.testing.assert_close(found.mean(0), 0.25 * grad, rtol=0, atol=0.1)
    torch.testing.assert_close(found.std(0), grad.std().expand(3), rtol=0.03, atol=0)

"""PMR: what its mathematics promises."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.steps_by_hand import FIXED, SEEDS, C, D, pmr_case, pmr_terms
from hypothesis import given
from hypothesis import strategies as st

from mmzoo.strategies import pmr
from mmzoo.strategies.pmr import PMR


@FIXED
@given(st.floats(0.05, 20.0))
def test_pmr_only_one_modality_is_pulled_and_the_rule_is_symmetric(rho: float) -> None:
    beta, gamma = pmr.coefficients(torch.tensor([rho, 1.0], dtype=torch.float64)).tolist()
    mirrored = pmr.coefficients(torch.tensor([1.0 / rho, 1.0], dtype=torch.float64)).tolist()
    assert beta * gamma == 0 and 0 <= beta <= 1 and 0 <= gamma <= 1
    assert mirrored == pytest.approx([gamma, beta], abs=1e-12)
    assert beta == pytest.approx(min(max(1 / rho - 1, 0), 1), abs=1e-12)
    assert gamma == pytest.approx(min(max(rho - 1, 0), 1), abs=1e-12)


@FIXED
@given(SEEDS, st.integers(2, 3), st.sampled_from(["paper", "code"]))
def test_pmr_ignores_a_common_translation_and_rotation(seed: int, n: int, variant: Any) -> None:
    features, prototypes, target, logits = pmr_case(seed, n)
    g = torch.Generator().manual_seed(seed + 1)
    turn = torch.linalg.qr(torch.randn(D, D, generator=g, dtype=torch.float64)).Q
    shift = torch.randn(D, generator=g, dtype=torch.float64)
    before = pmr_terms(features, prototypes, target, logits, variant=variant)
    moved = [{m: z @ turn + shift for m, z in side.items()} for side in (features, prototypes)]
    after = pmr_terms(moved[0], moved[1], target, logits, variant=variant)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=1e-10)


@FIXED
@given(SEEDS, st.integers(2, 3))
def test_pmr_reaches_only_the_modality_behind(seed: int, n: int) -> None:
    features, prototypes, target, logits = pmr_case(seed, n)
    for z in features.values():
        z.requires_grad_()
    terms = pmr_terms(features, prototypes, target, logits)
    leaves = list(features.values())
    for m in features:
        grads = torch.autograd.grad(terms[f"pmr/{m}"], leaves, retain_graph=True, allow_unused=True)
        assert all(g is None for other, g in zip(features, grads) if other != m)
    assert any(float(terms[f"pmr/{m}"].detach()) == 0.0 for m in features)


@FIXED
@given(SEEDS, st.integers(0, C - 1))
def test_pmr_has_no_nan_for_an_absent_class_or_at_distance_zero(seed: int, absent: int) -> None:
    features, prototypes, target, logits = pmr_case(seed)
    seen = torch.arange(C) != absent
    for m, z in features.items():
        prototypes[m][absent] = 0.0
        z[:2] = prototypes[m][target[:2]]
        z.requires_grad_()
    terms = pmr_terms(features, prototypes, target, logits, seen)
    total = sum(terms.values())
    grads = torch.autograd.grad(total, list(features.values()))  # type: ignore[arg-type]
    assert bool(torch.isfinite(total)) and all(bool(g.isfinite().all()) for g in grads)


def test_pmr_keeps_the_prototype_of_a_class_that_stops_occurring() -> None:
    strategy = PMR(momentum=0.5)
    old, new = torch.ones(2, 1, dtype=torch.float64), torch.tensor([[3.0], [0.0]], dtype=torch.float64)
    strategy._absorb("a", old, torch.tensor([True, False]))
    strategy._absorb("a", new, torch.tensor([True, False]))
    assert strategy.prototypes["a"][0].item() == 2.0 and strategy.seen["a"].tolist() == [True, False]
    strategy._absorb("a", torch.tensor([[0.0], [7.0]], dtype=torch.float64), torch.tensor([False, True]))
    assert strategy.prototypes["a"].flatten().tolist() == [2.0, 7.0]
    assert strategy.seen["a"].tolist() == [True, True]

"""The factors of AGM: what their mathematics promises."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from helpers.agm_runs import C, rows
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmzoo.functional import shapley_weights
from mmzoo.strategies import agm
from mmzoo.strategies.agm import AGM
from mmzoo.testing.harness.observing import weights
from mmzoo.testing.harness.tasks import build_model, build_run, make_task, random_present, train

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=40)
SEEDS = st.integers(0, 10_000)


# ---------------------------------------------------------------------- AGM: what its mathematics promises
def coalition_values(seed: int, names: Sequence[str]) -> dict[frozenset[str], Tensor]:
    sets = [frozenset(s) for k in range(1, len(names) + 1) for s in itertools.combinations(names, k)]
    return {s: rows(seed + i, 4, C, scale=3.0) for i, s in enumerate(sets)}


@FIXED
@given(seed=SEEDS, n=st.integers(1, 4))
def test_responses_add_up_and_follow_the_names(seed: int, n: int) -> None:
    names = list("abcd"[:n])
    values = coalition_values(seed, names)
    phi = agm.responses(values, names)
    assert torch.allclose(phi.sum(0), values[frozenset(names)], rtol=0, atol=1e-12)
    assert torch.allclose(agm.responses(values, names[::-1]), phi.flip(0), rtol=0, atol=1e-12)


@FIXED
@given(seed=SEEDS)
def test_responses_of_a_pair_are_halves(seed: int) -> None:
    values = coalition_values(seed, "av")
    a, v, both = values[frozenset("a")], values[frozenset("v")], values[frozenset("av")]
    expected = torch.stack([(both - v + a) / 2, (both - a + v) / 2])
    assert torch.allclose(agm.responses(values, "av"), expected, rtol=0, atol=1e-12)


@FIXED
@given(n=st.integers(1, 5))
def test_weights_of_shapley_values_share_out_what_all_are_worth(n: int) -> None:
    table = shapley_weights(range(n))
    for s in table[0]:
        total = sum(row[s] for row in table.values())
        assert total == pytest.approx(1.0 if len(s) == n else -1.0 if not s else 0.0, abs=1e-12)
        # A player is paid for the sets that it is in, as much as it is charged for the same sets without it.
        assert all(row[s] == pytest.approx(-row[s - {p}]) for p, row in table.items() if p in s)


LOSSES = st.lists(st.floats(0.0, 18.0), min_size=2, max_size=5)


@FIXED
@given(now=LOSSES, data=st.data(), alpha=st.floats(0.0, 3.0), cap=st.floats(0.1, 20.0), symmetric=st.booleans())
def test_factors_are_positive_bounded_and_follow_the_names(
    now: list[float], data: Any, alpha: float, cap: float, symmetric: bool
) -> None:
    scores = torch.tensor(now, dtype=torch.float64)
    means = torch.tensor([data.draw(st.floats(0.0, 18.0)) for _ in now], dtype=torch.float64)
    k = agm.coefficients(scores, means, alpha, cap, symmetric)
    assert (k >= 0).all() and (k <= math.exp(alpha * cap) * (1 + 1e-12)).all()
    if symmetric:
        assert (k >= math.exp(-alpha * cap) * (1 - 1e-12)).all()
    order = torch.tensor(data.draw(st.permutations(range(len(now)))))
    assert torch.allclose(agm.coefficients(scores[order], means[order], alpha, cap, symmetric), k[order], rtol=1e-9)
    assert torch.equal(agm.coefficients(scores, means, 0.0, cap, symmetric), torch.ones_like(k))


@FIXED
@given(level=st.floats(0.0, 18.0), before=st.floats(0.0, 18.0), n=st.integers(2, 5))
def test_equal_modalities_are_left_alone(level: float, before: float, n: int) -> None:
    same = torch.full((n,), level, dtype=torch.float64), torch.full((n,), before, dtype=torch.float64)
    assert torch.allclose(agm.coefficients(*same, 2.0), torch.ones(n, dtype=torch.float64), rtol=1e-9)


@FIXED
@given(a=st.floats(0.0, 18.0), v=st.floats(0.0, 18.0))
def test_the_ratios_of_a_pair_are_inverse(a: float, v: float) -> None:
    r = agm.ratios(torch.tensor([a, v], dtype=torch.float64))
    assert float(r[0]) == pytest.approx(math.exp(v - a), rel=1e-9) and float(r.prod()) == pytest.approx(1.0, rel=1e-9)


@FIXED
@given(now=LOSSES, data=st.data(), less=st.floats(0.01, 3.0))
def test_a_modality_that_gets_better_than_it_was_is_slowed(now: list[float], data: Any, less: float) -> None:
    scores = torch.tensor(now, dtype=torch.float64)
    better = scores.clone()
    better[0] -= less
    before, after = (agm.coefficients(s, scores, 0.5, 1000.0) for s in (scores, better))
    assert torch.allclose(before, torch.ones_like(before), rtol=1e-9) and float(after[0]) < 1.0
    assert bool((after[1:] > 1.0).all()) or len(now) == 1


def test_the_caps_are_those_of_the_authors_scripts() -> None:
    for n, cap in ((2, 10.0), (3, 7.0), (4, 7.0)):
        means = torch.zeros(n, dtype=torch.float64)
        means[1:] = 18.0
        assert float(agm.coefficients(torch.zeros_like(means), means, 1.0)[0]) == pytest.approx(math.exp(cap))


def test_factors_never_are_infinite() -> None:
    for dtype in (torch.float32, torch.float64):
        k = agm.coefficients(torch.tensor([0.0, 18.0]).to(dtype), torch.tensor([18.0, 0.0]).to(dtype), 100.0, 1000.0)
        assert float(k[0]) == 0.0 and float(k[1]) == pytest.approx(torch.finfo(dtype).max ** 0.4, rel=1e-3)


@pytest.mark.parametrize("gradient", ["exact", "detached"])
def test_without_a_cap_clipping_still_bounds_the_step(gradient: Any) -> None:
    """The preset avmnist in float32: a factor of 1e15 must not turn into infinite norms or NaN."""
    task = make_task(2)
    run = build_run(
        task, AGM(alpha=2.5, cap=1000.0, gradient=gradient), build_model(task), momentum=0.0, weight_decay=0.0
    )
    run.strategy.means, run.strategy.counts = torch.tensor([0.0, 18.0]), torch.ones(2)
    before = weights(run.model)
    run.start_epoch()
    run.step(next(run.epoch_batches()))
    moved = torch.cat([(t - before[n]).flatten() for n, t in weights(run.model).items()])
    assert float(moved.norm()) == pytest.approx(0.05, rel=1e-3)  # the rate times the norm that is let through


def test_the_true_class_counts_at_least_the_floor() -> None:
    phi = torch.tensor([[[0.0, 100.0]], [[100.0, 0.0]]], dtype=torch.float64)
    total, count = agm.score_sums(phi, torch.tensor([0]))
    assert float(total[0]) == pytest.approx(-math.log(1e-8)) and float(total[1]) == 0.0 and count.tolist() == [1.0, 1.0]


def test_modalities_without_items_take_no_part() -> None:
    scores, means = torch.tensor([0.3, 2.0, 0.0]), torch.tensor([0.9, 1.1, 0.4])
    seen = torch.tensor([True, True, False])
    k = agm.coefficients(scores, means, 0.5, 10.0, seen=seen, known=seen)
    assert torch.allclose(k[:2], agm.coefficients(scores[:2], means[:2], 0.5, 10.0)) and float(k[2]) == 1.0
    task = make_task(3)
    present = random_present(task, 0, 0.7)
    present[:, 2], present[:, 0] = False, True
    run = build_run(task.with_train(present=present), AGM(), build_model(task))
    logged = train(run, 1)
    assert logged["agm/text"] == 1.0 != logged["agm/audio"]
    assert run.strategy.counts.tolist() == [3.0, 3.0, 0.0] and float(run.strategy.means[2]) == 0.0

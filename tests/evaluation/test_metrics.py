"""Scores against scikit-learn and against definitions written out in numpy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from mmzoo.evaluation import metrics
from mmzoo.functional import shapley

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=60)


@st.composite
def predictions(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores (N, C) with many ties, and targets in which classes may be absent."""
    n, c = draw(st.integers(1, 25)), draw(st.integers(2, 6))
    rows = st.lists(st.integers(0, 4), min_size=c, max_size=c)
    scores = draw(st.lists(rows, min_size=n, max_size=n))
    used = draw(st.lists(st.integers(0, c - 1), min_size=1, max_size=c))
    target = draw(st.lists(st.sampled_from(used), min_size=n, max_size=n))
    return torch.tensor(scores, dtype=torch.float64) / 4, torch.tensor(target)


@FIXED
@given(predictions())
def test_accuracy_and_macro_f1_are_those_of_scikit_learn(drawn: tuple[torch.Tensor, torch.Tensor]) -> None:
    scores, target = drawn
    predicted = scores.numpy().argmax(1)
    hits = accuracy_score(target.numpy(), predicted)
    assert metrics.accuracy(scores, target) == pytest.approx(hits, abs=1e-12)
    expected = f1_score(target.numpy(), predicted, average="macro", zero_division=0)
    assert metrics.macro_f1(scores, target) == pytest.approx(expected, abs=1e-12)


@FIXED
@given(predictions())
def test_average_precision_is_that_of_scikit_learn_where_a_class_occurs(
    drawn: tuple[torch.Tensor, torch.Tensor],
) -> None:
    scores, target = drawn
    ours = metrics.average_precision(scores, target)
    expected = []
    for c in range(scores.shape[1]):
        truth = (target == c).numpy()
        if truth.any():
            expected.append(average_precision_score(truth, scores[:, c].numpy()))
            assert float(ours[c]) == pytest.approx(expected[-1], abs=1e-12)
        else:
            assert math.isnan(ours[c])
    assert metrics.mean_average_precision(scores, target) == pytest.approx(np.mean(expected), abs=1e-12)


@FIXED
@given(predictions(), st.randoms(use_true_random=False))
def test_scores_do_not_depend_on_the_order_of_items(drawn: tuple[torch.Tensor, torch.Tensor], random: object) -> None:
    scores, target = drawn
    order = list(range(len(target)))
    random.shuffle(order)  # type: ignore[attr-defined]
    before = metrics.classification(scores, target, scores)
    after = metrics.classification(scores[order], target[order], scores[order])
    assert after == pytest.approx(before, abs=1e-12)


@FIXED
@given(predictions())
def test_map_ignores_increasing_maps_of_a_column_and_duplicated_items(
    drawn: tuple[torch.Tensor, torch.Tensor],
) -> None:
    scores, target = drawn
    plain = metrics.mean_average_precision(scores, target)
    stretch = torch.arange(1, scores.shape[1] + 1)
    assert metrics.mean_average_precision(scores.exp() * stretch, target) == pytest.approx(plain, abs=1e-12)
    twice = metrics.mean_average_precision(scores.repeat(2, 1), target.repeat(2))
    assert twice == pytest.approx(plain, abs=1e-12)
    assert 0.0 <= plain <= 1.0


def test_a_perfect_ranking_and_a_loss_by_hand() -> None:
    target = torch.tensor([0, 1, 2, 1])
    logits = torch.nn.functional.one_hot(target, 3).double()
    found = metrics.classification(logits.softmax(1), target, logits)
    assert (found["acc"], found["macro_f1"], found["map"]) == (1.0, 1.0, 1.0)
    assert found["loss"] == pytest.approx(math.log(math.e + 2) - 1, abs=1e-12)


def test_ties_of_the_highest_score_go_to_the_first_class() -> None:
    scores = torch.ones(2, 3, dtype=torch.float64)
    assert metrics.accuracy(scores, torch.tensor([0, 2])) == 0.5


@FIXED
@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 8), st.integers(1, 5))
def test_modality_gap_by_definition(seed: int, n_a: int, n_b: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n_a, width)), rng.normal(size=(n_b, width))
    rows = [x / np.sqrt((x**2).sum(1, keepdims=True)) for x in (a, b)]
    ours = metrics.modality_gap(torch.tensor(a), torch.tensor(b))
    assert ours == pytest.approx(np.linalg.norm(rows[0].mean(0) - rows[1].mean(0)), abs=1e-12)
    assert 0.0 <= ours <= 2.0 + 1e-12
    scaled = torch.tensor(a) * torch.tensor(rng.uniform(0.5, 2.0, (n_a, 1)))
    assert metrics.modality_gap(scaled, torch.tensor(b)) == pytest.approx(ours, abs=1e-12)
    raw = metrics.modality_gap(torch.tensor(a), torch.tensor(b), normalize=False)
    assert raw == pytest.approx(np.linalg.norm(a.mean(0) - b.mean(0)), abs=1e-12)


@FIXED
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_shapley_is_the_mean_marginal_gain_over_all_orders(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    players = list(range(n))
    subsets = [frozenset(s) for k in range(n + 1) for s in itertools.combinations(players, k)]
    value = dict(zip(subsets, rng.normal(size=len(subsets))))
    gains = {p: [] for p in players}  # type: dict[int, list[float]]
    for order in itertools.permutations(players):
        for i, p in enumerate(order):
            gains[p].append(value[frozenset(order[: i + 1])] - value[frozenset(order[:i])])
    ours = shapley(value.__getitem__, players)
    assert ours == pytest.approx({p: np.mean(g) for p, g in gains.items()}, abs=1e-12)
    assert sum(ours.values()) == pytest.approx(value[frozenset(players)] - value[frozenset()], abs=1e-12)


def test_gap_of_one_two_and_three_modalities() -> None:
    assert metrics.gap({}) == metrics.gap({"a": 0.3}) == 0.0
    assert metrics.gap({"a": 0.3, "v": 0.5, "t": 0.4}) == pytest.approx(0.2)

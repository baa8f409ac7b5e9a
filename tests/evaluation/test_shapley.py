"""Shapley values, imbalance and utilisation: what their mathematics promises."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from helpers.evaluated_models import over_orders, powerset
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.evaluation.contributions import paired_orders
from mmzoo.evaluation.metrics import imbalance, utilisation
from mmzoo.functional import sampled_shapley, shapley

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=25)


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

"""The weights of G-Blend: what their formula promises."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from helpers.places import VECTORS
from helpers.steps_by_hand import FIXED
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmzoo.registry.plugins import catalogue
from mmzoo.strategies.gblend import gains, normalised, scores

FEW = settings(FIXED, max_examples=25)
FORMULAS = ["guarded", "paper", "absolute", "gap", "clamped"]
# ---------------------------------------------------------------------- G-Blend: formulas
LOSS = st.integers(0, 192).map(lambda n: n / 64)  # on a grid, so that sums and differences are exact


@st.composite
def trainings(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """(2, K) training and validation losses of 2 to 5 branches."""
    k = draw(st.integers(2, 5))
    rows = draw(st.lists(st.lists(LOSS, min_size=k, max_size=k), min_size=4, max_size=4))
    losses = torch.tensor(rows, dtype=torch.float64)
    return losses[:2], losses[2:]


@FEW
@given(trainings(), st.floats(0, 0.2), st.floats(1e-4, 0.5))
def test_guarded_weights_lie_on_the_simplex_and_above_their_floor(
    losses: tuple[Tensor, Tensor], least: float, eps: float
) -> None:
    w = normalised(scores(*losses, "guarded", eps), least)
    assert float(w.sum()) == pytest.approx(1.0, abs=1e-12)
    assert bool((w >= least - 1e-12).all()) and bool((w <= 1 - (len(w) - 1) * least + 1e-12).all())
    gain, _ = gains(*losses)
    if bool((gain > 0).any()):
        torch.testing.assert_close(w[gain <= 0], torch.full_like(w[gain <= 0], least), rtol=0, atol=1e-12)


@FEW
@given(trainings(), st.sampled_from(FORMULAS), st.randoms(use_true_random=False))
def test_weights_follow_a_permutation_of_the_branches(losses: tuple[Tensor, Tensor], formula: Any, random: Any) -> None:
    order = random.sample(range(losses[0].shape[1]), losses[0].shape[1])
    moved = normalised(scores(losses[0][:, order], losses[1][:, order], formula))
    torch.testing.assert_close(moved, normalised(scores(*losses, formula))[order], rtol=1e-12, atol=1e-12)


@FEW
@given(st.lists(LOSS, min_size=4, max_size=4), st.integers(2, 5), st.sampled_from(FORMULAS))
def test_branches_that_do_the_same_weigh_the_same(four: list[float], k: int, formula: Any) -> None:
    same = torch.tensor(four, dtype=torch.float64).reshape(2, 2, 1).expand(2, 2, k)
    w = normalised(scores(same[0], same[1], formula), 0.1)
    torch.testing.assert_close(w, torch.full((k,), 1 / k, dtype=torch.float64), rtol=0, atol=1e-12)


@FEW
@given(trainings(), st.lists(st.integers(0, 3), min_size=5, max_size=5), st.sampled_from(FORMULAS))
def test_adding_a_constant_to_all_losses_of_a_branch_changes_nothing(
    losses: tuple[Tensor, Tensor], shifts: list[int], formula: Any
) -> None:
    if formula == "gap":  # it looks at the last loss itself
        return
    add = torch.tensor(shifts[: losses[0].shape[1]], dtype=torch.float64)
    shifted = scores(losses[0] + add, losses[1] + add, formula)
    assert torch.equal(shifted.nan_to_num(nan=-1.0), scores(*losses, formula).nan_to_num(nan=-1.0))


@FEW
@given(trainings(), st.sampled_from([0.125, 4.0, 64.0]), st.sampled_from(["guarded", "paper", "absolute"]))
def test_scaling_all_losses_leaves_the_weights(losses: tuple[Tensor, Tensor], scale: float, formula: Any) -> None:
    scaled = normalised(scores(scale * losses[0], scale * losses[1], formula))
    torch.testing.assert_close(scaled, normalised(scores(*losses, formula)), rtol=1e-12, atol=1e-12)


def test_guards_where_the_bare_formula_has_no_number() -> None:
    train = torch.tensor([[1.5, 1.5, 1.5], [1.0, 1.0, 1.5]], dtype=torch.float64)
    val = torch.tensor([[1.5, 1.5, 1.5], [1.0, 1.25, 1.5]], dtype=torch.float64)
    assert scores(train, val, "paper").tolist()[0] == math.inf and math.isnan(scores(train, val, "paper")[2])
    assert normalised(scores(train, val, "paper")).tolist() == pytest.approx([1 / 3] * 3)
    # dG = .5, .25, 0; dO = 0, .25, 0; the largest change is .5, so dO counts as .05 at least.
    found = scores(train, val, "guarded", eps=0.1)
    assert found.tolist() == pytest.approx([0.5 / 0.0025, 0.25 / 0.0625, 0.0])
    assert normalised(scores(train, train * 0 + val[0], "guarded")).tolist() == pytest.approx([1 / 3] * 3)
    # Validation losses that rise: signed by the paper, counted by one benchmark, left out here and by tsai's floor.
    rising = torch.tensor([[1.0, 1.0], [1.25, 0.5]], dtype=torch.float64)
    falling = torch.tensor([[1.0, 1.0], [0.5, 0.25]], dtype=torch.float64)
    assert scores(falling, rising, "paper")[0] < 0 < scores(falling, rising, "absolute")[0]
    assert scores(falling, rising, "guarded")[0] == 0 and scores(falling, rising, "clamped")[0] == 1e-8
    # A negative gap counts as 1e-4 where only the last losses are looked at.
    under = torch.tensor([[1.0, 1.0], [0.5, 0.5]], dtype=torch.float64)
    assert scores(under, under - 0.25, "gap").tolist() == pytest.approx([0.25 / 1e-8] * 2)


def test_the_published_weights_are_presets() -> None:
    published = json.loads((VECTORS / "gblend.json").read_text())["official_example_weights"]
    assert published.pop("order") == ["audio", "visual", "av"]
    entry = catalogue().get("strategies", "gblend")
    presets = [list(entry.preset(name)["weights"].values()) for name in entry.extra["presets"]]
    assert len(published) == 6 and all(values in presets for values in published.values())
    assert all(entry.preset(name)["mode"] == "fixed" for name in entry.extra["presets"])

"""The generator of the map: laws, correlations and Bayes accuracies against independent oracles."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from mmzoo.data.synthetic.shared import Shared, simplex, simplex_accuracy


def planted(**knobs: object) -> Shared:
    return Shared(**{"n_classes": 4, "strength": {"a": 1.5, "b": 2.0, "c": 1.0}, **knobs})  # type: ignore[arg-type]


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.floats(0.0, 8.0), st.integers(2, 100))
def test_the_quadrature_is_the_integral(strength: float, n_classes: int) -> None:
    value, _ = integrate.quad(
        lambda z: stats.norm.pdf(z - strength) * stats.norm.cdf(z) ** (n_classes - 1),
        strength - 9,
        strength + 9,
        epsabs=1e-11,
        points=[0.0, strength],
        limit=200,
    )
    assert simplex_accuracy(strength, n_classes) == pytest.approx(value, abs=1e-8)


def test_two_classes_are_the_error_function() -> None:
    assert simplex_accuracy(1.3, 2) == pytest.approx(stats.norm.cdf(1.3 / np.sqrt(2)), abs=1e-10)


def test_no_strength_is_chance() -> None:
    assert simplex_accuracy(0.0, 5) == pytest.approx(0.2, abs=1e-10)


@pytest.mark.parametrize("n_classes", [2, 3, 8])
def test_the_corners_are_equally_far_apart(n_classes: int) -> None:
    corners = simplex(n_classes)
    for i, j in itertools.combinations(range(n_classes), 2):
        assert np.linalg.norm(corners[i] - corners[j]) == pytest.approx(np.sqrt(2))
    assert np.allclose(corners.sum(0), 0)


@pytest.mark.parametrize("content", [0.0, 0.6, 0.9])
@pytest.mark.parametrize("seen", [("a",), ("b",), ("a", "c"), ("a", "b", "c")])
def test_the_oracle_that_knows_the_law_reaches_bayes(content: float, seen: tuple[str, ...]) -> None:
    """Linear discriminants with the true means and the true covariance, computed here from the definition."""
    knobs = planted(content=content, hard=2, context=0.7)
    drawn = knobs.draw(40_000, seed=3)
    x = np.concatenate([drawn.latent[m] for m in seen], 1)
    corners = simplex(4)
    means = np.concatenate([knobs.strength[m] * corners for m in seen], 1)
    block = np.full((len(seen), len(seen)), content) + (1 - content) * np.eye(len(seen))
    precision = np.linalg.inv(np.kron(block, np.eye(3)))
    score = x @ precision @ means.T - 0.5 * np.einsum("cd,de,ce->c", means, precision, means)
    reached = float((score.argmax(1) == drawn.target).mean())
    error = np.sqrt(reached * (1 - reached) / 40_000)
    assert knobs.bayes(seen) == pytest.approx(reached, abs=4 * error)


def test_a_linear_classifier_trained_on_much_data_comes_near_bayes() -> None:
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    knobs = planted(content=0.5, context=0.5)
    drawn = knobs.draw(40_000, seed=0)
    x = np.concatenate(list(drawn.inputs.values()), 1)
    reached = (
        LinearDiscriminantAnalysis().fit(x[:20_000], drawn.target[:20_000]).score(x[20_000:], drawn.target[20_000:])
    )
    assert reached == pytest.approx(knobs.bayes("abc"), abs=0.012)


def test_what_is_shared_is_what_was_asked_for() -> None:
    knobs = planted(content=0.6, context=0.3)
    drawn = knobs.draw(20_000, seed=1)
    within = {m: drawn.latent[m] - s * simplex(4)[drawn.target] for m, s in knobs.strength.items()}
    for a, b in itertools.combinations(within, 2):
        found = [np.corrcoef(within[a][:, k], within[b][:, k])[0, 1] for k in range(3)]
        assert np.mean(found) == pytest.approx(0.6, abs=0.02)
        assert abs(np.corrcoef(within[a][:, 0], within[b][:, 1])[0, 1]) < 0.03


def test_a_knob_of_what_is_shared_leaves_each_modality_as_it_was() -> None:
    """The law of one modality alone does not depend on content and context: same means and covariance."""
    for knobs in (planted(), planted(content=0.8, context=0.9)):
        x = knobs.draw(40_000, seed=2).inputs["b"]
        assert np.allclose(
            np.cov(x.T)[3:, 3:].diagonal().mean(),
            planted().draw(40_000, seed=2).inputs["b"].var(0)[3:].mean(),
            atol=0.05,
        )


def test_signs_hide_the_content_and_nothing_is_lost() -> None:
    drawn = planted(hard=3).draw(500, seed=0)
    signs = drawn.inputs["c"][:, -3:]
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert planted(hard=3).all_bayes() == planted().all_bayes()
    assert drawn.inputs["a"].shape[1] == planted().draw(5, 0).inputs["a"].shape[1]


def test_label_noise_and_missing_modalities_enter_in_closed_form() -> None:
    knobs = planted(label_noise=0.2, missing=0.3, content=0.4)
    drawn = knobs.draw(60_000, seed=5)
    clean = planted(content=0.4).draw(60_000, seed=5)
    assert (drawn.target != clean.target).mean() == pytest.approx(0.2, abs=0.01)
    present = drawn.present
    assert present is not None and present.any(1).all()
    corners, right = simplex(4), np.zeros(60_000, bool)
    for pattern in np.unique(present, axis=0):
        rows = np.flatnonzero((present == pattern).all(1))
        seen = [m for m, there in zip("abc", pattern) if there]
        block = np.full((len(seen),) * 2, 0.4) + 0.6 * np.eye(len(seen))
        precision = np.linalg.inv(np.kron(block, np.eye(3)))
        means = np.concatenate([knobs.strength[m] * corners for m in seen], 1)
        x = np.concatenate([drawn.latent[m][rows] for m in seen], 1)
        score = x @ precision @ means.T - 0.5 * np.einsum("cd,de,ce->c", means, precision, means)
        right[rows] = score.argmax(1) == drawn.target[rows]
    assert knobs.bayes("abc") == pytest.approx(right.mean(), abs=4 * np.sqrt(0.25 / 60_000))


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    a, b, c = (planted(missing=0.2).draw(50, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a.inputs[m], b.inputs[m]) for m in "abc")
    assert not np.array_equal(a.inputs["a"], c.inputs["a"])

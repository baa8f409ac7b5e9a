"""Linear floors against what a user would write with scikit-learn."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from mmzoo.core.values import map_tensors
from mmzoo.data.fields.text import Tokens, reader
from mmzoo.data.sources.source import Text
from mmzoo.evaluation.floors import STRENGTHS, Block, Samples, features, linear_floor

WORDS = ["red", "green", "blue", "cat", "dog", "house", "tree", "sky", "sea", "road"]
SHAPES = {
    "vector": (5,),
    "image": (3, 20, 20),
    "video": (4, 3, 12, 12),
    "spectrogram": (12, 30),
    "series": (3, 10),
    "other": (40, 3),
}


def texts(n: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Texts of eight words; the class decides from which six they are drawn."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 3, n)
    return [" ".join(rng.choice(WORDS[2 * c : 2 * c + 6], 8)) for c in target], target


def samples(values: object, target: np.ndarray, seen: np.ndarray | None = None) -> Samples:
    return Samples({"m": Block(values, np.ones(len(target), bool) if seen is None else seen)}, target)  # type: ignore[arg-type]


def test_texts_reach_what_tfidf_and_logistic_regression_do() -> None:
    sets = [texts(n, seed) for seed, n in enumerate((90, 40, 60))]
    found = linear_floor(*(samples(*s) for s in sets), n_classes=3)
    words = TfidfVectorizer(token_pattern=r"\S+").fit(sets[0][0])
    scores = []
    for c in STRENGTHS:
        model = LogisticRegression(C=c, max_iter=2000).fit(words.transform(sets[0][0]), sets[0][1])
        scores.append([model.score(words.transform(t), y) for t, y in sets[1:]])
    assert found.validation["acc"] == pytest.approx(max(v for v, _ in scores))
    assert found.test["acc"] == pytest.approx(scores[STRENGTHS.index(found.strength)][1], abs=1 / 60)


def _row(i: int, x: torch.Tensor) -> torch.Tensor:
    return x[i : i + 1]


def test_a_series_is_read_as_far_as_it_goes() -> None:
    x = torch.randn(1, 2, 9)
    longer = {"values": torch.cat([x, 99 * torch.ones(1, 2, 4)], 2), "mask": torch.arange(13)[None] < 9}
    short = {"values": x, "mask": torch.ones(1, 9, dtype=torch.bool)}
    np.testing.assert_allclose(features("series", longer), features("series", short), atol=1e-6)
    np.testing.assert_allclose(features("series", short)[0, :2], x[0].mean(1), atol=1e-6)


@pytest.mark.parametrize("kind", SHAPES)
def test_features_are_finite_and_of_each_sample_alone(kind: str) -> None:
    drawn = torch.randn(6, *SHAPES[kind], generator=torch.Generator().manual_seed(0))
    drawn[0] = 0.0
    x: Any = drawn
    if kind == "series":  # one without a single step, and others that end early
        x = {"values": drawn, "mask": torch.arange(drawn.shape[2]) < torch.tensor([0, 1, 3, 5, 8, 99])[:, None]}
    together = features(kind, x)
    assert np.isfinite(together).all() and together.ndim == 2
    alone = np.concatenate([features(kind, map_tensors(x, partial(_row, i))) for i in range(6)])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert not np.array_equal(together[1], together[2])


def test_numbers_in_any_unit_give_the_same_floor() -> None:
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, 150)
    x = rng.normal(size=(150, 4)) + target[:, None]
    cuts = (slice(0, 80), slice(80, 110), slice(110, 150))
    one, other = (
        linear_floor(*(samples(v[c].astype(np.float32), target[c]) for c in cuts), n_classes=3)
        for v in (x, 1000 * x + 7)
    )
    assert one.strength == other.strength
    torch.testing.assert_close(one.scores, other.scores, atol=1e-3, rtol=1e-3)


def test_absent_samples_teach_nothing_and_are_scored() -> None:
    rng = np.random.default_rng(1)
    target = np.arange(60) % 2
    x = (rng.normal(size=(60, 2)) + 3 * target[:, None]).astype(np.float32)
    seen = np.arange(60) % 3 > 0
    held = samples(x, target)
    whole = linear_floor(samples(x, target, seen), held, samples(x, target, seen), n_classes=2)
    less = linear_floor(samples(x[seen], target[seen]), held, held, n_classes=2)
    assert len(whole.scores) == 60
    torch.testing.assert_close(whole.scores[torch.from_numpy(seen)], less.scores[torch.from_numpy(seen)])
    absent = whole.scores[torch.from_numpy(~seen)]
    torch.testing.assert_close(absent, absent[:1].expand_as(absent))


def test_classes_that_training_lacks_and_a_single_one() -> None:
    x = np.arange(12, dtype=np.float32)[:, None]
    two = np.arange(12) % 2
    found = linear_floor(samples(x, two), samples(x, two), samples(x, two), n_classes=4)
    assert found.scores.shape == (12, 4) and float(found.scores[:, 2:].sum()) == 0
    one = np.zeros(12, np.int64)
    assert linear_floor(samples(x, one), samples(x, two), samples(x, two), n_classes=2).test["acc"] == 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        empty = samples([""] * 12, two)
        assert linear_floor(empty, empty, empty, n_classes=2).test["acc"] == 0.5


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.lists(st.lists(st.sampled_from([*WORDS, "naïve", "x", "don't", "42"]), min_size=1, max_size=7), min_size=1))
def test_stored_tokens_give_the_words_back(lists: list[list[str]]) -> None:
    media = [Text(" ".join(words)) for words in lists]
    field = Tokens(length=64, words=3).fitted(media)
    read = reader(field.as_dict())
    assert read is not None
    stored = [field.read(m) for m in media]
    batch = {name: torch.from_numpy(np.stack([s[name] for s in stored])) for name in stored[0]}
    spoken = [m.text.replace("don't", "don ' t").replace("naïve", "naive") for m in media]
    assert read(batch) == spoken

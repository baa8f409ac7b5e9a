"""The linear probe against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from mmzoo.evaluation.linear_probe import linear_probe


@pytest.mark.parametrize("c", [0.1, 1.0, 10.0])
def test_probe_is_logistic_regression_on_standardised_features(c: float) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 200)
    x = rng.normal(size=(200, 6)) * [1, 10, 0.1, 1, 1, 1] + y[:, None] * [1, 0, 0.1, 0, 0.5, 0]
    x_test = rng.normal(size=(50, 6))
    scaler = StandardScaler().fit(x)
    oracle = LogisticRegression(C=c, max_iter=5000, tol=1e-10).fit(scaler.transform(x), y)
    ours = linear_probe(torch.tensor(x), torch.tensor(y), torch.tensor(x_test), 4, c=c)
    expected = oracle.predict_proba(scaler.transform(x_test))
    assert np.abs(ours.softmax(-1).numpy() - expected).max() < 1e-4


def test_a_constant_feature_and_a_class_without_items_do_no_harm() -> None:
    x = torch.cat([torch.randn(20, 2, generator=torch.Generator().manual_seed(0)), torch.ones(20, 1)], 1)
    logits = linear_probe(x, torch.arange(20) % 2, x, 5)
    assert logits.shape == (20, 5) and bool(torch.isfinite(logits).all())
    assert int(logits.argmax(1).max()) <= 1

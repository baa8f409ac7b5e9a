"""MBSD: contracts, a training step in numpy, and what the formulas promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("mmzoo_newer", reason="mmzoo-newer is not installed")

from helpers.by_hand import Weights, cross_entropy, gradient, log_softmax
from helpers.steps_by_hand import features_of, task_loss, train_both, unimodal_of
from mmzoo_newer import mbsd
from mmzoo_newer.mbsd import MBSD
from newer_helpers import SEEDS, drawn, labels, quick

from mmzoo.api import Batch
from mmzoo.testing import parametrize_with_checks


@parametrize_with_checks([MBSD, lambda: MBSD(form="repaired")], draws=2)
def test_contract(check) -> None:  # type: ignore[no-untyped-def]
    check()


def test_mbsd_by_hand() -> None:
    """The peer form on two modalities; omega, hi and lo keep their gradients."""

    def by_hand(w: Weights, batch: Batch, epoch: int, step: int, start: Weights) -> Weights:
        y = batch.target.numpy()
        rows = np.arange(len(y))

        def loss(u: Weights) -> Any:
            a, b = unimodal_of(u, features_of(u, batch.inputs)).values()
            p = [np.exp(log_softmax(z))[rows, y] for z in (a, b)]
            first = p[0].real >= p[1].real
            hi, lo = np.where(first, *p), np.where(first, p[1], p[0])
            right = (a.real.argmax(1) == y) | (b.real.argmax(1) == y)
            omega = np.where(right, hi - lo, 0)
            rs = (omega * ((a - b) ** 2).mean(1)).mean()
            kl = (omega * lo * (np.log(lo) - hi)).mean()
            return task_loss(u, batch) + 0.5 * (cross_entropy(a, y) + cross_entropy(b, y)) + 0.3 * (rs + kl)

        return gradient(loss, w)

    train_both(MBSD(own=0.5, weight=0.3), by_hand)


@quick
@given(SEEDS, st.integers(2, 5), st.booleans())
def test_pairs_are_symmetric_and_silent_where_there_is_nothing_to_learn(seed: int, classes: int, logits: bool) -> None:
    a, b, y = drawn(seed, 8, classes), drawn(seed + 1, 8, classes), labels(seed, 8, classes)
    omega, _, _ = mbsd.leads(a, b, y)
    assert bool(((omega >= 0) & (omega <= 1)).all())
    for form in ("peer", "repaired"):
        one, other = (mbsd.pair_terms(*pair, y, on_logits=logits, form=form) for pair in ((a, b), (b, a)))  # type: ignore[arg-type]
        assert all(torch.allclose(x, z) for x, z in zip(one, other))
        same = mbsd.pair_terms(a, a, y, on_logits=logits, form=form)  # type: ignore[arg-type]
        assert all(not bool(x.any()) for x in same)
        wrong = torch.where(F.one_hot(y, classes).bool(), a.min() - 1.0, a)
        lost = mbsd.pair_terms(wrong, wrong - b.abs() * F.one_hot(y, classes), y, on_logits=logits, form=form)  # type: ignore[arg-type]
        assert all(not bool(x.any()) for x in lost)


@quick
@given(SEEDS)
def test_the_repaired_form_is_a_divergence_and_teaches_the_weaker_alone(seed: int) -> None:
    a, b, y = drawn(seed, 8, 4).requires_grad_(), drawn(seed + 1, 8, 4).requires_grad_(), labels(seed, 8, 4)
    _, kl = mbsd.pair_terms(a, b, y, on_logits=True, form="repaired")
    assert bool((kl >= -1e-12).all())
    kl.sum().backward()
    ahead = F.cross_entropy(a, y, reduction="none") < F.cross_entropy(b, y, reduction="none")
    assert a.grad is not None and b.grad is not None
    assert not bool(a.grad[ahead].any()) and not bool(b.grad[~ahead].any())


def test_a_probability_of_zero_is_no_nan() -> None:
    a = torch.tensor([[200.0, 0.0]], requires_grad=True)
    b = torch.tensor([[0.0, 200.0]], requires_grad=True)
    apart, kl = mbsd.pair_terms(a, b, torch.tensor([0]), on_logits=False)
    (apart + kl).sum().backward()
    assert bool(torch.isfinite(kl).all()) and a.grad is not None and bool(torch.isfinite(a.grad).all())

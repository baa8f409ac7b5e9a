"""TMC, ETMC and DOMFN: training steps against numpy."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from helpers.by_hand import Sgd, Weights, gradient, weights_of
from helpers.evidence_runs import N, dempster, run_of
from scipy import special

from mmzoo.api import Batch, Run
from mmzoo.heads.evidential import Evidential
from mmzoo.heads.separate import Separate
from mmzoo.strategies.domfn import DOMFN
from mmzoo.strategies.tmc import TMC


def train_both(
    run: Run,
    loss: Callable[[Weights, Batch, int], Any],
    epochs: Sequence[int],
    *,
    idle: str = "-",
    tolerance: float = 1e-11,
) -> None:
    """Compare the weights after each step with a numpy step along the exact gradient of `loss`.

    idle: a pattern of the parameters that have no part in it, which not even weight decay may move.
    """
    w, sgd = weights_of(run.model), Sgd()
    still = {n: value for n, value in w.items() if re.search(idle, n)}
    for epoch in epochs:
        run.epoch = epoch
        run.start_epoch()
        for batch in run.epoch_batches():
            run.step(batch)
            moving = {n: value for n, value in w.items() if n not in still}
            g = gradient(partial(lambda u, b, e: loss({**still, **u}, b, e), b=batch, e=epoch), moving)
            w = {**still, **sgd.step(moving, g)}
            for name, value in weights_of(run.model).items():
                np.testing.assert_allclose(value, w[name], rtol=0, atol=tolerance, err_msg=name)
        run.end_epoch()


def encoded(w: Weights, batch: Batch) -> dict[str, Any]:
    return {
        m: x.numpy() @ w[f"encoders.{m}.linear.weight"].T + w[f"encoders.{m}.linear.bias"]
        for m, x in batch.inputs.items()
    }


def own_of(w: Weights, z: Mapping[str, Any]) -> dict[str, Any]:
    return {m: z[m] @ w[f"head.linear.{m}.weight"].T + w[f"head.linear.{m}.bias"] for m in z}


def opinion_loss(e: Any, y: int, weight: float, fit: str) -> Any:
    """The loss of one opinion, by its evidence (C,)."""
    a = e + 1
    s, label = a.sum(), np.eye(len(e))[y]
    if fit == "log":
        value = special.psi(s) - special.psi(a[y])
    else:
        value = ((label - a / s) ** 2).sum() + (a * (s - a) / (s * s * (s + 1))).sum()
    a = label + (1 - label) * a
    s = a.sum()
    kl = special.loggamma(s) - special.loggamma(a).sum() - math.lgamma(len(a))
    return value + weight * (kl + ((a - 1) * (special.psi(a) - special.psi(s))).sum())


@pytest.mark.parametrize("modalities", [("a", "v"), ("a", "v", "t")], ids=len)
@pytest.mark.parametrize(("pseudo", "first", "fit"), [(False, 1, "log"), (True, 0, "log"), (True, 1, "mse")])
def test_tmc(pseudo: bool, first: int, fit: Any, modalities: tuple[str, ...]) -> None:
    def loss(w: Weights, batch: Batch, epoch: int) -> Any:
        z = encoded(w, batch)
        logits = list(own_of(w, z).values())
        if pseudo:
            logits.append(sum(z[m] @ w[f"head.pseudo.weight.{m}"].T for m in z) + w["head.pseudo.bias"])
        views, weight, total = [np.log(1 + np.exp(x)) for x in logits], min(1.0, (epoch + first) / 2), 0.0
        for i, y in enumerate(batch.target.tolist()):
            fused = views[0][i]
            for other in views[1:]:
                fused = dempster(fused, other[i])
            total = total + sum(opinion_loss(e, y, weight, fit) for e in [*(v[i] for v in views), fused])
        return total / N

    run = run_of(TMC(anneal=2, first=first, fit=fit), modalities, partial(Evidential, pseudo=pseudo))
    train_both(run, loss, range(3), tolerance=1e-8)  # torch's trigamma is good for nine digits


def log_softmax(x: Any) -> Any:
    return x - np.log(np.exp(x).sum())


def frozen(x: Any) -> Any:
    """The value alone: what a complex step has moved is gone."""
    return x.real


@pytest.mark.parametrize("modalities", [("a", "v"), ("a", "v", "t")], ids=len)
@pytest.mark.parametrize(
    ("squash", "reference", "fallback", "tau"),
    [
        ("softmax", "mean", "ce", 0.12),
        ("sigmoid", "mean", "ce", 0.1),
        ("sigmoid", "joint", "amended", 0.22),
        ("softmax", "mean", "amended", 0.12),
    ],
)
def test_domfn(squash: Any, reference: Any, fallback: Any, tau: float, modalities: tuple[str, ...]) -> None:
    eta, gamma, trusted = 0.7, 0.9, []

    def score(x: Any) -> Any:
        return np.exp(log_softmax(x)) if squash == "softmax" else 1 / (1 + np.exp(-x))

    def ce(x: Any, y: int) -> Any:
        return -log_softmax(x if squash == "softmax" else score(x))[y]

    def largest(x: Any) -> Any:
        return x[np.argmax(x.real)]

    def item(own: Sequence[Any], joint: Any, y: int) -> Any:
        p, c = [score(x) for x in own], [ce(x, y) for x in own]
        r = sum(p) / len(p) if reference == "mean" else score(joint)
        d = [largest((q - r) ** 2) for q in p]
        together = all(x.real / tau < gamma for x in d)
        trusted.append(together)
        if together:
            return sum(x * x / 2 - eta * far + x for x, far in zip(c, d)) + ce(joint, y)
        if fallback == "ce":
            return sum(c)
        total = 0.0
        for k, q in enumerate(p):
            others = [frozen(x) if j != k else x for j, x in enumerate(p)]
            r = sum(others) / len(p) if reference == "mean" else frozen(score(joint))
            total = total + c[k] * c[k] / 2 - eta * largest((q - r) ** 2)
        return total

    def loss(w: Weights, batch: Batch, epoch: int) -> Any:
        z = encoded(w, batch)
        own, y = own_of(w, z), batch.target.tolist()
        if epoch == 0:
            return sum(ce(own[m][i], y[i]) for m in z for i in range(N)) / N
        hidden = sum(z[m] @ w[f"head.blocks.weight.{m}"].T for m in z) + w["head.blocks.bias"]
        joint = (hidden * (hidden.real > 0)) @ w["head.joint.1.weight"].T + w["head.joint.1.bias"]
        return sum(item([own[m][i] for m in z], joint[i], y[i]) for i in range(N)) / N

    strategy = DOMFN(eta=eta, gamma=gamma, tau=tau, pretrain=1, squash=squash, reference=reference, fallback=fallback)
    run = run_of(strategy, modalities, partial(Separate, hidden=4))
    train_both(run, loss, [0], idle="joint|blocks")
    train_both(run_of(strategy, modalities, partial(Separate, hidden=4)), loss, [1, 2])
    assert any(trusted) and not all(trusted)

"""Plain training, OGM, PMR and dynamic gap: steps against numpy written from the formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers.by_hand import Weights, cross_entropy, gradient, log_softmax
from helpers.steps_by_hand import IN, C, N, batches, features_of, task_loss, train_both, true_class_sum, unimodal_of

from mmzoo import Batch, Strategy
from mmzoo.core.seeding import stream
from mmzoo.strategies.dynamic_gap import DynamicGap
from mmzoo.strategies.ogm import OGM
from mmzoo.strategies.pmr import PMR


def test_plain_training() -> None:
    train_both(Strategy(), lambda w, batch, epoch, step, start: gradient(lambda u: task_loss(u, batch), w))


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("form", ["conference", "journal"])
def test_ogm(form: Any, noise: bool) -> None:
    alpha, modulated = 0.6, []

    def by_hand(w: Weights, batch: Batch, epoch: int, step: int, start: Weights) -> Weights:
        g, y = gradient(lambda u: task_loss(u, batch), w), batch.target.numpy()
        own = unimodal_of(w, features_of(w, batch.inputs))
        score = {m: true_class_sum(z, y) for m, z in own.items()}
        for m, other in (("a", "v"), ("v", "a")):
            rho, key = score[m] / score[other], f"encoders.{m}.linear.weight"
            ahead = 1 - math.tanh(alpha * rho) if form == "conference" else 1 - alpha * math.tanh(rho - 1)
            k = ahead if rho > 1 else 1.0
            modulated.append(k < 1)
            sigma = g[key].std(ddof=1) + 1e-8
            draws = torch.randn(
                g[key].shape, generator=stream(5, "step", f"ogm/{m}", step, "joint"), dtype=torch.float64
            )
            g[key] = k * g[key] + (sigma * draws.numpy() if noise else 0.0)
        return g

    train_both(OGM(alpha=alpha, form=form, noise=noise), by_hand)
    assert sum(modulated) * 2 == len(modulated)


@pytest.mark.parametrize("variant", ["paper", "code"])
def test_pmr(variant: Any) -> None:
    alpha, mu, momentum = 1.5, 0.1, 0.3
    kept: dict[int, dict[str, Any]] = {}

    def prototypes(epoch: int, start: Weights) -> dict[str, Any]:
        if epoch in kept:
            return kept[epoch]
        data = batches()
        y = np.concatenate([b.target.numpy() for b in data])
        z = {m: np.concatenate([features_of(start, b.inputs)[m] for b in data]) for m in IN}
        fresh = {m: np.stack([z[m][y == c].mean(0) for c in range(C)]) for m in IN}
        if epoch > (0 if variant == "paper" else 1):
            fresh = {m: momentum * kept[epoch - 1][m] + (1 - momentum) * fresh[m] for m in IN}
        kept[epoch] = fresh
        return fresh

    def by_hand(w: Weights, batch: Batch, epoch: int, step: int, start: Weights) -> Weights:
        proto, y = prototypes(epoch, start), batch.target.numpy()

        def near(u: Weights) -> dict[str, Any]:
            z = features_of(u, batch.inputs)
            return {m: -np.sqrt(((z[m][:, None] - proto[m][None]) ** 2).sum(-1)) for m in IN}

        score = {m: true_class_sum(d, y) for m, d in near(w).items()}
        rho = score["a"] / score["v"]
        if variant == "paper":
            beta = min(1.0, 1 / rho - 1) if rho < 1 else 0.0
            gamma = min(1.0, rho - 1) if rho >= 1 else 0.0
        else:
            beta, gamma = float(rho < 1), float(rho > 1)

        def loss(u: Weights) -> Any:
            d = near(u)
            total = task_loss(u, batch) + alpha * beta * cross_entropy(d["a"], y)
            total += alpha * gamma * cross_entropy(d["v"], y)
            if variant == "paper" and epoch < 1:
                h = {m: -(np.exp(log_softmax(d[m])) * log_softmax(d[m])).sum(1).mean() for m in IN}
                total -= mu * gamma * h["a"] + mu * beta * h["v"]
            return total

        return gradient(loss, w)

    strategy = PMR(alpha=alpha, mu=mu, momentum=momentum, entropy_epochs=1, fraction=1.0, variant=variant)
    train_both(strategy, by_hand, epochs=3)


@pytest.mark.parametrize("schedule", ["constant", "heuristic", "stepwise"])
def test_dynamic_gap(schedule: Any) -> None:
    tau, p = 0.4, 0.3

    def by_hand(w: Weights, batch: Batch, epoch: int, step: int, start: Weights) -> Weights:
        alpha = {"constant": p, "heuristic": 1 - math.exp(-1 / (epoch + 1)), "stepwise": (p, p, 1 - p)[epoch]}

        def loss(u: Weights) -> Any:
            z = features_of(u, batch.inputs)
            one, two = (z[m] / np.sqrt((z[m] ** 2).sum(1, keepdims=True)) for m in IN)
            s, match = one @ two.T / tau, np.arange(N)
            pairs = 0.5 * (cross_entropy(s, match) + cross_entropy(s.T, match))
            return (1 - alpha[schedule]) * task_loss(u, batch) + alpha[schedule] * pairs

        return gradient(loss, w)

    train_both(DynamicGap(schedule=schedule, alpha=p, temperature=tau), by_hand, epochs=3)

"""AGM and MLA: training steps against numpy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from helpers.agm_runs import IN, C, N, batches
from helpers.by_hand import Linear, Sgd, Weights, assert_same, cross_entropy, gradient, log_softmax, weights_of

from mmzoo.api import Batch, Encoder, MultimodalModel, Run, Strategy
from mmzoo.heads.concat import Concat
from mmzoo.heads.shared import Shared
from mmzoo.strategies.agm import AGM
from mmzoo.strategies.mla import MLA
from mmzoo.training.config import Training


def run_of(strategy: Strategy, modalities: Sequence[str], head: Any) -> Run:
    torch.manual_seed(0)
    encoders: dict[str, Encoder] = {m: Linear(IN[m], 3) for m in modalities}
    model = MultimodalModel(encoders, head({m: e.out_dim for m, e in encoders.items()}, C)).double()
    training = Training(optimizer="sgd", lr=0.2, momentum=0.9, weight_decay=0.03, epochs=3)
    return Run(model, strategy, train=batches(modalities), training=training, seed=5)


def encoded(w: Weights, m: str, x: Any) -> Any:
    return x @ w[f"encoders.{m}.linear.weight"].T + w[f"encoders.{m}.linear.bias"]


def logits_on(w: Weights, batch: Batch, there: Sequence[str]) -> Any:
    """f(S) of the concat head: inputs outside `there` are zeros; nothing at all counts as zero."""
    if not there:
        return np.zeros((N, C))
    x = {m: t.numpy() * (m in there) for m, t in batch.inputs.items()}
    return sum(encoded(w, m, x[m]) @ w[f"head.weight.{m}"].T for m in x) + w["head.bias"]


def responses_of(w: Weights, batch: Batch) -> dict[str, Any]:
    """Shapley values as what a modality adds, on average over all orders in which the modalities may come."""
    names = list(batch.inputs)
    orders = list(itertools.permutations(names))
    phi = dict.fromkeys(names, 0.0)
    for order in orders:
        for i, m in enumerate(order):
            added = logits_on(w, batch, order[: i + 1]) - logits_on(w, batch, order[:i])
            phi[m] = phi[m] + added / len(orders)
    return phi


def factors_of(phi: Mapping[str, Any], y: Any, means: Mapping[str, float], alpha: float) -> tuple[Any, Any]:
    """(scores, kappa) with the exponent written for two and for three modalities."""
    s = {m: float(-np.maximum(log_softmax(z)[np.arange(len(y)), y], math.log(1e-8)).mean()) for m, z in phi.items()}

    def ratio(of: Mapping[str, float], m: str) -> float:
        others = [of[k] for k in of if k != m]
        if len(others) == 1:
            return math.exp(others[0] - of[m])
        return math.exp(1.5 * (sum(of.values()) / 3 - of[m]))

    cap = 10 if len(s) == 2 else 7
    return s, {m: math.exp(alpha * min(ratio(means, m) - ratio(s, m), cap)) for m in s}


def clipped(g: Weights, limit: float | None) -> Weights:
    largest = max(np.abs(v).max() for k, v in g.items() if k.startswith("head."))
    if limit is None or largest <= limit:
        return g
    norm = math.sqrt(sum(float((v**2).sum()) for v in g.values()))
    return {k: v * min(1.0, limit / (norm + 1e-6)) for k, v in g.items()}


@pytest.mark.parametrize("modalities", [("a", "v"), ("a", "v", "t")], ids=len)
@pytest.mark.parametrize(("how", "clip"), [("exact", None), ("exact", 0.05), ("detached", None), ("detached", 0.05)])
def test_agm(how: Any, clip: float | None, modalities: tuple[str, ...]) -> None:
    alpha, found, clips = 1.5, [], []
    means, t = dict.fromkeys(modalities, 0.0), 0

    def by_hand(w: Weights, batch: Batch) -> Weights:
        nonlocal t
        y, phi = batch.target.numpy(), responses_of(w, batch)
        score, kappa = factors_of(phi, y, means, alpha)
        t += 1
        means.update({m: means[m] * (t - 1) / t + score[m] / t for m in means})
        found.extend(kappa.values())
        if how == "exact":
            at = np.exp(log_softmax(logits_on(w, batch, modalities)))
            at[np.arange(N), y] -= 1.0

            def scaled(u: Weights) -> Any:
                return sum((at / N * kappa[m] * z).sum() for m, z in responses_of(u, batch).items())

            g = gradient(scaled, w)
        else:
            g = gradient(lambda u: cross_entropy(logits_on(u, batch, modalities), y), w)
            for m in modalities:
                for key in (f"encoders.{m}.linear.weight", f"encoders.{m}.linear.bias", f"head.weight.{m}"):
                    g[key] = kappa[m] * g[key]
            g["head.bias"] = np.mean(list(kappa.values())) * g["head.bias"]
        clips.append(clip is not None and clipped(g, clip) is not g)
        return clipped(g, clip)

    run, sgd = run_of(AGM(alpha=alpha, clip=clip, gradient=how), modalities, Concat), Sgd()
    w = weights_of(run.model)
    for _ in range(2):
        run.start_epoch()
        for batch in run.epoch_batches():
            run.step(batch)
            w = sgd.step(w, by_hand(w, batch))
            assert_same(run.model, w)
        run.end_epoch()
    assert min(found) < 0.9 and max(found) > 1.1 and any(clips) == (clip is not None)
    assert run.cost.forward == 2 * t and run.cost.backward == (2 if how == "exact" else 1) * t


@pytest.mark.parametrize("modalities", [("a", "v"), ("t", "a", "v")], ids=len)
@pytest.mark.parametrize("projection", ["owm", "owm_normalized", "released", "none"])
def test_mla(projection: Any, modalities: tuple[str, ...]) -> None:
    run, velocity = run_of(MLA(projection=projection), modalities, Shared), {}
    w, p, calls = weights_of(run.model), np.eye(3), 0
    epochs, atol = (1, 1e-8) if projection == "released" else (2, 1e-11)  # its P multiplies errors
    for _ in range(epochs):
        run.start_epoch()
        for i, batch in enumerate(run.epoch_batches()):
            run.step(batch)
            for m in modalities:
                x, y = batch.inputs[m].numpy(), batch.target.numpy()
                g = gradient(
                    lambda u, m=m, x=x, y=y: cross_entropy(
                        encoded(u, m, x) @ u["head.linear.weight"].T + u["head.linear.bias"], y
                    ),
                    w,
                )
                if calls and projection != "none":
                    r = encoded(w, m, x).mean(0)
                    k, a = p @ r, 0.1 ** (1 + i / 3)
                    below = a + (k[:, None] * r[None, :] if projection == "released" else r @ k)
                    p = p - np.outer(k, k) / below
                    p = p if projection == "owm" else p / np.sqrt((p**2).sum())
                    g["head.linear.weight"] = g["head.linear.weight"] @ p.T
                calls += 1
                for key in [k for k in w if k.startswith(("head.", f"encoders.{m}."))]:
                    total = g[key] + 0.03 * w[key]
                    velocity[key] = 0.9 * velocity[key] + total if key in velocity else total
                    w[key] = w[key] - 0.2 * velocity[key]
            for name, value in weights_of(run.model).items():
                np.testing.assert_allclose(value, w[name], rtol=0, atol=atol, err_msg=name)
        logged = run.end_epoch()
    assert run.cost.forward == pytest.approx(3 * epochs) == run.cost.backward
    assert {f"mla/{m}" for m in modalities} <= set(logged) and ("mla/kept" in logged) == (projection != "none")

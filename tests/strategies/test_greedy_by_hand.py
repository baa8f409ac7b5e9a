"""Greedy and plain training with the channel head: steps against numpy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from helpers.by_hand import Sgd, Weights, assert_same, cross_entropy, gradient, weights_of
from helpers.steps_by_hand import IN, C, batches
from torch import Tensor

from mmzoo.api import MultimodalModel, Run, Strategy, Training
from mmzoo.core.seeding import stream
from mmzoo.encoders.mlp import MLP
from mmzoo.heads.channel import Channel
from mmzoo.strategies.greedy import Greedy, GreedyMany

WIDTHS = {"a": 4, "v": 3, "t": 2}


# ---------------------------------------------------------------------- whole steps, by hand
def run_of(strategy: Strategy, widths: Mapping[str, int] = IN, **head: Any) -> Run:
    torch.manual_seed(0)
    encoders = {m: MLP((d,), hidden=(WIDTHS[m],), width=3) for m, d in widths.items()}
    model = MultimodalModel(encoders, Channel(dict.fromkeys(widths, 3), C, **head)).double()
    training = Training(optimizer="sgd", lr=0.2, momentum=0.9, weight_decay=0.03, epochs=4)
    return Run(model, strategy, train=batches(widths=widths), training=training, seed=5)


def relu(x: Any) -> Any:
    return x * (x.real > 0)


def forward(w: Weights, inputs: Mapping[str, Tensor], scale: float, instead: Mapping[str, Any]) -> tuple[Any, Any]:
    """Each branch's logits and gates. instead: what stands in for the gates of a branch."""
    first, at = "layers.0.0", "head.exchange.-1"
    maps = {
        m: relu(x.numpy() @ w[f"encoders.{m}.{first}.weight"].T + w[f"encoders.{m}.{first}.bias"])
        for m, x in inputs.items()
    }
    joint = relu(sum(maps[m] @ w[f"{at}.squeeze.{m}"].T for m in maps) + w[f"{at}.bias"])
    logits, gates = {}, {}
    for m, x in maps.items():
        gates[m] = scale / (1 + np.exp(-joint @ w[f"{at}.gate.{m}.linear.weight"].T - w[f"{at}.gate.{m}.linear.bias"]))
        z = x * instead.get(m, gates[m]) @ w[f"encoders.{m}.project.weight"].T + w[f"encoders.{m}.project.bias"]
        logits[m] = z @ w[f"head.final.linear.{m}.weight"].T + w[f"head.final.linear.{m}.bias"]
    return logits, gates


@pytest.mark.parametrize(("final", "scale"), [("mean", 1.0), ("sum", 2.0)])
def test_plain_training_with_the_channel_head(final: Any, scale: float) -> None:
    run, sgd = run_of(Strategy(), final=final, scale=scale), Sgd()
    w = weights_of(run.model)
    assert len(w["head.exchange.-1.bias"]) == int(2 * (4 + 3) / 4)
    run.start_epoch()
    for batch in run.epoch_batches():

        def loss(u: Weights, batch: Any = batch) -> Any:
            logits, _ = forward(u, batch.inputs, scale, {})
            return cross_entropy((logits["a"] + logits["v"]) / (2 if final == "mean" else 1), batch.target.numpy())

        run.step(batch)
        w = sgd.step(w, gradient(loss, w))
        assert_same(run.model, w)


def ratio(w: Weights, g: Weights, *parts: str) -> float:
    """||g||^2 / ||w||^2 over the parameters that begin with one of these."""
    names = [n for n in w if n.startswith(parts)]
    return sum((g[n] ** 2).sum() for n in names) / sum((w[n] ** 2).sum() for n in names)


@pytest.mark.parametrize(
    ("schedule", "loss_of", "log", "more"),
    [
        ("speed", "branches", "log10", {}),
        ("speed", "joint", "ln", {}),
        ("speed", "branches", "log10", {"t": 3}),
        ("random", "branches", "log10", {}),
    ],
)
def test_greedy(schedule: Any, loss_of: Any, log: Any, more: dict[str, int]) -> None:
    epsilon, window, widths = 0.05, 2, {**IN, **more}
    kind = GreedyMany if more else Greedy
    run = run_of(kind(epsilon=epsilon, window=window, schedule=schedule, loss=loss_of, log=log), widths)
    w, sgd, at, names = weights_of(run.model), Sgd(), "head.exchange.-1", list(widths)
    across = {m: (f"{at}.squeeze", f"{at}.bias", f"{at}.gate.{m}") for m in names}
    main = {m: (f"encoders.{m}", f"head.final.linear.{m}") for m in names}
    means, n = {m: np.zeros(WIDTHS[m]) for m in names}, 0
    sums: dict[str, list[float]] = {m: [0.0, 0.0] for m in names}
    left, cut, seen = 0, "a", []
    for epoch in range(4):
        run.start_epoch()
        for batch in run.epoch_batches():
            y = batch.target.numpy()
            _, gates = forward(w, batch.inputs, 1.0, {})
            if schedule == "random":
                draw = int(torch.randint(3, (), generator=stream(5, "step", "greedy", n, "joint"))) - 1
                left, cut = int(draw >= 0 and epoch >= 1), names[draw]
            n += 1
            means = {m: means[m] + (gates[m].mean(0) - means[m]) / n for m in names}
            instead = {cut: means[cut]} if left else {}
            seen.append(cut if left else "")

            def loss(u: Weights, batch: Any = batch, instead: Any = instead, y: Any = y) -> Any:
                logits, _ = forward(u, batch.inputs, 1.0, instead)
                if loss_of == "joint":
                    return cross_entropy(sum(logits.values()) / len(names), y)
                return sum(cross_entropy(z, y) for z in logits.values())

            g = gradient(loss, w)
            if left:
                left -= 1
            elif schedule == "speed":
                for m in names:
                    sums[m][0] += ratio(w, g, *across[m])
                    sums[m][1] += ratio(w, g, *main[m])
                speed = {m: (math.log10 if log == "log10" else math.log)(s[0] / s[1]) for m, s in sums.items()}
                fastest = max(names, key=speed.__getitem__)
                if epoch >= 1 and speed[fastest] - min(speed.values()) > epsilon:
                    left, cut = window, fastest
            run.step(batch)
            w = sgd.step(w, g)
            assert_same(run.model, w)
            for m in names:
                np.testing.assert_allclose(run.model.head.exchange["-1"].gate[m].mean.numpy(), means[m], atol=1e-12)
        logged = run.end_epoch()
        for m in names:
            assert logged[f"greedy/cut/{m}"] == seen[-2:].count(m) / 2
    assert not any(seen[: 2 + (schedule == "speed")]) and any(seen) and "" in seen[3:]
    np.testing.assert_allclose(run.strategy.sums.numpy(), np.array(list(sums.values())).T, rtol=1e-9)

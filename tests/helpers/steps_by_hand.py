"""Small runs, and their training steps written in numpy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from helpers.by_hand import Linear, Sgd, Weights, assert_same, cross_entropy, encode, log_softmax, weights_of
from mmzoo import Batch, MultimodalModel, Run, Strategy
from mmzoo.heads.concat import Concat
from mmzoo.strategies.pmr import PMR
from mmzoo.testing.replay.harness import terms_of
from mmzoo.training.config import Training

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=40)
SEEDS = st.integers(0, 10_000)
N, D, C = 7, 3, 4
IN = {"a": 5, "v": 2}


# ---------------------------------------------------------------------- whole steps, by hand
def batches(seed: int = 3, widths: Mapping[str, int] = IN) -> list[Batch]:
    g = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(2):
        inputs = {m: torch.randn(N, d, generator=g, dtype=torch.float64) for m, d in widths.items()}
        target = torch.cat([torch.arange(C), torch.randint(C, (N - C,), generator=g)])
        rows.append(Batch(inputs, target, torch.arange(N) + N * i))
    return rows


def run_of(strategy: Strategy) -> Run:
    torch.manual_seed(0)
    model = MultimodalModel({m: Linear(d, D) for m, d in IN.items()}, Concat(dict.fromkeys(IN, D), C)).double()
    training = Training(optimizer="sgd", lr=0.2, momentum=0.9, weight_decay=0.03, epochs=3)
    return Run(model, strategy, train=batches(), training=training, seed=5)


def features_of(w: Weights, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    return {m: encode(w, m, x) for m, x in inputs.items()}


def unimodal_of(w: Weights, z: Mapping[str, Any]) -> dict[str, Any]:
    return {m: z[m] @ w[f"head.weight.{m}"].T + w["head.bias"] / 2 for m in z}


def task_loss(w: Weights, batch: Batch) -> Any:
    parts = unimodal_of(w, features_of(w, batch.inputs))
    return cross_entropy(parts["a"] + parts["v"], batch.target.numpy())


def true_class_sum(z: Any, y: Any) -> float:
    return float(np.exp(log_softmax(z))[np.arange(len(y)), y].sum())


def train_both(
    strategy: Strategy, by_hand: Callable[[Weights, Batch, int, int, Weights], Weights], epochs: int = 2
) -> None:
    """Compare the weights after each step. by_hand: (w, batch, epoch, step, w at epoch start) -> gradient."""
    run, sgd, step = run_of(strategy), Sgd(), 0
    w = weights_of(run.model)
    for epoch in range(epochs):
        run.start_epoch()
        at_start = w
        for batch in run.epoch_batches():
            run.step(batch)
            w = sgd.step(w, by_hand(w, batch, epoch, step, at_start))
            step += 1
            assert_same(run.model, w)
        run.end_epoch()


# ---------------------------------------------------------------------- OGM
SCORES = st.lists(st.integers(8, 80).map(lambda n: n / 16), min_size=2, max_size=4)
FORMS = st.sampled_from(["conference", "journal"])
ALPHAS = st.floats(0.0, 1.0)


# ---------------------------------------------------------------------- PMR
def pmr_case(seed: int, n_modalities: int = 2) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
    """Features, prototypes, targets and joint logits."""
    g = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=g, dtype=torch.float64)
    names = "avt"[:n_modalities]
    target = torch.randint(C, (N,), generator=g)
    return {m: draw(N, D) for m in names}, {m: draw(C, D) for m in names}, target, draw(N, C)


def pmr_terms(
    features: Mapping[str, Tensor],
    prototypes: Mapping[str, Tensor],
    target: Tensor,
    logits: Tensor,
    seen: Tensor | None = None,
    variant: Any = "paper",
) -> dict[str, Tensor]:
    known = torch.ones(C, dtype=torch.bool) if seen is None else seen
    return terms_of(
        PMR(alpha=0.7, mu=0.2, variant=variant),
        features,
        logits,
        target,
        prototypes=dict(prototypes),
        seen=dict.fromkeys(prototypes, known),
    )

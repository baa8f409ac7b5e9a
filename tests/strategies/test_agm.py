"""AGM in the engine: which forward receives which factor, and what stays as in plain training."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.agm_runs import IN, C, batches, rows
from helpers.by_hand import Linear
from torch import Tensor

from mmzoo.api import Chain, MultimodalModel, Outputs, Run, Step, Strategy, Window
from mmzoo.functional import shapley_weights
from mmzoo.heads.sum import Sum
from mmzoo.strategies import agm
from mmzoo.strategies.agm import AGM
from mmzoo.strategies.plain import Plain
from mmzoo.testing.checks.strategy import REGULARISED
from mmzoo.testing.harness.observing import difference, weights
from mmzoo.testing.harness.tasks import build_model, build_run, make_task, train


@pytest.mark.parametrize("n", [2, 3])
def test_each_forward_receives_its_share_of_the_factors(n: int) -> None:
    """With two modalities half the sum of both for all inputs, half their difference for one alone."""
    strategy, task = AGM(alpha=2.0), make_task(n, dtype=torch.float64)
    run, batch, names = build_run(task, strategy, build_model(task)), task.batch(), task.modalities
    sets = [frozenset(s) for k in range(1, n + 1) for s in itertools.combinations(names, k)]
    leaves = {s: rows(i, len(batch), 3).requires_grad_() for i, s in enumerate(sets)}
    run.coalitions = lambda batch, sets, present: {frozenset(s): outputs(leaves[frozenset(s)]) for s in sets}  # type: ignore[method-assign, assignment, misc]
    full = leaves[frozenset(names)]
    out = strategy.outputs(Step(run, batch), replace(outputs(full), features=dict.fromkeys(names, full)))
    assert torch.allclose(out.logits, full, atol=1e-12)
    g = rows(9, len(batch), 3)
    (out.logits * g).sum().backward()
    phi = torch.stack(list(out.unimodal.values())).detach()
    total, count = agm.score_sums(phi, batch.target)
    kappa = agm.coefficients(total / count, torch.zeros(n, dtype=torch.float64), 2.0, known=torch.zeros(n).bool())
    assert float(kappa.max() - kappa.min()) > 0.1
    table = shapley_weights(names)
    for s, leaf in leaves.items():
        share = sum(float(k) * table[m][s] for m, k in zip(names, kappa))
        assert torch.allclose(leaf.grad, share * g, atol=1e-12)
    assert torch.allclose(full.grad, kappa.mean() * g, atol=1e-12)
    if n == 2:
        alone = leaves[frozenset({names[0]})].grad
        assert torch.allclose(alone, (kappa[0] - kappa[1]) / 2 * g, atol=1e-12)


def outputs(logits: Tensor) -> Outputs:
    return Outputs(logits, {}, {})


@pytest.mark.parametrize("gradient", ["exact", "detached"])
def test_batch_statistics_and_dropout_are_those_of_plain_training(gradient: Any) -> None:
    task = make_task(3, dtype=torch.float64)
    runs = [
        build_run(task, s, build_model(task, **REGULARISED))
        for s in (Plain(), AGM(alpha=1e-9, clip=None, gradient=gradient))
    ]
    for run in runs:
        train(run, 2)
    assert difference(weights(runs[0].model), weights(runs[1].model), 1e-6) is None


def test_for_a_head_that_adds_up_detached_factors_give_the_encoders_the_exact_gradients() -> None:
    """Encoders without bias give zero for zero, so that nothing flows through the inputs of zeros."""

    class NoBias(Linear):
        def __init__(self, width: int) -> None:
            super().__init__(width, 3)
            self.linear.bias = None  # type: ignore[assignment]

    found = []
    for how in ("exact", "detached"):
        torch.manual_seed(0)
        model = MultimodalModel({m: NoBias(IN[m]) for m in IN}, Sum(dict.fromkeys(IN, 3), C)).double()
        run = Run(model, AGM(alpha=2.0, clip=None, gradient=how), train=batches(list(IN), 1))
        run.train_epoch()
        found.append({m: e.linear.weight.detach().clone() for m, e in model.encoders.items()})
    assert difference(found[0], found[1], 1e-12) is None


def test_a_window_that_closes_leaves_no_factor_at_work() -> None:
    task = make_task()
    run = build_run(task, Window(AGM(), 0, 0), build_model(task))
    assert "agm/audio" in train(run, 1) and "agm/audio" not in train(run, 1)


def test_later_parts_of_a_chain_see_the_responses() -> None:
    seen: dict[str, Any] = {}

    class Look(Strategy):
        def outputs(self, step: Step, out: Outputs) -> Outputs:
            seen["responses"], seen["logits"] = dict(out.unimodal), out.logits
            return out

    task = make_task(3)
    run = build_run(task, Chain(AGM(), Look()), build_model(task))
    train(run, 1)
    assert list(seen["responses"]) == list(task.modalities)
    assert torch.allclose(torch.stack(list(seen["responses"].values())).sum(0), seen["logits"], atol=1e-6)

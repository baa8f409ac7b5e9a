"""A strategy that learns alpha by the tangent of its own training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import loader, run, train
from helpers import model as multimodal
from helpers.tangent_problems import ADAM, ADAMW
from torch import nn

from mmzoo.api import Incompatible, Outputs, Run, Step, Strategy, Terms, Training
from mmzoo.bilevel import Mixing
from mmzoo.bilevel.forward import Derivative, ForwardTangent
from mmzoo.functional import cosine_similarities, info_nce


# ---------------------------------------------------------------------- in a strategy
class LearnsAlpha(Strategy):
    """Learns alpha from the slice once an epoch, along the derivative of the epoch's own steps."""

    owns = frozenset({"task", "backward"})
    requires = frozenset({"slice", "double_backward"})
    state = ("alpha",)

    def __init__(self, *, alpha: float = 0.5, eta: float = 0.1, learns: bool = True) -> None:
        self.alpha = alpha
        self.eta = eta
        self.learns = learns
        self.found: list[Derivative] = []
        self._tangent: ForwardTangent | None = None

    def epoch_start(self, run: Run) -> None:
        if self._tangent is None:  # the optimizer does not exist in setup
            self._tangent = ForwardTangent(run.optimizer, run.model)
        self._tangent.reset()

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        match = info_nce(cosine_similarities(out.features, 0.5))
        step.scratch[self] = (terms["task"], match)
        return {**terms, "task": (1 - self.alpha) * terms["task"], "learns/match": self.alpha * match}

    def backward(self, step: Step, terms: Terms) -> None:
        assert self._tangent is not None
        l_cls, l_mm = step.scratch.pop(self)
        self._tangent.backward_of(sum(terms.values()), l_mm - l_cls)  # type: ignore[arg-type]
        step.run.cost.backward += 3

    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        assert self._tangent is not None
        self._tangent.stepped()

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        assert self._tangent is not None
        held = next(iter(run.meta_batches()))
        self.found.append(
            self._tangent.derivative(lambda: F.cross_entropy(run.forward(held, mode="eval").logits, held.target))
        )
        if self.learns and self.found[-1].usable:
            self.alpha = min(1.0, max(0.0, self.alpha - self.eta * self.found[-1].direction))


def learned(strategy: Strategy, epochs: int = 1, kind: str = "sgd", **training: Any) -> Run:
    m = multimodal(norm=True).double()
    for module in m.modules():  # no kinks: differences of training runs are compared
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Tanh())
    pieces = [replace(b, inputs={k: v.double() for k, v in b.inputs.items()}) for b in loader().batches()]
    protocol = Training(**{"lr": 0.05, "epochs": 4, "weight_decay": 0.01, "warmup_epochs": 1, **training})
    # With torch's eps of 1e-8 Adam turns the rounding noise of gradients that are zero (a bias in front of batch norm)
    # into steps, and differences of runs measure that.
    build = None if kind == "sgd" else partial({"adam": ADAM, "adamw": ADAMW}[kind], lr=0.05, eps=1e-4)
    return train(run(strategy, m, train=pieces[:4], slice=pieces[4:], training=protocol, optimizer=build), epochs)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_a_strategy_gets_the_derivative_of_its_own_epoch(kind: str) -> None:
    strategy = LearnsAlpha(alpha=0.3, learns=False)
    learned(strategy, kind=kind)
    values = []
    for sign in (1, -1):
        r = learned(LearnsAlpha(alpha=0.3 + sign * 1e-6, learns=False), kind=kind)
        held = next(iter(r.meta_batches()))
        with torch.no_grad():
            values.append(float(F.cross_entropy(r.forward(held, mode="eval").logits, held.target)))
    assert strategy.found[0].horizon == 4
    assert strategy.found[0].value == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6, abs=1e-7)


def test_a_strategy_learns_alpha_with_run() -> None:
    strategy = LearnsAlpha()
    r = learned(strategy, epochs=4)
    assert strategy.alpha != 0.5 and 0.0 <= strategy.alpha <= 1.0
    assert [d.horizon for d in strategy.found] == [4] * 4 and all(d.usable for d in strategy.found)
    assert r.cost.backward == 4 * 4 * 3
    held = next(iter(r.meta_batches()))
    child = r.fork(epochs=1)  # a copy of model and hooks trains without disturbing the tangent
    assert child is not r
    assert strategy._tangent is not None and not strategy._tangent._state.records
    assert torch.isfinite(r.forward(held, mode="eval").logits).all()


def test_probes_during_training_are_not_part_of_it() -> None:
    class Probing(LearnsAlpha):
        def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
            super().updated(step, out, terms)
            step.run.forward(step.batch, mode="train")
            step.run.forward(step.batch, mode="eval")

    plain, probing = LearnsAlpha(), Probing()
    for strategy in (plain, probing):
        learned(strategy, epochs=2)
    assert plain.found == probing.found


def test_clipping_by_the_protocol_is_refused() -> None:
    with pytest.raises(Incompatible, match="clipping"):
        learned(LearnsAlpha(), clip=1e-3)


def test_partial_application_keeps_the_forms_apart() -> None:
    assert partial(Mixing.additive, 0.3)() == Mixing((1.0, 0.3), (0.0, 1.0))
    assert Mixing.of(0.25) == Mixing((0.75, 0.25), (-1.0, 1.0)) and Mixing.of(Mixing.of(0.1)) == Mixing.of(0.1)

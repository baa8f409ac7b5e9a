"""Strategies, each with one fault."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from mmzoo.api import Grads, Outputs, Run, Step, Strategy, Terms


class Extra(Strategy):
    """Base of the faulty ones: adds `value(step, out)` as a term."""

    def value(self, step: Step, out: Outputs) -> Tensor:
        return 0.1 * out.logits.square().mean()

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        return {**terms, "extra/value": self.value(step, out)}


class Positional(Extra):
    def __init__(self, alpha: float = 0.3) -> None:
        self.alpha = alpha


class Unkept(Extra):
    def __init__(self, *, alpha: float = 0.3) -> None:
        self._alpha = alpha


class Converted(Extra):
    def __init__(self, *, alpha: float = 0.3) -> None:
        self.alpha = 2 * alpha


class SharedContainer(Extra):
    state = ("seen",)
    seen: ClassVar[dict[str, int]] = {}

    def __init__(self, *, alpha: float = 0.3) -> None:
        self.alpha = alpha


class WrongDeclaration(Extra):
    neutral = {"beta": 0.0}  # noqa: RUF012


class NotNeutral(Extra):
    neutral = {"alpha": 0.0}  # noqa: RUF012

    def __init__(self, *, alpha: float = 0.3) -> None:
        self.alpha = alpha


class HiddenState(Strategy):
    def __init__(self) -> None:
        self.steps = 0

    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        self.steps += 1
        grads.scale("head:shared", 1.0 + 0.01 * self.steps)


class LiveState(Strategy):
    state = ("total",)

    def __init__(self) -> None:
        self.total = torch.zeros(2)

    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        self.total += 1.0

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total}


class UnsavableState(Strategy):
    state = ("score",)

    def __init__(self) -> None:
        self.score: Any = None

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        self.score = slice(1, 2)


class ForkedState(Strategy):
    counts: ClassVar[list[int]] = [0]
    state = ("counts",)

    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        type(self).counts[0] += 1


class Peeking(Strategy):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def predict(self, out: Outputs) -> Outputs:
        self.seen.append(lambda: out)
        return out


class PeekingCopy(Strategy):
    def __init__(self) -> None:
        self.last = torch.zeros(0)

    def predict(self, out: Outputs) -> Outputs:
        self.last = next(iter(out.features.values())).clone()
        return out


class Costly(Extra):
    def value(self, step: Step, out: Outputs) -> Tensor:
        return sum(step.run.forward(step.batch, mode="eval").logits.square().mean() for _ in range(2)) * 0.1


class Smuggled(Strategy):
    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        with torch.no_grad():
            for _ in range(2):
                step.run.model(step.batch.inputs)


class TwoOnly(Extra):
    def value(self, step: Step, out: Outputs) -> Tensor:
        a, b = out.unimodal.values()
        return (a - b).square().mean()


class InPlaceFeatures(Strategy):
    def features(self, step: Step, feats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        with torch.no_grad():
            for z in feats.values():
                z.mul_(0.9)
        return feats


class CountingLosses(Extra):
    state = ("calls",)

    def __init__(self) -> None:
        self.calls = 0

    def value(self, step: Step, out: Outputs) -> Tensor:
        self.calls += 1
        return 0.1 * out.logits.square().mean()


class DrawingOutputs(Strategy):
    def outputs(self, step: Step, out: Outputs) -> Outputs:
        return out.replace(logits=out.logits + 0.1 * torch.randn_like(out.logits))


class MovingStatistics(Extra):
    def value(self, step: Step, out: Outputs) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return 0.1 * step.run.model(step.batch.inputs).logits.square().mean()


class GradModeOff(Strategy):
    def outputs(self, step: Step, out: Outputs) -> Outputs:
        torch.set_grad_enabled(False)
        return out


class NotANumber(Extra):
    def value(self, step: Step, out: Outputs) -> Tensor:
        return out.logits.sum() * float("nan")


class Vector(Extra):
    def value(self, step: Step, out: Outputs) -> Tensor:
        return out.logits.sum(1)


class Unowned(Strategy):
    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        return {**terms, "task": 0.5 * terms["task"]}


class Unprefixed(Strategy):
    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        return {**terms, "size": 0.1 * out.logits.square().mean()}


class Detached(Strategy):
    owns = frozenset({"task"})

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        return {name: t.detach() for name, t in terms.items()}


class MovesWeights(Strategy):
    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        with torch.no_grad():
            for p in grads.params("head:shared"):
                p.mul_(0.99)


class BrokenGradients(Strategy):
    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        grads.scale("head:shared", float("inf"))


class DrawsInGradients(Strategy):
    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        grads.scale("head:shared", 1.0 + torch.rand(()))


class Waits(Strategy):
    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        return {**terms, "task": 0.5 * terms["task"]} if terms["task"] > 1.0 else terms


class Lists(Strategy):
    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        step.run.log("lists/first", out.logits.detach()[0].tolist()[0])


class DrawsFromNumpy(Strategy):
    def epoch_start(self, run: Run) -> None:
        np.random.rand()


class FillsGradients(Strategy):
    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        for p in step.run.model.parameters():
            p.grad = torch.zeros_like(p) if p.grad is None else p.grad


class BatchRanking(Strategy):
    owns = frozenset({"predict"})

    def predict(self, out: Outputs) -> Outputs:
        return out.replace(ranking=out.logits - out.logits.mean(0))


class UnownedRanking(Strategy):
    def predict(self, out: Outputs) -> Outputs:
        return out.replace(ranking=out.logits)


class RankedByNorm(Strategy):
    owns = frozenset({"predict"})

    def predict(self, out: Outputs) -> Outputs:
        norms = torch.stack([z.norm(dim=1, keepdim=True) for z in out.features.values()])
        return out.replace(ranking=out.scores * norms.sum(0) / norms.sum(0))


class CountsPredictions(Strategy):
    def __init__(self) -> None:
        self.predictions = 0

    def predict(self, out: Outputs) -> Outputs:
        self.predictions += 1
        return out


class FirstModality(Extra):
    def value(self, step: Step, out: Outputs) -> Tensor:
        return next(iter(out.features.values())).square().mean()


class FirstItem(Extra):
    def value(self, step: Step, out: Outputs) -> Tensor:
        return 0.1 * out.logits[0].square().mean()


class OwnBackward(Strategy):
    owns = frozenset({"backward"})

    def backward(self, step: Step, terms: Terms) -> None:
        torch.stack(list(terms.values())).sum().backward()


class Deviation(Extra):
    def value(self, step: Step, out: Outputs) -> Tensor:
        return out.logits.var(0).mean()


class ClassMean(Extra):
    def value(self, step: Step, out: Outputs) -> Tensor:
        return torch.stack([out.logits[step.target == c].mean() for c in range(step.run.n_classes)]).sum()


class InputNorm(Extra):
    def value(self, step: Step, out: Outputs) -> Tensor:
        return sum(out.logits.mean() / x.norm() for x in step.batch.inputs.values())  # type: ignore[return-value]


class Exponential(Extra):
    def value(self, step: Step, out: Outputs) -> Tensor:
        return out.logits.exp().mean()


class CompleteItems(Extra):
    def value(self, step: Step, out: Outputs) -> Tensor:
        present = step.batch.present
        return 0.1 * (out.logits if present is None else out.logits[present.all(1)]).square().mean()


class AloneOnly(Strategy):
    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        if step.run.strategy is self:
            grads.scale("head:shared", 0.5)


class ForgetfulOutputs(Strategy):
    def outputs(self, step: Step, out: Outputs) -> Outputs:
        fresh = step.run.model.outputs(out.features)
        return out.replace(logits=0.7 * fresh.logits, unimodal=fresh.unimodal)


class EveryModality(Extra):
    def value(self, step: Step, out: Outputs) -> Tensor:
        return torch.stack([out.unimodal[m].square().mean() for m in step.run.modalities]).mean()


class TrainsInSetup(Strategy):
    def setup(self, run: Run) -> None:
        with torch.no_grad():
            for p in run.model.parameters():
                p.mul_(0.5)


class Dropping(Strategy):
    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        return {"task": terms["task"], "dropping/size": 0.1 * out.logits.square().mean()}

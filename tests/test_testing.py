"""The contract checks pass on what is shipped, and each catches the fault that it is there for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmzoo.api import Chain, Encoder, FusionHead, Grads, Outputs, Pass, Run, Step, Strategy, Terms, Window
from mmzoo.encoders.mlp import MLP
from mmzoo.encoders.tokens import TextBag
from mmzoo.errors import UnknownName
from mmzoo.heads.channel import Channel
from mmzoo.heads.concat import Concat
from mmzoo.heads.shared import Shared
from mmzoo.heads.sum import Sum
from mmzoo.heads.weight import Weight
from mmzoo.strategies.dynamic_gap import DynamicGap
from mmzoo.strategies.joint_unimodal import JointUnimodal
from mmzoo.strategies.ogm import OGM
from mmzoo.strategies.plain import Plain
from mmzoo.strategies.pmr import PMR
from mmzoo.testing import SPECS, check_encoder, check_head, check_part, check_strategy, parametrize_with_checks
from mmzoo.testing.harness.observing import difference, weights
from mmzoo.testing.harness.reads import Reads
from mmzoo.testing.harness.report import CHECKS
from mmzoo.testing.harness.tasks import CoupledConcat, Mixing, build_model, build_run, make_task, train

DRAWS = 4


# What is shipped


@pytest.mark.parametrize(
    "strategy",
    [
        PMR(variant="code", fraction=1.0),
        DynamicGap(matching="js", schedule="stepwise"),
        DynamicGap(schedule="learned", solver="hessian", upper="train"),
        Chain(OGM(), JointUnimodal()),
        Window(PMR(fraction=1.0), 1, 2),
    ],
    ids=str,
)
def test_strategies_keep_the_contract(strategy: Strategy) -> None:
    report = check_strategy(strategy, draws=DRAWS)
    assert [r.name for r in report] == list(CHECKS["strategy"])
    assert sum(r.status == "passed" for r in report) >= len(report) - 6


def test_a_solve_within_an_epoch_is_what_a_gpu_waits_for_and_nothing_else() -> None:
    waits = {"check_no_waiting": "once every two steps the solver looks at its residual"}
    assert check_strategy(DynamicGap(schedule="learned", every=2, items=3), draws=DRAWS, expected_failures=waits).ok


@pytest.mark.parametrize(
    "head",
    [
        Concat,
        Sum,
        partial(Sum, reduce="mean"),
        Shared,
        partial(Weight, level="feature"),
        partial(Weight, level="logit"),
        partial(Weight, level="gate"),
        Channel,
        CoupledConcat,
        Mixing,
    ],
    ids=str,
)
def test_heads_keep_the_contract(head: Any) -> None:
    check_head(head, draws=DRAWS)


def test_a_strategy_that_needs_stages_gets_a_head_that_couples() -> None:
    class Staged(JointUnimodal):
        requires = frozenset({"unimodal", "staged"})

    report = check_strategy(Staged, draws=2)
    assert report.status("check_requirements") == "passed"
    assert report.status("check_micro_batches") == "skipped"


def test_the_encoder_keeps_the_contract() -> None:
    check_encoder(lambda: MLP((4, 2), hidden=(6, 5), width=3, dropout=0.2), inputs=(4, 2))
    check_part("encoder", MLP, {"spec": (6,), "hidden": ()}, inputs=(6,))


# Strategies with one fault each


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


class Dropping(Strategy):
    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        return {"task": terms["task"], "dropping/size": 0.1 * out.logits.square().mean()}


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


def _is_caught(report: Any, check: str, seen: str) -> None:
    assert report.status(check) == "failed", str(report)
    reason = report.failed[0].reason
    assert reason.index("claimed: ") < reason.index("\nseen: ") < reason.index("\nto do: ")
    assert seen in reason, reason


class ReadsTest(Strategy):
    """Learns from the whole data set, through a function beside it."""

    def epoch_start(self, run: Any) -> None:
        _whole_set()


def _whole_set() -> Any:
    from mmzoo.data.datasets import mfeat

    return mfeat.load


FAULTS: Sequence[tuple[str, type[Strategy], str]] = [
    ("check_construction", Positional, "alpha is not"),
    ("check_construction", Unkept, "no attribute alpha"),
    ("check_construction", Converted, "0.6 against 1.2"),
    ("check_construction", SharedContainer, "same object as seen"),
    ("check_construction", WrongDeclaration, "neutral names 'beta'"),
    ("check_neutral", NotNeutral, "differs by up to"),
    ("check_resume", HiddenState, "not in its state: steps"),
    ("check_state", LiveState, "total differs by up to 3"),
    ("check_state", UnsavableState, "torch.load(weights_only=True) refuses it"),
    ("check_fork", ForkedState, "strategy.counts"),
    ("check_isolation", Peeking, "holds holdout"),
    ("check_isolation", PeekingCopy, "a copy of test features"),
    ("check_imports", ReadsTest, "ReadsTest uses mmzoo.data.datasets.mfeat"),
    ("check_cost", Costly, "it took 9"),
    ("check_cost", Smuggled, "it took 9"),
    ("check_modalities", TwoOnly, "not enough values to unpack"),
    ("check_purity", InPlaceFeatures, "edited in place: feature audio, feature image"),
    ("check_purity", CountingLosses, "calls"),
    ("check_purity", DrawingOutputs, "logits differs"),
    ("check_purity", MovingStatistics, "running_mean differs"),
    ("check_purity", GradModeOff, "grad mode: True against False"),
    ("check_terms", NotANumber, "extra/value is nan"),
    ("check_terms", Vector, "extra/value is not"),
    ("check_terms", Dropping, "'company/size' is gone"),
    ("check_terms", Unowned, "task"),
    ("check_terms", Unprefixed, "added 'size'"),
    ("check_terms", Detached, "no gradient"),
    ("check_gradients", MovesWeights, "head.bias differs"),
    ("check_gradients", BrokenGradients, "not finite: head.bias"),
    (
        "check_no_waiting",
        Waits,
        "`losses` leaves the values of tensors where they are\nseen: it uses a number taken out",
    ),
    ("check_no_waiting", Lists, "it uses tolist"),
    ("check_random_streams", DrawsInGradients, "random state changed: torch"),
    ("check_random_streams", DrawsFromNumpy, "random state changed: numpy"),
    ("check_frozen", FillsGradients, "audio: "),
    ("check_prediction", BatchRanking, "differs by up to"),
    ("check_prediction", UnownedRanking, "row sums"),
    ("check_prediction", CountsPredictions, "predictions: "),
    ("check_modality_order", FirstModality, "in the order"),
    ("check_sample_order", FirstItem, "differs by up to"),
    ("check_micro_batches", OwnBackward, "differs by up to"),
    ("check_batch_of_one", Deviation, "not finite"),
    ("check_missing_classes", ClassMean, "not finite"),
    ("check_zero_inputs", InputNorm, "not finite"),
    ("check_large_logits", Exponential, "not finite"),
    ("check_absent_modalities", CompleteItems, "not finite"),
    ("check_company", AloneOnly, "exactly like the companion alone"),
    ("check_company", Dropping, "exactly like this strategy alone"),
    ("check_company", ForgetfulOutputs, "exactly like this strategy alone"),
    ("check_alternating_company", EveryModality, "KeyError"),
    ("check_window", TrainsInSetup, "differs by up to"),
    ("check_ablations", RankedByNorm, "with none kept the model's answers are not finite"),
]


@pytest.mark.filterwarnings("ignore:(var|std)\\(\\). degrees of freedom")
@pytest.mark.parametrize(("check", "cls", "seen"), FAULTS, ids=lambda x: getattr(x, "__name__", None))
def test_a_faulty_strategy_is_caught(check: str, cls: type[Strategy], seen: str) -> None:
    _is_caught(check_strategy(cls, only=[check], draws=DRAWS, raise_failures=False), check, seen)


@pytest.mark.parametrize(
    ("check", "broken", "cls"),
    [
        ("check_requirements", "mmzoo.training.run.check_requirements", JointUnimodal),
        ("check_owners", "mmzoo.training.composition.check_owners", DynamicGap),
    ],
)
def test_a_refusal_that_does_not_come_is_caught(
    check: str, broken: str, cls: type[Strategy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broken, lambda *args, **kwargs: None)
    _is_caught(check_strategy(cls, only=[check], raise_failures=False), check, "")


@pytest.mark.parametrize(
    ("do", "seen"),
    [
        (lambda x, y: x.sum().item(), "a number"),
        (lambda x, y: float(x.detach().sum()), "a number"),
        (lambda x, y: 1 if x.sum() > 0 else 2, "a number"),
        (lambda x, y: x.cpu(), "cpu"),
        (lambda x, y: x.detach().numpy(), "numpy"),
        (lambda x, y: x[y > 0], "nonzero"),
        (lambda x, y: x.index_put((y > 0,), x[:2]), "nonzero"),
        (lambda x, y: torch.equal(x, x), "torch.equal"),
        (lambda x, y: torch.bincount(y, minlength=3), "bincount"),
        (lambda x, y: F.one_hot(y), "a number"),
        (lambda x, y: x.repeat_interleave(y, 0), "repeat_interleave"),
        (lambda x, y: x.new_zeros(2).tolist(), "tolist"),
        (lambda x, y: F.cross_entropy(x, y).backward(), None),
        (lambda x, y: F.one_hot(y, 3), None),
        (lambda x, y: x[[0, 1]] + torch.where(x > 0, x, 0.0)[:2], None),
        (lambda x, y: x.index_put((y > 0,), x.sum()), None),
        (lambda x, y: bool(torch.rand(()) < 0.5), None),
        (lambda x, y: ["abc"[i] for i in torch.randperm(3)] and torch.tensor([0.5]).tolist(), None),
    ],
)
def test_what_a_gpu_would_have_to_wait_for(do: Callable[[Tensor, Tensor], Any], seen: str | None) -> None:
    x, y = torch.ones(4, 3, requires_grad=True), torch.tensor([0, 1, 2, 0])
    with Reads() as reads:
        do(x, y)
    assert reads.found == [] if seen is None else [f for f in reads.found if f.startswith(seen)]


def test_every_strategy_check_has_caught_a_fault() -> None:
    tried = {check for check, _, _ in FAULTS} | {"check_requirements", "check_owners"}
    tried |= {"check_processes", "check_other_device"}  # in test_processes, test_other_device
    assert tried == set(CHECKS["strategy"])


# Heads with one fault each


class FaultyHead(Sum):
    """A sound head for the faulty ones to spoil."""


class UnknownWord(FaultyHead):
    how = "guessed"  # type: ignore[assignment]


class ForgetsDims(FaultyHead):
    def __init__(self, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(dims, n_classes)
        self.dims = dict.fromkeys(dims, 0)


class DoublePrecision(FaultyHead):
    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        logits, aux = super().fuse(features, present)
        return logits.double(), aux


class NotAdditive(Concat):
    def split(
        self, features: Mapping[str, Tensor], present: Tensor | None, aux: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        return {m: z + self.bias for m, z in super().split(features, present, aux).items()}


class Swapped(FaultyHead):
    def split(
        self, features: Mapping[str, Tensor], present: Tensor | None, aux: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        parts = dict(aux["parts"])
        return dict(zip(parts, [*list(parts.values())[1:], next(iter(parts.values()))]))


class UnusedLayer(FaultyHead):
    def __init__(self, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(dims, n_classes)
        self.idle = nn.Linear(2, 2)


class DetachedModality(FaultyHead):
    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        first = next(iter(features))
        return super().fuse({**features, first: features[first].detach()}, present)


class BatchMean(FaultyHead):
    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        logits, aux = super().fuse(features, present)
        return logits - logits.mean(0), aux


class BiasOfTheAbsent(FusionHead):
    how = "exact"

    def __init__(self, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(dims, n_classes)
        self.linear = nn.ModuleDict({m: nn.Linear(d, n_classes) for m, d in dims.items()})

    def forward(self, features: Mapping[str, Tensor], present: Tensor | None = None) -> Outputs:
        own = {m: self.linear[m](z) for m, z in features.items()}
        return Outputs(torch.stack(list(own.values())).sum(0), dict(features), own)


class UnsavedGate(FaultyHead):
    def __init__(self, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(dims, n_classes)
        self._gate = torch.rand(())

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        logits, aux = super().fuse(features, present)
        return logits * self._gate.to(logits.dtype), aux


class RunningInEval(FaultyHead):
    def __init__(self, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(dims, n_classes)
        self.register_buffer("calls", torch.zeros(()))

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        self.calls += 1
        return super().fuse(features, present)


class EditsFeatures(FaultyHead):
    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        with torch.no_grad():
            for z in features.values():
                z.clamp_(-1, 1)
        return super().fuse(features, present)


class Evidence(FaultyHead):
    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        logits, aux = super().fuse(features, present)
        return logits.exp(), aux


class PicksRows(FaultyHead):
    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        logits, aux = super().fuse(features, present)
        return logits if present is None else logits.index_put((present.any(1),), logits[present.any(1)]), aux


class NegativeEvidence(FaultyHead):
    evidential = True


class EvidenceOfTheAbsent(FaultyHead):
    evidential = True

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        logits, aux = super().fuse(features, present)
        return logits.exp().log1p(), aux

    def split(self, features: Mapping[str, Tensor], present: Tensor | None, aux: Mapping[str, Any]) -> dict[str, Any]:
        return {m: z.exp().log1p() for m, z in super().split(features, present, aux).items()}


class OwnedTwice(FaultyHead):
    def own(self, modality: str) -> Any:
        return self.linear["audio"].parameters()


class HalvedAblation(Mixing):
    def split(
        self, features: Mapping[str, Tensor], present: Tensor | None, aux: Mapping[str, Any]
    ) -> Mapping[str, Tensor]:
        return {m: z / 2 for m, z in super().split(features, present, aux).items()}


class UnitFeatures(FaultyHead):
    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict[str, Any]]:
        return super().fuse({m: z / z.norm(dim=1, keepdim=True) for m, z in features.items()}, present)


class ShrinkingCouple(CoupledConcat):
    def couple(
        self, stage: int, maps: Mapping[str, Tensor], present: Tensor | None, pass_: Pass, masks: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        return {m: x.mean(0, keepdim=True) for m, x in maps.items()}


class DeafToFlags(Channel):
    def couple(
        self, stage: int, maps: Mapping[str, Tensor], present: Tensor | None, pass_: Pass, masks: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        return super().couple(stage, maps, present, Pass(), masks)


class NoMeans(CoupledConcat):
    mean_gates = True


HEAD_FAULTS: Sequence[tuple[str, type[FusionHead], str]] = [
    ("check_head_tags", UnknownWord, "'guessed'"),
    ("check_head_tags", ForgetsDims, "'audio': 0"),
    ("check_head_shapes", DoublePrecision, "torch.float64"),
    ("check_head_additive", NotAdditive, "differs by up to"),
    ("check_head_evidential", NegativeEvidence, "below zero: the joint"),
    ("check_head_evidential", EvidenceOfTheAbsent, "not zero: audio"),
    ("check_head_unimodal", Swapped, "other features change them"),
    ("check_head_parameter_gradients", UnusedLayer, "idle.weight"),
    ("check_head_feature_gradients", DetachedModality, "audio"),
    ("check_head_rows", BatchMean, "differs by up to"),
    ("check_head_absent", BiasOfTheAbsent, "the logits change"),
    ("check_head_state", UnsavedGate, "differs by up to"),
    ("check_head_pure", RunningInEval, "calls"),
    ("check_head_pure", EditsFeatures, "differs by up to"),
    ("check_head_no_waiting", PicksRows, "an index of booleans"),
    ("check_head_extremes", Evidence, "not finite: logits"),
    ("check_head_groups", OwnedTwice, "linear.audio.weight in 3"),
    ("check_head_couples", ShrinkingCouple, "audio at stage"),
    ("check_head_ablations", HalvedAblation, "differs by up to"),
    ("check_head_ablations", UnitFeatures, "not finite"),
    ("check_head_gates", DeafToFlags, "its features change"),
    ("check_head_gates", NoMeans, "changes no buffer"),
]


@pytest.mark.parametrize(("check", "head", "seen"), HEAD_FAULTS, ids=lambda x: getattr(x, "__name__", None))
def test_a_faulty_head_is_caught(check: str, head: type[FusionHead], seen: str) -> None:
    _is_caught(check_head(head, only=[check], draws=DRAWS, raise_failures=False), check, seen)


def test_every_head_check_has_caught_a_fault() -> None:
    assert {check for check, _, _ in HEAD_FAULTS} == set(CHECKS["head"])


# Encoders with one fault each


class FaultyEncoder(Encoder):
    """A sound encoder for the faulty ones to spoil."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.out_dim = 3

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(x))


class WrongWidth(FaultyEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.out_dim = 5


class Squeezes(FaultyEncoder):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze(0)


class Standardises(FaultyEncoder):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class DrawsInEval(FaultyEncoder):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, training=True))


class IdleBackbone(FaultyEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(3, 2)


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1.0

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class OnceDifferentiable(FaultyEncoder):
    def forward(self, x: Tensor) -> Tensor:
        return OnceOnly.apply(super().forward(x))


class OtherForward(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1.0


class OtherWidths(MLP):
    def __init__(self) -> None:
        super().__init__((4,), hidden=(6,))
        self.stage_dims = (5,)


class MaskOfNumbers(MLP):
    def mask(self, state: Tensor) -> Tensor:
        return torch.ones(len(state))


class UnsavedShift(FaultyEncoder):
    def __init__(self) -> None:
        super().__init__()
        self._shift = torch.rand(())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self._shift.to(x.dtype)


ENCODER_FAULTS: Sequence[tuple[str, Any, str]] = [
    ("check_encoder_shape", WrongWidth, "(1, 3)"),
    ("check_encoder_shape", Squeezes, "(3,)"),
    ("check_encoder_rows", Standardises, "differs by up to"),
    ("check_encoder_pure", DrawsInEval, "differs by up to"),
    ("check_encoder_gradients", IdleBackbone, "classifier.weight"),
    ("check_encoder_double_backward", OnceDifferentiable, "product with a vector"),
    ("check_encoder_stages", partial(OtherForward, (4,)), "differs by up to 1"),
    ("check_encoder_stages", OtherWidths, "(5,) for 1 stages"),
    ("check_encoder_stages", partial(MaskOfNumbers, (4,)), "torch.float32"),
    ("check_encoder_state", UnsavedShift, "differs by up to"),
]


class ReadsPadding(TextBag):
    def finish(self, state: Any) -> Tensor:
        return super().finish(state._replace(mask=torch.ones_like(state.mask)))


class DividesByNothing(TextBag):
    def finish(self, state: Any) -> Tensor:
        weight = state.mask[..., None].to(state.map.dtype)
        return self.project((state.map * weight).sum(1) / weight.sum(1))


TEXT_FAULTS: Sequence[tuple[str, Any, str]] = [
    ("check_encoder_padding", ReadsPadding, "differs by up to"),
    ("check_encoder_padding", DividesByNothing, "not"),
]


@pytest.mark.parametrize(("check", "encoder", "seen"), TEXT_FAULTS, ids=lambda x: getattr(x, "__name__", None))
def test_a_faulty_text_encoder_is_caught(check: str, encoder: Any, seen: str) -> None:
    text = SPECS["text"]
    _is_caught(check_encoder(lambda: encoder(text), inputs=text, only=[check], raise_failures=False), check, seen)


@pytest.mark.parametrize(("check", "encoder", "seen"), ENCODER_FAULTS, ids=lambda x: getattr(x, "__name__", None))
def test_a_faulty_encoder_is_caught(check: str, encoder: Any, seen: str) -> None:
    _is_caught(check_encoder(encoder, inputs=(4,), only=[check], raise_failures=False), check, seen)


def test_every_encoder_check_has_caught_a_fault() -> None:
    assert {check for check, _, _ in [*ENCODER_FAULTS, *TEXT_FAULTS]} == set(CHECKS["encoder"])
    check_encoder(FaultyEncoder, inputs=(4,))


# How results are reported


@parametrize_with_checks([Concat], kind="head", draws=2)
def test_the_form_for_plugin_authors(check: Any) -> None:
    check()


def _bound(cls: Any, name: str, **options: Any) -> Any:
    mark = parametrize_with_checks([cls], **options).mark
    return next(p.values[0] for p in mark.args[1] if p.id.endswith(name))


def test_the_pytest_form_fails_skips_and_expects() -> None:
    with pytest.raises(pytest.fail.Exception, match="'company/size' is gone"):
        _bound(Dropping, "check_terms")()
    with pytest.raises(pytest.skip.Exception, match="owns nothing"):
        _bound(Dropping, "check_owners")()
    with pytest.raises(pytest.xfail.Exception, match="known"):
        _bound(Dropping, "check_terms", expected_failures={"check_terms": "known"})()


def test_expected_failures() -> None:
    only = ["check_terms", "check_state"]
    report = check_strategy(Dropping, only=only, expected_failures={"check_terms": "replaces all terms"})
    assert {r.name: r.status for r in report} == {"check_terms": "expected", "check_state": "passed"}
    with pytest.raises(AssertionError, match="is expected to fail: no reason"):
        check_strategy(Plain, only=only, expected_failures={"check_terms": "no reason"})
    with pytest.raises(UnknownName, match="Did you mean 'check_terms'"):
        check_strategy(Plain, expected_failures={"check_term": "misspelt"})


def test_all_failures_are_listed() -> None:
    with pytest.raises(AssertionError, match=r"Dropping\(\) fails 2 of 3 contract checks") as failure:
        check_strategy(Dropping, only=["check_terms", "check_company", "check_state"])
    assert "check_terms: failed" in str(failure.value) and "check_company: failed" in str(failure.value)


def test_factories() -> None:
    only = ["check_neutral"]
    for strategy in (OGM, OGM(alpha=0.2), lambda: OGM(alpha=0.2)):
        assert check_strategy(strategy, only=only)[0].status == "passed"
    assert check_part("strategy", OGM, {"alpha": 0.2}, only=only).label.startswith("OGM(alpha=0.2")
    assert check_part("head", Sum, {"reduce": "mean"}, only=["check_head_tags"])[0].status == "passed"
    with pytest.raises(TypeError, match="must give a Strategy"):
        check_strategy(lambda: 3)  # type: ignore[arg-type, return-value]


def test_a_strategy_that_restricts_passes_composes_with_frozen_ones() -> None:
    class EncodersInTurn(Strategy):
        def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
            names = step.run.modalities
            mine = frozenset({names[step.run.global_step % len(names)]})
            return [replace(p, update=mine if p.update is None else mine & p.update) for p in passes]

    check_strategy(EncodersInTurn, draws=2, expected_failures={"check_modality_order": "takes turns in order"})


def test_a_fork_goes_on_at_the_learning_rates_of_its_parent() -> None:
    task = make_task()
    run = build_run(task, Strategy(), build_model(task, norm=True), schedule="step", step_size=1, gamma=0.5)
    train(run, 2)
    run.set_lr_scale("encoder:audio", 0.1)
    fork = run.fork(epochs=1)
    train(run, 1)
    assert difference(weights(fork.model), weights(run.model)) is None

"""UMT and UME: steps by hand, what their mathematics promises, and the teachers that a run gives them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from by_hand import Linear, Sgd, Weights, assert_same, cross_entropy, encode, gradient, weights_of
from helpers import NormEncoder, data, equal, loader, model, run, train, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmzoo.api import Batch, Chain, MultimodalModel, Run, Step, Strategy, Training, Window
from mmzoo.core.head import FusionHead
from mmzoo.core.seeding import seeded, stream
from mmzoo.core.values import Outputs, Pass
from mmzoo.errors import BadValue, Diverged, Incompatible, UnknownName
from mmzoo.evaluation.scores import evaluate, predict
from mmzoo.heads.concat import Concat
from mmzoo.heads.shared import Shared
from mmzoo.heads.sum import Sum
from mmzoo.heads.weight import Weight
from mmzoo.strategies.joint_unimodal import JointUnimodal
from mmzoo.strategies.ogm import OGM
from mmzoo.strategies.ume import UME, ensemble
from mmzoo.strategies.umt import UMT, distances
from mmzoo.testing import check_head
from mmzoo.testing.harness.observing import random_state
from mmzoo.training.loop import fit
from mmzoo.training.teachers import Alone

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=40)
SEEDS = st.integers(0, 10_000)
MODALITIES = ("a", "v", "t")
IN, OUT = {"a": 5, "v": 2, "t": 3}, {"a": 3, "v": 4, "t": 2}
N, C = 7, 4
Mean = partial(Sum, reduce="mean")


# ---------------------------------------------------------------------- whole steps, by hand
class Needs(Strategy):
    """Plain training that has teachers."""

    requires = frozenset({"teachers"})


def batches(present: bool = False, seed: int = 3) -> list[Batch]:
    g = torch.Generator().manual_seed(seed)
    rows = []
    for i in range(2):
        inputs = {m: torch.randn(N, d, generator=g, dtype=torch.float64) for m, d in IN.items()}
        there = torch.rand(N, len(IN), generator=g) < 0.6
        there[0] = True
        target = torch.cat([torch.arange(C), torch.randint(C, (N - C,), generator=g)])
        rows.append(Batch(inputs, target, torch.arange(N) + N * i, there if present else None))
    return rows


def linear_model(modalities: tuple[str, ...] = MODALITIES, seed: int = 0, head: Any = Concat) -> MultimodalModel:
    encoders = {}
    for m in modalities:
        with seeded(seed, "init", m):
            encoders[m] = Linear(IN[m], OUT[m])
    with seeded(seed, "head", *modalities):
        return MultimodalModel(encoders, head({m: OUT[m] for m in modalities}, C)).double()


def given_teachers(head: Any = Concat) -> dict[str, MultimodalModel]:
    return {m: linear_model((m,), seed=7, head=head) for m in MODALITIES}


def training(**changes: Any) -> Training:
    return Training(optimizer="sgd", lr=0.2, momentum=0.9, weight_decay=0.03, epochs=3).replace(**changes)


def linear_run(strategy: Strategy, present: bool = False, head: Any = Concat, **options: Any) -> Run:
    options = {"train": batches(present), "training": training(), "seed": 5, **options}
    return Run(linear_model(head=head), strategy, **options)


@pytest.mark.parametrize("present", [False, True], ids=["complete", "absent modalities"])
def test_umt_step_by_hand(present: bool) -> None:
    weight, teachers = 2.5, given_teachers()
    r, sgd = linear_run(UMT(weight=weight), present, teachers=teachers), Sgd()
    w = weights_of(r.model)
    theirs = {m: weights_of(t) for m, t in teachers.items()}

    def loss(u: Weights, batch: Batch) -> Any:
        there = torch.ones(N, 3, dtype=torch.bool) if batch.present is None else batch.present
        logits, distance = u["head.bias"], 0.0
        for i, m in enumerate(MODALITIES):
            here = there[:, i].numpy()
            z = encode(u, m, batch.inputs[m]) * here[:, None]
            logits = logits + z @ u[f"head.weight.{m}"].T
            gap = z[here] - encode(theirs[m], m, batch.inputs[m])[here]
            distance = distance + (gap**2).sum() / (here.sum() * OUT[m])
        return cross_entropy(logits, batch.target.numpy()) + weight * distance

    for _ in range(2):
        r.start_epoch()
        for batch in r.epoch_batches():
            r.step(batch)
            w = sgd.step(w, gradient(lambda u, b=batch: loss(u, b), w))  # type: ignore[misc]
            assert_same(r.model, w)
        r.end_epoch()


def test_a_teacher_by_hand() -> None:
    """The encoder's initial weights, a linear classifier of its own, plain steps in the run's order and budget on the
    items that have the modality."""
    r = linear_run(UMT(), present=True)
    fresh = weights_of(linear_model())
    with seeded(5, "init", "teacher", "v"):
        head = nn.Linear(OUT["v"], C).double()
    w = {n: value for n, value in fresh.items() if n.startswith("encoders.v.")}
    w |= {f"head.layer.{n}": value for n, value in weights_of(head).items()}
    sgd = Sgd()

    def loss(u: Weights, batch: Batch) -> Any:
        here = batch.present[:, 1]  # type: ignore[index]
        z = encode(u, "v", batch.inputs["v"][here])
        return cross_entropy(z @ u["head.layer.weight"].T + u["head.layer.bias"], batch.target[here].numpy())

    for _ in range(3):
        for batch in batches(present=True):
            w = sgd.step(w, gradient(lambda u, b=batch: loss(u, b), w))  # type: ignore[misc]
    assert_same(r.teacher("v"), w)


def test_a_teacher_computes_as_the_run_does_after_a_resume_too() -> None:
    def started(**given: Any) -> Run:
        return run(Needs(), training=Training(lr=0.01, epochs=2, precision="bf16"), **given)

    r = started()
    assert r.teacher("a").precision == "bf16"
    assert started(state=r.state_dict()).teacher("a").precision == "bf16"
    assert started(teachers={"a": model({"a": 4})}).teacher("a").precision == "bf16"


def test_a_teacher_sees_the_batches_in_the_order_of_the_run() -> None:
    seen: list[Tensor] = []

    class Watched(NormEncoder):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return super().forward(x)

    encoders = {m: Watched(width) for m, width in {"a": 4, "b": 3}.items()}
    m = MultimodalModel(encoders, Concat({"a": 5, "b": 5}, 3))
    run(UMT(), m, seed=3, training=Training(epochs=2))
    expected = [b.inputs[m] for m in "ab" for e in (0, 1) for b in loader().batches(stream(3, "order", e))]
    assert len(seen) == len(expected) and all(torch.equal(x, y) for x, y in zip(seen, expected))


# ---------------------------------------------------------------------- what the mathematics promises
def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@FIXED
@given(seed=SEEDS, batch=st.integers(1, 9), width=st.integers(1, 6))
def test_the_distance_to_a_teacher(seed: int, batch: int, width: int) -> None:
    z, t = drawn(seed, batch, width).requires_grad_(), drawn(seed + 1, batch, width).requires_grad_()
    value = distances(z, t).mean()
    np.testing.assert_allclose(value.item(), ((z - t) ** 2).sum().item() / (batch * width), rtol=1e-12)
    assert value >= 0 and not distances(z, z).any()
    value.backward()
    assert t.grad is None
    torch.testing.assert_close(z.grad, 2 * (z - t).detach() / (batch * width))
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(distances(z[order], t[order]), distances(z, t)[order])


@FIXED
@given(
    seed=SEEDS, modalities=st.integers(1, 4), classes=st.integers(2, 5), average=st.sampled_from(["probs", "logits"])
)
def test_the_average_prediction(seed: int, modalities: int, classes: int, average: Any) -> None:
    own = [2 * drawn(seed + i, 6, classes) for i in range(modalities)]
    p = ensemble(own, average).softmax(-1)
    if average == "probs":
        torch.testing.assert_close(p, torch.stack([z.softmax(-1) for z in own]).mean(0))
        # Log-probabilities come back, so that the loss is that of the ensemble.
        torch.testing.assert_close(ensemble(own, average), p.log())
        assert bool((ensemble([z + 3.0 for z in own], average) - ensemble(own, average)).abs().max() < 1e-12)
    else:
        torch.testing.assert_close(ensemble(own, average), sum(own) / modalities)
        for scale in (0.01, 7.0):  # a common scale leaves the decision alone
            assert torch.equal(ensemble([scale * z for z in own], average).argmax(1), p.argmax(1))
    torch.testing.assert_close(ensemble(own[::-1], average).softmax(-1), p)
    torch.testing.assert_close(ensemble([own[0]] * modalities, average).softmax(-1), own[0].softmax(-1))
    present = torch.rand(6, modalities, generator=torch.Generator().manual_seed(seed)) < 0.6
    present[0] = False
    masked = ensemble(own, average, present)
    if average == "probs":
        torch.testing.assert_close(masked.logsumexp(-1), torch.zeros(6, dtype=torch.float64))
    masked = masked.softmax(-1)
    torch.testing.assert_close(masked[0], torch.full((classes,), 1 / classes, dtype=torch.float64))
    for i in range(1, 6):
        here = [z[i : i + 1] for z, there in zip(own, present[i]) if there]
        if here:
            torch.testing.assert_close(masked[i], ensemble(here, average).softmax(-1)[0])
    torch.testing.assert_close(ensemble(own, average, torch.ones_like(present)).softmax(-1), p)


def test_a_scale_of_one_modality_changes_the_decision() -> None:
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    for average in ("probs", "logits"):
        assert ensemble([a, b], average).argmax() == 0 and ensemble([a, 9 * b], average).argmax() == 1
    # The two averages are not one decision: many doubtful votes against one that is sure.
    votes = [torch.tensor([[30.0, 0.0]]), torch.tensor([[0.0, 4.0]]), torch.tensor([[0.0, 4.0]])]
    assert ensemble(votes, "logits").argmax() == 0 and ensemble(votes, "probs").argmax() == 1


@pytest.mark.parametrize("average", ["probs", "logits"])
def test_extreme_logits_stay_finite(average: Any) -> None:
    own = [torch.tensor([[1e4, -1e4, 0.0]]), torch.tensor([[-1e4, 1e4, 0.0]])]
    for present in (None, torch.tensor([[True, False]]), torch.tensor([[False, False]])):
        out = ensemble(own, average, present)
        assert bool(torch.isfinite(out).all()) and bool(torch.isfinite(F.cross_entropy(out, torch.tensor([2]))))


@settings(FIXED, max_examples=10)
@given(seed=SEEDS)
def test_a_student_that_equals_its_teachers_has_the_plain_loss(seed: int) -> None:
    twins = {m: linear_model((m,)) for m in MODALITIES}
    for m, twin in twins.items():
        twin.encoders[m].load_state_dict(linear_model(seed=seed).encoders[m].state_dict())
    r = Run(linear_model(seed=seed), UMT(), train=batches(), training=training(), teachers=twins)
    batch = batches()[0]

    def terms() -> Mapping[str, Tensor]:
        out = r.model(batch.inputs)
        return r.strategy.losses(Step(r, batch), out, {"task": r.criterion(out.logits, batch.target)})

    at_first = terms()
    assert set(at_first) == {"task", "umt/a", "umt/v", "umt/t"} and sum(at_first.values()) == at_first["task"]
    train(r, 1)  # the student moves away
    assert all(terms()[f"umt/{m}"] > 0 for m in MODALITIES)


def test_a_large_weight_pulls_the_students_to_the_teachers() -> None:
    def distance(weight: float) -> float:
        r = linear_run(Chain(Needs(), UMT(weight=weight)), teachers=given_teachers(), training=training(lr=0.05))
        first = batches()[0]
        train(r, 60)
        features = {m: z.detach() for m, z in r.model(first.inputs).features.items()}
        return sum(float(distances(features[m], r.teacher_outputs(m, first).features[m]).mean()) for m in MODALITIES)

    far, near = distance(0.0), distance(10.0)
    assert near < 0.1 * far, (near, far)


def test_a_weight_of_zero_needs_no_teacher() -> None:
    strategy = UMT(weight=0.0)
    assert strategy.requires == frozenset() and strategy.cost == {"forward": 1, "backward": 1}
    r = train(linear_run(strategy), 1)
    assert r.cost.forward == r.cost.backward == 2
    with pytest.raises(Incompatible, match="Name 'teachers' in `requires`"):
        r.teacher("a")


def test_items_that_a_step_drops_do_not_count() -> None:
    class Keeps(Strategy):
        def features(self, step: Step, feats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            step.keep = torch.arange(len(step.batch)) % 2 == 0
            return feats

    whole, half = batches()[:1], [batches()[0].map(lambda t: t[::2])]
    kept = train(linear_run(Chain(Keeps(), UMT()), train=whole, teachers=given_teachers()), 2)
    alone = train(linear_run(UMT(), train=half, teachers=given_teachers()), 2)
    for name, value in weights(kept.model).items():
        torch.testing.assert_close(value, weights(alone.model)[name], rtol=0, atol=1e-12)


# ---------------------------------------------------------------------- teachers of a run
def frozen(teacher: MultimodalModel) -> bool:
    return not any(p.requires_grad for p in teacher.parameters()) and not any(m.training for m in teacher.modules())


def test_a_teacher_is_frozen_and_no_part_of_the_model() -> None:
    r = run(UMT(), model(norm=True))
    before = {m: weights(r.teacher(m)) for m in r.modalities}
    train(r, 2)
    assert all(frozen(r.teacher(m)) and equal(weights(r.teacher(m)), before[m]) for m in r.modalities)
    ours = {id(p) for g in r.optimizer.param_groups for p in g["params"]} | {id(p) for p in r.model.parameters()}
    assert not any(id(p) in ours for m in r.modalities for p in r.teacher(m).parameters())
    assert list(r.model.state_dict()) == list(model(norm=True).state_dict())
    for m in r.modalities:
        assert r.teacher(m) is r.teacher(m) and r.teacher(m).modalities == (m,)
        assert r.teacher(m).head.n_classes == r.n_classes


def test_training_teachers_leaves_the_student_and_the_random_state_alone() -> None:
    start, before = weights(model(norm=True)), random_state()
    r = run(Needs(), model(norm=True))
    for m in r.modalities:
        r.teacher(m)
    assert equal(weights(r.model), start) and str(random_state()) == str(before)
    # Teachers that nobody asks anything change nothing.
    assert equal(weights(train(r, 2).model), weights(train(run(m=model(norm=True)), 2).model))


def test_what_a_teacher_costs_is_counted_once() -> None:
    r = run(UMT(), training=Training(epochs=3))
    steps = r.steps_per_epoch
    # Three epochs of one modality each are three of the whole model.
    assert r.cost.forward == pytest.approx(3 * steps) and r.cost.backward == pytest.approx(3 * steps)
    train(r, 1)
    assert r.cost.forward == pytest.approx(3 * steps + 2 * steps) and r.cost.backward == pytest.approx(4 * steps)


def test_given_teachers_are_copied_and_those_missing_are_trained() -> None:
    theirs = MultimodalModel({"a": copy.deepcopy(model().encoders["a"])}, Concat({"a": 5}, 3))
    r = run(UMT(), teachers={"a": theirs})
    assert equal(weights(r.teacher("a")), weights(theirs)) and r.teacher("a") is not theirs
    assert not frozen(theirs) and frozen(r.teacher("a")) and frozen(r.teacher("b"))
    assert list(r.state_dict()["teachers"]["own"]) == ["b"]
    assert equal(weights(r.teacher("b")), weights(run(UMT()).teacher("b")))
    assert r.cost.forward == pytest.approx(4 * r.steps_per_epoch / 2)
    double = run(Needs(), model().double(), teachers={"a": theirs}, train=[_double()])
    assert next(double.teacher("a").parameters()).dtype == torch.float64


def _double() -> Batch:
    return Batch(**data()).map(lambda t: t.double() if t.is_floating_point() else t)


def test_a_teacher_that_does_not_fit_is_refused_in_words() -> None:
    one = MultimodalModel({"a": copy.deepcopy(model().encoders["a"])}, Concat({"a": 5}, 3))
    with pytest.raises(UnknownName, match="no modality 'c'"):
        run(UMT(), teachers={"c": one})
    with pytest.raises(BadValue, match="the teacher of b must be a model of b alone, not of a"):
        run(UMT(), teachers={"b": one})
    with pytest.raises(BadValue, match="knows 4 classes, the model 3"):
        run(UMT(), teachers={"a": MultimodalModel({"a": copy.deepcopy(model().encoders["a"])}, Concat({"a": 5}, 4))})
    wide = MultimodalModel({"a": NormEncoder(4, 9)}, Concat({"a": 9}, 3))
    with pytest.raises(Incompatible, match="those of a have width 5 and its teacher's 9"):
        run(UMT(), teachers={"a": wide})
    with pytest.raises(Incompatible, match="built differently"):
        run(UME(), model(head=Sum, reduce="mean"), teachers={"a": wide})
    with pytest.raises(UnknownName, match="no modality 'c'"):
        run(Needs()).teacher("c")
    with pytest.raises(Incompatible, match="Strategy wants a teacher of a"):
        run().teacher("a")


def test_a_checkpoint_holds_the_teachers_that_the_run_has_trained() -> None:
    straight = train(run(UMT(), model(norm=True)), 4)
    halfway = train(run(UMT(), model(norm=True)), 2)
    state = halfway.state_dict()
    other = model(norm=True)
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1.0)
    resumed = run(UMT(), other, state=state)
    assert all(equal(weights(resumed.teacher(m)), weights(straight.teacher(m))) for m in "ab")
    train(resumed, 2)
    assert equal(weights(resumed.model), weights(straight.model))
    assert vars(resumed.cost) == vars(straight.cost)
    given = {m: straight.teacher(m) for m in "ab"}
    assert run(UMT(), model(norm=True), teachers=given).state_dict()["teachers"]["own"] == {}


def test_a_checkpoint_from_before_there_were_teachers_still_loads() -> None:
    state = train(run(), 1).state_dict()
    del state["teachers"]
    assert run(state=state).epoch == 1


def test_a_fork_has_the_teachers_of_its_run() -> None:
    r = run(UMT())
    cost = r.cost.forward
    child = r.fork(UMT(weight=1.0), epochs=1)
    assert all(child.teacher(m) is r.teacher(m) for m in "ab")
    assert r.cost.forward == pytest.approx(cost + 2 * r.steps_per_epoch)
    with pytest.raises(Incompatible, match="a fork has the teachers of its run only"):
        run().fork(UMT())


def test_the_outputs_of_a_teacher_are_those_of_evaluation() -> None:
    g = torch.Generator().manual_seed(0)
    present = torch.rand(40, 2, generator=g) < 0.7
    present[:, 0] |= ~present.any(1)
    r = run(Needs(), model(norm=True), train=loader(present=present), training=Training(epochs=2, micro_batch=3))
    batch = next(iter(r.train()))
    teacher = r.teacher("b")
    assert batch.present is not None and not batch.present[:, 1].all()
    before = weights(teacher)
    expected = teacher({"b": batch.inputs["b"]}, batch.present[:, 1:])
    cost = r.cost.forward
    out = r.teacher_outputs("b", batch)
    torch.testing.assert_close(out.logits, expected.logits.detach())
    torch.testing.assert_close(out.features["b"], expected.features["b"].detach())
    assert bool((out.features["b"][~batch.present[:, 1]] == 0).all()) and not out.logits.requires_grad
    assert equal(weights(teacher), before) and r.cost.forward == cost + 0.5
    assert torch.equal(out.logits, r.teacher_outputs("b", batch).logits)


def test_a_pass_over_some_modalities_asks_their_teachers_only() -> None:
    class OnlyB(Strategy):
        def plan(self, step: Step, passes: Any) -> Any:
            return [Pass(present=frozenset({"b"}))]

    r = run(Chain(OnlyB(), UMT()))
    cost = r.cost.forward
    train(r, 1)
    assert r.cost.forward == pytest.approx(cost + 2 * r.steps_per_epoch / 2)


def test_micro_batches_change_no_number_of_umt() -> None:
    whole, pieces = (train(linear_run(UMT(), training=training(micro_batch=size)), 2) for size in (None, 3))
    for name, value in weights(whole.model).items():
        torch.testing.assert_close(value, weights(pieces.model)[name], rtol=0, atol=1e-12)


def test_a_teacher_that_diverges_is_named() -> None:
    with pytest.raises(Diverged, match=r"the teacher of a, epoch \d+: loss/task is (nan|inf)"):
        linear_run(UMT(), training=training(lr=1e9, epochs=40, momentum=1e9))


def test_a_teacher_has_the_runs_optimizer_and_criterion() -> None:
    made: list[int] = []

    def optimizer(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        made.append(len(groups))
        return torch.optim.Adam(groups, lr=0.01)

    seen: list[int] = []

    def criterion(logits: Tensor, target: Tensor) -> Tensor:
        seen.append(len(target))
        return F.cross_entropy(logits, target, label_smoothing=0.1)

    r = run(UMT(), optimizer=optimizer, criterion=criterion, training=Training(epochs=1))
    assert made == [2, 2, 5] and sum(seen) == 80
    assert not equal(weights(r.teacher("a")), weights(run(UMT(), training=Training(epochs=1)).teacher("a")))


# ---------------------------------------------------------------------- UME
def ume_run(average: Any = "probs", **options: Any) -> Run:
    return linear_run(UME(average=average), head=Mean, **options)


@pytest.mark.parametrize("average", ["probs", "logits"])
@pytest.mark.parametrize("head", [Concat, Sum, Alone, Shared])
def test_the_model_of_ume_is_the_ensemble(average: Any, head: Any) -> None:
    teachers = given_teachers(head)
    r = ume_run(average, teachers=teachers)
    batch = batches()[0]
    own = {m: teachers[m]({m: batch.inputs[m]}).logits.detach() for m in MODALITIES}
    rows = predict(r.model, r.strategy, [batch])
    for m in MODALITIES:
        torch.testing.assert_close(rows.unimodal[m], own[m], rtol=0, atol=1e-12)
    if average == "probs":
        torch.testing.assert_close(rows.scores, torch.stack([z.softmax(-1) for z in own.values()]).mean(0))
        nll = F.nll_loss(rows.scores.log(), batch.target)
        assert evaluate(r.model, r.strategy, [batch])["loss"] == pytest.approx(float(nll))
    else:
        torch.testing.assert_close(rows.logits, sum(own.values()) / 3)
        torch.testing.assert_close(r.model(batch.inputs).logits.detach(), rows.logits)


def test_ume_lets_an_item_be_decided_by_what_it_has() -> None:
    r = ume_run(teachers=given_teachers())
    batch = batches(present=True)[0]
    rows = predict(r.model, r.strategy, [batch])
    assert batch.present is not None
    for i, there in enumerate(batch.present):
        if not bool(there.any()):
            continue
        some = [m for m, here in zip(MODALITIES, there) if here]
        one = {m: batch.inputs[m][i : i + 1] for m in some}
        p = [r.teacher(m)({m: one[m]}).logits.softmax(-1) for m in some]
        torch.testing.assert_close(rows.scores[i], torch.stack(p).mean(0)[0])
        # The same where the other modalities are not even fed.
        fed = r.model.outputs(r.model.encode(one, Pass(present=frozenset(some))), None)
        torch.testing.assert_close(r.strategy.predict(fed).scores[0], rows.scores[i])


def test_ume_trains_nothing_of_its_own() -> None:
    r = ume_run(teachers=given_teachers())
    before = weights(r.model)
    assert r.stopped and vars(r.cost) == {"forward": 0.0, "backward": 0.0}
    records: list[Any] = []
    chosen = fit(r, lambda: iter(batches()), on_epoch=lambda record, selection: records.append(record))
    assert records == [] and r.epoch == 0 and chosen.epoch == -1 and equal(chosen.weights, before)
    assert chosen.score == evaluate(r.model, r.strategy, batches())["acc"]
    train(r, 2)  # a loop of one's own that does not ask whether the run has been stopped
    assert equal(weights(r.model), before) and vars(r.cost) == {"forward": 0.0, "backward": 0.0}


def test_fit_scores_a_run_that_was_stopped_before_it_began_once() -> None:
    class Stops(Strategy):
        def setup(self, run: Run) -> None:
            run.stop()

    stopped = run(Stops())
    assert fit(stopped, lambda: loader().batches()).epoch == -1 and stopped.epoch == 0
    assert fit(run(), lambda: loader().batches()).epoch >= 0


def test_batch_statistics_come_with_the_encoder() -> None:
    r = run(UME(), model(norm=True, head=Sum, reduce="mean"))
    for m in r.modalities:
        assert equal(weights(r.model.encoders[m]), weights(r.teacher(m).encoders[m]))
        assert float(r.model.encoders[m].net[1].running_mean.abs().sum()) > 0


@pytest.mark.parametrize("head", [Concat, partial(Weight, level="logit"), partial(Weight, level="gate")])
def test_ume_refuses_a_head_that_cannot_hold_the_classifiers(head: Any) -> None:
    with pytest.raises(Incompatible, match=r"UME needs a head with a linear classifier of its own.*ume@sum"):
        run(UME(), model(head=head))


def test_ume_refuses_one_classifier_for_all() -> None:
    with pytest.raises(Incompatible, match="Shared has none for a"):
        run(UME(), model(head=Shared))


def test_ume_refuses_a_teacher_without_a_linear_classifier() -> None:
    encoder = copy.deepcopy(model().encoders["a"])
    odd = MultimodalModel({"a": encoder}, Weight({"a": 5}, 3))
    with pytest.raises(Incompatible, match="the teacher of a has none"):
        run(UME(), model(head=Sum, reduce="mean"), teachers={"a": odd})


def test_ume_stands_alone() -> None:
    for build in (lambda: Chain(UME(), OGM()), lambda: Chain(JointUnimodal(), UME())):
        with pytest.raises(Incompatible, match="UME is the whole of a method and cannot be combined"):
            build()
    with pytest.raises(Incompatible, match="UME is the whole of a method: it has no window"):
        Window(UME(), 0, 2)
    with pytest.raises(Incompatible, match="no window"):
        Window(Chain(UME()), 0, 2)
    assert Chain(UME()).solo and not Chain(OGM(), UMT()).solo


# ---------------------------------------------------------------------- classifiers of heads
@pytest.mark.parametrize("head", [Concat, Sum, Mean, Shared])
@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_the_classifier_of_a_head_gives_its_own_logits(head: Any, modalities: int) -> None:
    dims = dict.fromkeys(MODALITIES[:modalities], 4)
    built = head(dims, C).double()
    z = {m: drawn(i, 6, 4) for i, m in enumerate(dims)}
    for m, own in built(z).unimodal.items():
        weight, bias = built.classifier(m)
        assert weight.shape == (C, 4) and bias.shape == (C,)
        torch.testing.assert_close(F.linear(z[m], weight, bias), own)
    if modalities == 1:  # with one modality it is the joint classifier too
        torch.testing.assert_close(built(z).logits, F.linear(z["a"], *built.classifier("a")))


def test_a_head_whose_logits_are_not_linear_has_no_classifier() -> None:
    assert all(Weight({"a": 3, "b": 3}, 2, level=level).classifier("a") is None for level in ("logit", "gate"))
    assert FusionHead({"a": 2}, 2).classifier("a") is None


def test_a_classifier_that_is_not_what_split_uses_is_caught() -> None:
    class Halved(Sum):
        def classifier(self, modality: str) -> tuple[Tensor, Tensor]:
            weight, bias = super().classifier(modality)
            return weight, bias / 2

    (result,) = check_head(Halved, only=["check_head_unimodal"], raise_failures=False)
    assert result.status == "failed" and "W and b of `classifier`" in result.reason


def test_predict_of_ume_replaces_the_logits_only() -> None:
    own = {m: drawn(i, 3, C) for i, m in enumerate(MODALITIES)}
    out = Outputs(torch.zeros(3, C), {}, own)
    said = UME().predict(out)
    assert said.unimodal is own and said.ranking is None
    torch.testing.assert_close(said.scores, torch.stack([z.softmax(-1) for z in own.values()]).mean(0))


class AsksLate(Strategy):
    """Asks for a teacher in its second epoch only."""

    requires = frozenset({"teachers"})

    def epoch_start(self, run: Run) -> None:
        if run.epoch == 1:
            run.teacher("a")


def test_a_teacher_made_after_a_checkpoint_is_that_of_the_run_that_went_on() -> None:
    straight, first = train(run(AsksLate()), 2), train(run(AsksLate()), 1)
    second = train(run(AsksLate(), first.model, state=first.state_dict()), 1)
    assert equal(weights(straight.teacher("a")), weights(second.teacher("a")))


def test_a_run_begun_with_given_teachers_wants_them_again() -> None:
    given = {m: run(UMT()).teacher(m) for m in "ab"}
    state = run(UMT(), teachers=given).state_dict()
    with pytest.raises(BadValue, match=r"teachers of a, b .* give the same again"):
        run(UMT(), state=state)
    run(UMT(), teachers=given, state=state)

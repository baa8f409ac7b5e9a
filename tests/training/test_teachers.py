"""The teachers that a run trains or is given."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import NormEncoder, data, equal, loader, model, run, train, weights
from helpers.taught_runs import Needs, linear_run, training
from torch import Tensor

from mmzoo.api import Batch, Chain, MultimodalModel, Run, Step, Strategy, Training
from mmzoo.core.values import Pass
from mmzoo.errors import BadValue, Diverged, Incompatible, UnknownName
from mmzoo.heads.concat import Concat
from mmzoo.heads.sum import Sum
from mmzoo.strategies.ume import UME
from mmzoo.strategies.umt import UMT
from mmzoo.testing.harness.observing import random_state


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
    with pytest.raises(BadValue, match="the teacher of b must be a unimodal model of b, not of a"):
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

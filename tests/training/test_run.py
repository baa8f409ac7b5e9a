"""The run: resume, micro-batches, schedules, forks, passes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from helpers import equal, loader, model, run, train, weights
from helpers.resumed_runs import through_disk
from torch import Tensor

from mmzoo.api import (
    Batch,
    Chain,
    Incompatible,
    Outputs,
    Pass,
    Run,
    Step,
    Strategy,
    Terms,
    Training,
)
from mmzoo.heads.sum import Sum
from mmzoo.strategies.dynamic_gap import DynamicGap
from mmzoo.strategies.ogm import OGM
from mmzoo.strategies.pmr import PMR


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine", "plateau"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_resume_is_bitwise_under_every_optimizer_and_schedule(optimizer: str, schedule: str) -> None:
    training = Training(
        optimizer=optimizer, lr=0.02, schedule=schedule, step_size=1, patience=0, epochs=4, warmup_epochs=1
    )

    def fresh(state: Any = None) -> Run:
        return run(Chain(OGM(noise=True), PMR()), model(norm=True), training=training, state=state)

    straight = fresh()
    halfway = fresh()
    for epoch in range(4):
        train_one(straight, loss=1.0 + epoch)
        if epoch < 2:
            train_one(halfway, loss=1.0 + epoch)
    resumed = fresh(through_disk(halfway.state_dict()))
    for epoch in (2, 3):
        train_one(resumed, loss=1.0 + epoch)
    assert equal(weights(straight.model), weights(resumed.model))
    assert straight.optimizer.param_groups[0]["lr"] == resumed.optimizer.param_groups[0]["lr"]
    assert straight.cost == resumed.cost


def train_one(r: Run, loss: float | None = None) -> None:
    r.train_epoch()
    r.end_epoch(loss)


@pytest.mark.parametrize("strategy", [Strategy, OGM, PMR, DynamicGap, lambda: Chain(OGM(noise=True), PMR())])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_micro_batches_are_the_mathematics_of_the_whole_batch(strategy: Any, size: int) -> None:
    def after(micro: int | None) -> dict[str, Tensor]:
        m = model().double()
        batches = Training(lr=0.05, epochs=2, micro_batch=micro)
        return weights(train(run(strategy(), m, train=double(loader()), training=batches), 2).model)

    whole, pieces = after(None), after(size)
    for name, value in whole.items():
        assert torch.allclose(value, pieces[name], rtol=0, atol=1e-12), name


def double(source: Any) -> list[Batch]:
    return [b.map(lambda t: t.double() if t.is_floating_point() else t) for b in source.batches()]


def test_micro_batches_move_batch_statistics_once_a_piece_and_replay_dropout() -> None:
    one = run(m=model(norm=True), training=Training(lr=0.05, epochs=1, micro_batch=4))
    train(one, 1)
    # 40 items in batches of 8 are 10 pieces of 4: each piece is seen once, although it is encoded twice.
    assert int(one.model.encoders["a"].net[1].num_batches_tracked) == 10
    again = train(run(m=model(norm=True), training=Training(lr=0.05, epochs=1, micro_batch=4)), 1)
    assert equal(weights(one.model), weights(again.model))


def test_term_gradients_add_up_to_the_gradient_of_the_sum() -> None:
    class Owner(Strategy):
        owns = frozenset({"backward"})
        error, compared = 0.0, 0

        def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
            return {**terms, "own/a": out.unimodal["a"].square().mean()}

        def backward(self, step: Step, terms: Terms) -> None:
            parts = step.run.term_grads(terms)
            step.run.backward(sum(terms.values()))
            for group, params in step.run.model.groups().items():
                for i, p in enumerate(params):
                    total = sum(g[group][i] for g in parts.values() if g[group][i] is not None)
                    self.error = max(self.error, float((p.grad - total).abs().max()))
                    self.compared += 1

    for micro in (None, 3):
        owner = Owner()
        train(run(owner, training=Training(epochs=1, micro_batch=micro)), 1)
        assert owner.compared > 0 and owner.error < 1e-6


def test_warm_up_and_cosine_reach_the_stated_rates() -> None:
    r = run(training=Training(lr=0.1, epochs=4, schedule="cosine", warmup_epochs=1))
    seen = []
    for _ in range(4):
        r.start_epoch()
        for batch in r.epoch_batches():
            r.step(batch)
            seen.append(r.optimizer.param_groups[0]["lr"])
        r.end_epoch()
    assert seen[0] == pytest.approx(0.1 / 5)
    assert seen[4] == pytest.approx(0.1)
    assert seen[10] == pytest.approx(0.05)  # cosine, half way


def test_plateau_divides_after_the_patience() -> None:
    r = run(training=Training(lr=0.1, epochs=9, schedule="plateau", patience=1))
    rates = []
    for loss in (1.0, 0.9, 0.9, 0.9, 0.9):
        train_one(r, loss)
        rates.append(r._optimization.schedule.factor(r.global_step))
    assert rates == pytest.approx([1.0, 1.0, 1.0, 0.1, 0.1])


def test_gradient_clipping_bounds_the_norm() -> None:
    class Loud(Strategy):
        norm = 0.0

        def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
            return {**terms, "loud/x": 1e3 * out.logits.square().mean()}

        def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
            total = sum(p.grad.square().sum() for p in step.run.model.parameters())
            self.norm = max(self.norm, float(total.sqrt()))

    strategy = Loud()
    train(run(strategy, training=Training(lr=1e-5, epochs=1, clip=0.5)), 1)
    assert strategy.norm == pytest.approx(0.5, rel=1e-4)


def test_fork_leaves_its_parent_alone_and_its_cost_is_counted() -> None:
    r = train(run(OGM(noise=True), model(norm=True)), 1)
    before, state, cost = weights(r.model), copy.deepcopy(r.optimizer.state_dict()), r.cost.forward
    rng = torch.get_rng_state()
    child = r.fork(epochs=2)
    assert equal(before, weights(r.model)) and torch.equal(rng, torch.get_rng_state())
    assert str(state) == str(r.optimizer.state_dict())
    assert not equal(before, weights(child.model))
    assert r.cost.forward == cost + 2 * r.steps_per_epoch
    with pytest.raises(Incompatible, match="cannot fork again"):
        child.fork()


def test_a_raw_forward_leaves_statistics_mode_and_random_state_alone() -> None:
    r = run(m=model(norm=True))
    batch = next(iter(loader().batches()))
    r.model.train()
    before, rng = weights(r.model), torch.get_rng_state()
    loss = r.forward(batch, mode="train").logits.square().sum()
    assert equal(before, weights(r.model)) and torch.equal(rng, torch.get_rng_state()) and r.model.training
    loss.backward()  # the graph survives the restored buffers
    zeroed = r.forward(batch, zero=["a"], mode="eval")
    by_hand = Batch({**batch.inputs, "a": torch.zeros_like(batch.inputs["a"])}, batch.target, batch.index)
    only = r.forward(by_hand, mode="eval")
    assert torch.equal(zeroed.logits, only.logits)
    fed = r.forward(batch, present=["b"], mode="eval")
    assert list(fed.features) == ["b"]


class Alternating(Strategy):
    """One pass a modality, as data."""

    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        return [Pass(m, present=frozenset({m})) for m in step.run.modalities]


def test_alternating_passes_step_each_encoder_once_a_batch() -> None:
    r = run(Alternating(), model(head=Sum), training=Training(optimizer="adam", lr=1e-3, epochs=1))
    train(r, 1)
    for p in r.model.parameters():
        assert int(r.optimizer.state[p]["step"]) == r.steps_per_epoch
    # Two passes with half of the modalities each are one forward and one backward.
    assert r.cost.forward == r.cost.backward == r.steps_per_epoch


@pytest.mark.parametrize("how", ["update", "freeze"])
def test_a_restricted_pass_moves_nothing_else(how: str) -> None:
    class Only(Strategy):
        def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
            if step.run.epoch == 0:
                return passes  # fill the momentum buffers of both
            return [Pass(update=frozenset({"b"})) if how == "update" else Pass(freeze=frozenset({"a"}))]

    r = train(run(Only(), model(norm=True)), 1)
    before = weights(r.model)
    train(r, 1)
    after = weights(r.model)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for name, value in before.items():
        own = name.startswith("encoders.a.") or name == "head.weight.a"
        if own and (how == "freeze" or not name.endswith(statistics)):
            assert torch.equal(value, after[name]), name
        elif name.startswith("encoders.b."):
            assert not torch.equal(value, after[name]), name
    assert r.model.encoders["a"].training

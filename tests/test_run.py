"""The run: resume, micro-batches, forks, schedules, the verbs of hooks, and a loop of one's own."""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from helpers import NormEncoder, data, equal, loader, model, run, train, weights
from torch import Tensor, nn

from mmzoo.api import (
    BadValue,
    Batch,
    Chain,
    Encoder,
    Group,
    Incompatible,
    Loader,
    MultimodalModel,
    Outputs,
    Pass,
    Run,
    Step,
    Strategy,
    Terms,
    Training,
    Window,
)
from mmzoo.errors import UnknownName
from mmzoo.heads.sum import Sum
from mmzoo.strategies.dynamic_gap import DynamicGap
from mmzoo.strategies.ogm import OGM
from mmzoo.strategies.pmr import PMR
from mmzoo.training.loop import Selection, fit


def through_disk(state: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


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


def test_growing_modules_join_the_optimizer_and_resume_in_order() -> None:
    class Growing(Strategy):
        state = ("n",)

        def __init__(self) -> None:
            self.n = 0

        def setup(self, run: Run) -> None:
            for i in range(self.n):
                run.add_module(f"grown{i}", lambda: nn.Linear(5, 3))

        def epoch_start(self, run: Run) -> None:
            run.add_module(f"grown{self.n}", lambda: nn.Linear(5, 3))
            self.n += 1

        def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
            extra = step.run.model.extra
            own = {f"grow/{k}": m(out.features["a"]).square().mean() for k, m in extra.items()}
            return {**terms, **own}

    straight = train(run(Growing()), 4)
    half = train(run(Growing()), 2)
    resumed = train(run(Growing(), state=through_disk(half.state_dict())), 2)
    assert list(straight.model.extra) == ["grown0", "grown1", "grown2", "grown3"]
    assert equal(weights(straight.model), weights(resumed.model))
    start = {k: v for k, v in weights(run(Growing()).model).items()}
    assert all(not k.startswith("extra") for k in start)


def test_the_chosen_epoch_comes_back_without_what_grew_since() -> None:
    class Growing(Strategy):
        def setup(self, run: Run) -> None:
            run.add_module("early", lambda: nn.Linear(5, 3))
            run.add_module("bare", nn.Identity)

        def epoch_start(self, run: Run) -> None:
            run.add_module(f"grown{run.epoch}", lambda: nn.Linear(5, 3))

    selection, r = Selection(), run(Growing())
    r.train_epoch()
    selection.offer(0, 1.0, 0.0, r)
    then = weights(r.model)
    r.end_epoch()
    train(r, 2)
    assert list(r.model.extra) == ["early", "bare", "grown0", "grown1", "grown2"]
    selection.restore(r)
    assert list(r.model.extra) == ["early", "bare", "grown0"]
    assert equal(then, weights(r.model))


def test_edits_snapshots_and_rates() -> None:
    r = train(run(m=model(norm=True)), 1)
    shot = r.snapshot("encoder:a")
    assert any(k.endswith("running_mean") for k in shot)
    train(r, 1)
    r.restore("encoder:a", shot)
    assert equal(shot, r.snapshot("encoder:a"))
    r.edit("head:a", lambda name, value: value * 0)
    assert int(r.model.head.weight["a"].count_nonzero()) == 0
    r.set_lr_scale("encoder:b", 0.0)
    r.set_lr_scale("head:shared", 0.5)
    before = weights(r.model)
    train(r, 1)
    assert torch.equal(before["encoders.b.net.0.weight"], weights(r.model)["encoders.b.net.0.weight"])
    with pytest.raises(UnknownName, match="encoder:a"):
        r.set_lr_scale("encoder:aa", 1.0)
    r.reset_optimizer(["encoder:a"])
    assert not any(p in r.optimizer.state for p in r.model.encoders["a"].parameters())


def test_sampling_changes_what_is_seen_and_is_resumed() -> None:
    class Doubling(Strategy):
        owns = frozenset({"data"})

        def epoch_start(self, run: Run) -> None:
            if run.epoch == 0:
                drop = torch.zeros(80, 2, dtype=torch.bool)
                drop[40:, 0] = True
                run.set_sampling(torch.arange(80) % 40, drop)

    def steps(r: Run) -> int:
        return sum(1 for _ in r.epoch_batches())

    r = train(run(Doubling()), 2)
    assert steps(r) == 10
    half = train(run(Doubling()), 1)
    resumed = train(run(Doubling(), state=through_disk(half.state_dict())), 1)
    assert equal(weights(r.model), weights(resumed.model))


def test_training_items_in_stored_order_are_the_rows_of_set_sampling() -> None:
    items = data()
    r = run(train=Loader(**{**items, "index": torch.arange(40).flip(0) * 3}, batch_size=8))
    stored = torch.cat([b.target for b in r.train(shuffled=False)])
    assert torch.equal(stored, items["target"])
    drawn = torch.cat([b.index for b in r.train("mine")])
    assert not torch.equal(drawn, torch.cat([b.index for b in r.train(shuffled=False)]))
    chosen = torch.tensor([7, 3, 3, 39])
    r.set_sampling(chosen)
    seen = torch.cat([b.index for b in r.epoch_batches()])
    assert seen.sort().values.tolist() == sorted((3 * (39 - chosen)).tolist())
    assert torch.equal(stored, torch.cat([b.target for b in r.train(shuffled=False)]))


def test_param_groups_must_keep_every_group() -> None:
    class Dropping(Strategy):
        def param_groups(self, groups: Any) -> Any:
            return {k: v for k, v in groups.items() if k != "head:shared"}

    class Slow(Strategy):
        def param_groups(self, groups: Any) -> Any:
            return {**groups, "encoder:a": Group(groups["encoder:a"].params, lr_scale=0.0, weight_decay=0.0)}

    with pytest.raises(BadValue, match="head:shared"):
        run(Dropping())
    r = run(Slow())
    before = weights(r.model)
    train(r, 1)
    assert torch.equal(before["encoders.a.project.weight"], weights(r.model)["encoders.a.project.weight"])


def test_a_strategy_that_asks_for_what_is_not_there_is_refused() -> None:
    with pytest.raises(Incompatible, match="at least 2 modalities"):
        run(OGM(), model({"a": 4}), train=loader(widths={"a": 4}))
    with pytest.raises(Incompatible, match="slice"):
        run(DynamicGap(schedule="learned"))


def test_a_loop_of_ones_own() -> None:
    """The use that the README shows: the same pass inside a researcher's loop, with their own model and optimizer."""
    torch.manual_seed(0)
    encoders = {"audio": NormEncoder(4), "video": NormEncoder(3)}
    net = MultimodalModel(encoders, Sum({"audio": 5, "video": 5}, 3))
    d = data(n=120, widths={"audio": 4, "video": 3})
    whole = Batch(**d)
    batches = [whole.map(lambda t, i=i: t[i : i + 20]) for i in range(0, 120, 20)]
    r = Run(net, OGM(alpha=0.3), train=batches, optimizer=lambda groups: torch.optim.RMSprop(groups, lr=1e-2))

    def loss() -> float:
        net.eval()
        with torch.no_grad():
            return float(sum(nn.functional.cross_entropy(net(b.inputs).logits, b.target) for b in batches))

    before = loss()
    for _ in range(5):
        r.start_epoch()
        for batch in batches:
            r.step(batch)
        logged = r.end_epoch()
    assert loss() < before / 2
    assert set(logged) >= {"loss/task", "ogm/audio", "ogm/video"}
    assert isinstance(r.optimizer, torch.optim.RMSprop)


def test_streams_do_not_depend_on_each_other() -> None:
    def order(r: Run) -> list[int]:
        return [int(i) for b in r.epoch_batches() for i in b.index]

    plain, busy = run(), run(PMR())
    assert order(plain) == order(busy)
    assert order(plain) != order(run(seed=1))
    assert [b.index.tolist() for b in plain.train("x")] != [b.index.tolist() for b in plain.train("y")]


def test_keep_leaves_items_out_of_the_loss_and_an_empty_keep_skips_the_pass() -> None:
    class Half(Strategy):
        none = False

        def features(self, step: Step, feats: Any) -> Any:
            step.keep = (step.batch.index % 2 == 0) & (not self.none)
            return feats

    half, skipping = Half(), Half()
    skipping.none = True
    kept = [b for b in loader().batches()]
    r = train(run(half, train=kept), 1)
    alone = [
        Batch(
            {m: x[b.index % 2 == 0] for m, x in b.inputs.items()}, b.target[b.index % 2 == 0], b.index[b.index % 2 == 0]
        )
        for b in kept
    ]
    expected = train(run(train=alone), 1)
    for k, v in weights(r.model).items():
        assert torch.allclose(v, weights(expected.model)[k], atol=1e-6), k
    still = run(skipping, train=kept)
    before = weights(still.model)
    assert equal(before, weights(train(still, 1).model))


def test_the_slice_is_drawn_in_an_order_of_its_own() -> None:
    """Data sorted by class would otherwise give first batches of one class."""
    ordered = loader(n=40)
    r = run(DynamicGap(schedule="learned"), slice=ordered, training=Training(epochs=3))
    first = [b.index.tolist() for b in r.meta_batches("x")]
    assert sorted(i for batch in first for i in batch) == list(range(40)) and first[0] != list(range(8))
    assert first == [b.index.tolist() for b in r.meta_batches("x")]
    r.epoch = 1
    assert first != [b.index.tolist() for b in r.meta_batches("x")]


def test_a_remainder_of_one_item_joins_the_piece_before_it() -> None:
    source = loader(n=9, batch_size=9)
    train(run(m=model(norm=True), train=source, training=Training(epochs=1, micro_batch=4)), 1)


def test_warnings_are_counted_and_resumed() -> None:
    r = run()
    r.warn("odd"), r.warn("odd")
    assert run(state=through_disk(r.state_dict())).warnings == {"odd": 2}


def test_a_generator_of_batches_is_refused_with_the_next_step() -> None:
    with pytest.raises(BadValue, match="a list of batches or a loader"):
        run(train=(b for b in loader().batches()))


def test_the_released_form_keeps_its_factor_without_matching() -> None:
    logged = {}
    for form in ("paper", "released"):
        r = run(DynamicGap(schedule="constant", alpha=0.0, form=form))
        r.train_epoch()
        logged[form] = r._logged["loss/task"][0]
    assert float(logged["released"]) == pytest.approx(2 * float(logged["paper"]))


def test_the_tangent_refuses_what_it_does_not_follow() -> None:
    strategy = DynamicGap(schedule="learned", solver="tangent", upper="train")
    with pytest.raises(Incompatible, match="as they are taken: leave out"):
        run(strategy, training=Training(epochs=1, clip=1.0))


@pytest.mark.parametrize("solver", ["gauss_newton", "hessian", "neumann", "identity", "tangent"])
def test_every_solver_moves_alpha_and_resumes_bit_for_bit(solver: str) -> None:
    def fresh(state: Any = None) -> Run:
        strategy = DynamicGap(schedule="learned", solver=solver, iterations=30, damping=0.1)
        return run(strategy, model(norm=True), slice=loader(n=16, seed=1), state=state)

    straight = train(fresh(), 4)
    resumed = train(fresh(through_disk(train(fresh(), 2).state_dict())), 2)
    assert straight.strategy.current != 0.5 and straight.strategy.current == resumed.strategy.current
    assert equal(weights(straight.model), weights(resumed.model))


def test_an_optimizer_of_ones_own_keeps_its_rate_and_weight_decay() -> None:
    r = run(optimizer=lambda groups: torch.optim.SGD(groups, lr=0.5, weight_decay=0.3))
    assert {(g["lr"], g["weight_decay"]) for g in r.optimizer.param_groups} == {(0.5, 0.3)}
    r.add_module("late", lambda: nn.Linear(2, 2))
    assert r.optimizer.param_groups[-1]["lr"] == 0.5


def test_the_order_of_modalities_must_be_the_models_where_some_are_absent() -> None:
    r = run()
    batch = next(iter(loader(present=torch.ones(40, 2, dtype=torch.bool)).batches()))
    swapped = Batch(dict(reversed(batch.inputs.items())), batch.target, batch.index, batch.present)
    with pytest.raises(BadValue, match="order must be the same"):
        r.step(swapped)


def test_one_item_with_a_modality_does_not_break_batch_statistics() -> None:
    present = torch.ones(40, 2, dtype=torch.bool)
    present[1:8, 0] = False
    train(run(OGM(), model(norm=True), train=loader(present=present)), 1)


def test_the_tangent_watches_only_while_its_window_is_open() -> None:
    inner = DynamicGap(schedule="learned", solver="tangent", upper="train")
    r = run(Window(inner, 0, 0), model(norm=True))
    train(r, 3)
    assert inner.learner.tangent is not None and not inner.learner.tangent._state.records


def test_encoders_without_parameters_can_be_trained_on() -> None:
    class Fixed(Encoder):
        out_dim = 4

        def forward(self, x: Tensor) -> Tensor:
            return x

    encoders = {"a": Fixed(), "b": Fixed()}
    m = MultimodalModel(encoders, Sum({"a": 4, "b": 4}, 3))
    train(run(OGM(noise=True), m, train=loader(widths={"a": 4, "b": 4})), 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_noise_is_drawn_where_the_weights_are_and_replayed_there() -> None:
    def after() -> dict[str, torch.Tensor]:
        m = model(norm=True)
        r = Run(m, OGM(noise=True), train=loader(), training=Training(), seed=1, device="cuda")
        for batch in r.epoch_batches():
            r.step(batch)
        return {n: t.cpu() for n, t in m.state_dict().items()}

    first, second = after(), after()
    assert all(torch.equal(first[n], second[n]) for n in first)


class Zeroes(Strategy):
    """Puts other weights in place at the end of its last epoch, and may stop there."""

    def __init__(self, last: int, stops: bool) -> None:
        self.last, self.stops = last, stops

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        if run.epoch == self.last:
            run.edit("head:shared", lambda name, value: value * 0.5)
            if self.stops:
                run.stop()


@pytest.mark.parametrize("stops", [False, True])
def test_what_the_last_epoch_put_in_place_is_offered_before_the_checkpoint(stops: bool) -> None:
    seen: list[int] = []
    saved: dict[str, Any] = {}

    def keep(record: dict[str, Any], chosen: Selection) -> None:
        saved.update(run=copy.deepcopy(r.state_dict()), selection=copy.deepcopy(vars(chosen)), seen=list(seen))

    epochs = 4 if stops else 3
    r = run(Zeroes(2, stops), training=Training(lr=0.01, epochs=epochs))
    straight = fit(r, lambda: loader(seed=3).batches(), on_epoch=keep, on_candidate=seen.append)
    assert seen == saved["seen"] == [0, 1, 2, 2]
    again = run(Zeroes(2, stops), training=Training(lr=0.01, epochs=epochs), state=saved["run"])
    resumed = fit(again, lambda: loader(seed=3).batches(), selection=Selection(**saved["selection"]))
    assert (resumed.epoch, resumed.score, resumed.loss) == (straight.epoch, straight.score, straight.loss)
    assert equal(resumed.weights, straight.weights)

"""Modules that grow, edits, snapshots, sampling and parameter groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import data, equal, loader, model, run, train, weights
from helpers.resumed_runs import through_disk
from torch import nn

from mmzoo.api import (
    BadValue,
    Group,
    Incompatible,
    Loader,
    Outputs,
    Run,
    Step,
    Strategy,
    Terms,
)
from mmzoo.errors import UnknownName
from mmzoo.strategies.dynamic_gap import DynamicGap
from mmzoo.strategies.ogm import OGM
from mmzoo.training.loop import Selection


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

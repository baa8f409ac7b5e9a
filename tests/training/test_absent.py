"""Items that lack what a model is fed: they teach nothing and choose nothing, and are scored all the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import data, loader, model, run, train, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmzoo.api import Batch, Loader, Run, Step, Strategy, Training
from mmzoo.benchmark.execution import building
from mmzoo.benchmark.results.store import Store
from mmzoo.core.values import Pass
from mmzoo.data.datasets import mfeat
from mmzoo.evaluation.predictions import Fitted, predict
from mmzoo.evaluation.scores import branch_scores, evaluate
from mmzoo.strategies.mslr import MSLR
from mmzoo.training.teachers import OneModality

Command = Callable[..., Any]
quick = settings(max_examples=50, derandomize=True, database=None, deadline=None)
ROWS = torch.arange(1, 40, 2)
TRAINING = Training(lr=0.05, epochs=3, weight_decay=0.01)


def loaders() -> tuple[Loader, Loader]:
    """All items, of which every other one lacks `a` and is of one class; and those that have it."""
    given = data()
    given["target"][::2] = 2
    present = torch.ones(40, 2, dtype=torch.bool)
    present[::2, 0] = False
    some = {k: {m: x[ROWS] for m, x in v.items()} if k == "inputs" else v[ROWS] for k, v in given.items()}
    return Loader(**given, present=present, batch_size=40), Loader(**some, batch_size=40)


class FeedsA(Strategy):
    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        return [replace(p, present=frozenset("a")) for p in passes]


class Needs(Strategy):
    requires = frozenset({"teachers"})


def alone(loader: Loader) -> Mapping[str, Tensor]:
    return weights(train(run(m=model({"a": 4}), train=OneModality(loader, "a", 0), training=TRAINING), 3).model)


def one_pass(loader: Loader) -> Mapping[str, Tensor]:
    return weights(train(run(FeedsA(), train=loader, training=TRAINING), 3).model)


def teacher(loader: Loader) -> Mapping[str, Tensor]:
    return weights(run(Needs(), train=loader, training=TRAINING).teacher("a"))


@pytest.mark.parametrize("how", [alone, one_pass, teacher])
def test_items_without_what_is_fed_teach_nothing(how: Callable[[Loader], Mapping[str, Tensor]]) -> None:
    every, some = (how(loader) for loader in loaders())
    for name, expected in some.items():
        torch.testing.assert_close(every[name], expected, rtol=1e-5, atol=1e-6)


def test_a_batch_without_any_such_item_is_no_step() -> None:
    given = data(n=8)
    none = Loader(**given, present=torch.tensor([[False, True]]).expand(8, 2), batch_size=8)
    r = run(FeedsA(), train=none)
    before = weights(r.model)
    r.start_epoch()
    r.step(next(none.batches()))
    assert all(torch.equal(before[n], t) for n, t in weights(r.model).items())


def test_what_a_pass_keeps_at_first() -> None:
    every, some = loaders()
    r, batch = run(train=every), next(every.batches())
    assert Step(r, batch).at(Pass()).keep is None  # every item has something
    kept = Step(r, batch).at(Pass(present=frozenset("a"))).keep
    assert kept is not None and kept.nonzero().squeeze(1).tolist() == ROWS.tolist()
    assert Step(r, next(some.batches())).at(Pass(present=frozenset("a"))).keep is None


@quick
@given(st.integers(0, 10_000), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_what_is_said_of_some_items_is_said_of_those_alone(seed: int, kept: float, there: float) -> None:
    """Loss, mean and scores of a step with absent items are those of a batch of the others."""
    g = torch.Generator().manual_seed(seed)
    whole = next(iter(loader(batch_size=12, n=12, seed=seed, present=torch.rand(12, 2, generator=g) < there).batches()))
    keep, logits = torch.rand(12, generator=g) < kept, torch.randn(12, 3, generator=g, dtype=torch.float64)
    step = Step(run(), whole, keep=keep)
    here = step.here("a")
    assert here is not None and whole.present is not None
    rows = keep & whole.present[:, 0]
    some = Step(step.run, Batch({m: x[rows] for m, x in whole.inputs.items()}, whole.target[rows], whole.index[rows]))
    if not rows.any():
        assert float(step.loss(logits[keep], here)) == 0.0 and not step.mean(logits[keep], here).any()
        assert not step.true_class_scores({"a": logits[keep]}).any()
        return
    torch.testing.assert_close(step.loss(logits[keep], here), some.loss(logits[rows]))
    torch.testing.assert_close(step.mean(logits[keep], here), some.mean(logits[rows]))
    torch.testing.assert_close(some.mean(logits[rows]), logits[rows].mean(0))
    share = step.true_class_scores({"a": logits[keep]}) / keep.sum()
    torch.testing.assert_close(share, some.true_class_scores({"a": logits[rows]}) / rows.sum())
    p = logits[rows].softmax(1)[torch.arange(int(rows.sum())), whole.target[rows]]
    torch.testing.assert_close(some.true_class_scores({"a": logits[rows]}), p.sum()[None])


def test_a_search_by_modality_sees_only_items_that_have_it() -> None:
    """MSLR's trial of `a` on all items finds what it finds on those that have `a`."""
    found = []
    for items in loaders():
        r = Run(model(), MSLR(mode="keep", points=3, trial=1.0), train=items, slice=items, training=TRAINING)
        r.start_epoch()
        found.append(r.strategy.found["a"])
    assert found[0] == found[1]


def test_choice_is_by_the_items_that_are_seen_and_the_score_by_all() -> None:
    every, some = (OneModality(loader, "a", 0) for loader in loaders())
    m = train(run(m=model({"a": 4}), train=every, training=TRAINING), 3).model
    assert evaluate(m, Strategy(), every.batches())["acc"] == evaluate(m, Strategy(), some.batches())["acc"]
    p = predict(m, Strategy(), every.batches())
    final = branch_scores(m, p, Fitted.on(p, 3))
    answer = int(m(next(every.batches()).inputs, torch.zeros(40, 1, dtype=torch.bool)).logits[0].argmax())
    unseen = float((p.target[::2] == answer).float().mean())
    assert len(p.target) == 40 and len(p.seen(p.target)) == 20
    assert final["acc"] == pytest.approx((final["modalities"]["a"]["own"]["acc"] + unseen) / 2)
    none = Loader(**data(n=4), present=torch.zeros(4, 2, dtype=torch.bool), batch_size=4)
    assert evaluate(model(), Strategy(), none.batches())["acc"] >= 0  # all there is to go by


def test_a_bench_with_absent_modalities_says_what_was_counted(
    mmzoo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = mfeat.load(views=("fou", "zer"))
    present = torch.ones(len(whole.target), 2, dtype=torch.bool)
    present[::4, 0] = False
    monkeypatch.setattr(building, "load_data", lambda *_: replace(whole, present=present))
    done = mmzoo("bench", "--method", "concat", "--seeds", "1", "--epochs", "2", "--out", tmp_path)
    assert done.code == 0
    rows = {r["label"]: r for r in Store(tmp_path).rows()[0]}
    for label, column in (("unimodal: fou", 0), ("unimodal: zer", 1)):
        metrics, cost = rows[label]["metrics"], rows[label]["cost"]
        seen = {s: int(present[list(whole.splits[s]), column].sum()) for s in ("train", "slice", "test")}
        assert metrics["n_scored"] == metrics["n_total"] == 500 and metrics["n_seen"] == seen["test"]
        assert cost["train_items"] == seen["train"] + seen["slice"]
    assert rows["concat"]["metrics"]["n_seen"] == 500 and rows["concat"]["cost"]["train_items"] == 1000
    blind = 500 - rows["unimodal: fou"]["metrics"]["n_seen"]
    assert (
        f"unimodal: fou: {blind} of 500 test samples miss every modality that it reads" in done.out
        and "unimodal: zer:" not in done.out
    )

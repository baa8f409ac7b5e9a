"""G-Blend, MSES and MSLR: steps and estimates by hand, what their rules promise, and how they fit into a run."""

from __future__ import annotations

import copy
import io
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import data, equal, loader, model, run, train, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from test_values import (
    FIXED,
    IN,
    C,
    D,
    Linear,
    Sgd,
    Weights,
    assert_same,
    batches,
    cross_entropy,
    features_of,
    gradient,
    run_of,
    task_loss,
    train_both,
    unimodal_of,
    weights_of,
)
from torch import Tensor

from mmzoo.api import (
    BadValue,
    Batch,
    Chain,
    Incompatible,
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
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.cli import main
from mmzoo.config.grammar import parse_setting, shown
from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.config.spec import BenchSpec
from mmzoo.evaluation.scores import evaluate
from mmzoo.heads.concat import Concat
from mmzoo.heads.sum import Sum
from mmzoo.registry import Param, read_entries
from mmzoo.registry.plugins import catalogue
from mmzoo.strategies import gblend
from mmzoo.strategies.gblend import GBlend, gains, normalised, scores
from mmzoo.strategies.mses import MSES, observed, stale
from mmzoo.strategies.mslr import MSLR, grid, ratio
from mmzoo.strategies.ogm import OGM
from mmzoo.testing import check_strategy
from mmzoo.testing.harness.observing import difference
from mmzoo.training.loop import fit

FEW = settings(FIXED, max_examples=25)
FORMULAS = ["guarded", "paper", "absolute", "gap", "clamped"]
#: half of it are training items, so that there is something to gain
SLICE = [batches()[0], batches(seed=11)[1]]


def through_disk(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def run_with_slice(strategy: Strategy, epochs: int = 3) -> Run:
    """The run of test_values with a slice, for what is done by hand."""
    torch.manual_seed(0)
    m = MultimodalModel({m: Linear(d, D) for m, d in IN.items()}, Concat(dict.fromkeys(IN, D), C)).double()
    training = Training(optimizer="sgd", lr=0.2, momentum=0.9, weight_decay=0.03, epochs=epochs)
    return Run(m, strategy, train=batches(), slice=SLICE, training=training, seed=5)


def sliced(strategy: Strategy, m: MultimodalModel | None = None, epochs: int = 4, **options: Any) -> Run:
    """A small run in float32 with batch norm and dropout, whose slice holds other items than its training data."""
    net = model(norm=True) if m is None else m
    options.setdefault("training", Training(lr=0.05, epochs=epochs, weight_decay=0.01))
    return run(strategy, net, slice=loader(n=20, seed=9), **options)


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(epoch, epochs) of every fork."""
    seen: list[tuple[int, int]] = []
    fork = Run.fork

    def noted(self: Run, strategy: Any = None, *, epochs: int = 0) -> Run:
        seen.append((self.epoch, epochs))
        return fork(self, strategy, epochs=epochs)

    monkeypatch.setattr(Run, "fork", noted)
    return seen


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the scores on the slice follow a script: modality -> value by epoch, the last one again and again."""

    def script(key: str, values: Mapping[str, Sequence[float]]) -> None:
        def metrics(self: Run) -> dict[str, Any]:
            return {"unimodal": {m: {key: v[min(self.epoch, len(v) - 1)]} for m, v in values.items()}}

        monkeypatch.setattr(Run, "_meta_metrics", metrics)

    return script


# ---------------------------------------------------------------------- G-Blend: formulas
LOSS = st.integers(0, 192).map(lambda n: n / 64)  # on a grid, so that sums and differences are exact


@st.composite
def trainings(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """(2, K) training and validation losses of 2 to 5 branches."""
    k = draw(st.integers(2, 5))
    rows = draw(st.lists(st.lists(LOSS, min_size=k, max_size=k), min_size=4, max_size=4))
    losses = torch.tensor(rows, dtype=torch.float64)
    return losses[:2], losses[2:]


@FEW
@given(trainings(), st.floats(0, 0.2), st.floats(1e-4, 0.5))
def test_guarded_weights_lie_on_the_simplex_and_above_their_floor(
    losses: tuple[Tensor, Tensor], least: float, eps: float
) -> None:
    w = normalised(scores(*losses, "guarded", eps), least)
    assert float(w.sum()) == pytest.approx(1.0, abs=1e-12)
    assert bool((w >= least - 1e-12).all()) and bool((w <= 1 - (len(w) - 1) * least + 1e-12).all())
    gain, _ = gains(*losses)
    if bool((gain > 0).any()):
        torch.testing.assert_close(w[gain <= 0], torch.full_like(w[gain <= 0], least), rtol=0, atol=1e-12)


@FEW
@given(trainings(), st.sampled_from(FORMULAS), st.randoms(use_true_random=False))
def test_weights_follow_a_permutation_of_the_branches(losses: tuple[Tensor, Tensor], formula: Any, random: Any) -> None:
    order = random.sample(range(losses[0].shape[1]), losses[0].shape[1])
    moved = normalised(scores(losses[0][:, order], losses[1][:, order], formula))
    torch.testing.assert_close(moved, normalised(scores(*losses, formula))[order], rtol=1e-12, atol=1e-12)


@FEW
@given(st.lists(LOSS, min_size=4, max_size=4), st.integers(2, 5), st.sampled_from(FORMULAS))
def test_branches_that_do_the_same_weigh_the_same(four: list[float], k: int, formula: Any) -> None:
    same = torch.tensor(four, dtype=torch.float64).reshape(2, 2, 1).expand(2, 2, k)
    w = normalised(scores(same[0], same[1], formula), 0.1)
    torch.testing.assert_close(w, torch.full((k,), 1 / k, dtype=torch.float64), rtol=0, atol=1e-12)


@FEW
@given(trainings(), st.lists(st.integers(0, 3), min_size=5, max_size=5), st.sampled_from(FORMULAS))
def test_adding_a_constant_to_all_losses_of_a_branch_changes_nothing(
    losses: tuple[Tensor, Tensor], shifts: list[int], formula: Any
) -> None:
    if formula == "gap":  # it looks at the last loss itself
        return
    add = torch.tensor(shifts[: losses[0].shape[1]], dtype=torch.float64)
    shifted = scores(losses[0] + add, losses[1] + add, formula)
    assert torch.equal(shifted.nan_to_num(nan=-1.0), scores(*losses, formula).nan_to_num(nan=-1.0))


@FEW
@given(trainings(), st.sampled_from([0.125, 4.0, 64.0]), st.sampled_from(["guarded", "paper", "absolute"]))
def test_scaling_all_losses_leaves_the_weights(losses: tuple[Tensor, Tensor], scale: float, formula: Any) -> None:
    scaled = normalised(scores(scale * losses[0], scale * losses[1], formula))
    torch.testing.assert_close(scaled, normalised(scores(*losses, formula)), rtol=1e-12, atol=1e-12)


def test_guards_where_the_bare_formula_has_no_number() -> None:
    train = torch.tensor([[1.5, 1.5, 1.5], [1.0, 1.0, 1.5]], dtype=torch.float64)
    val = torch.tensor([[1.5, 1.5, 1.5], [1.0, 1.25, 1.5]], dtype=torch.float64)
    assert scores(train, val, "paper").tolist()[0] == math.inf and math.isnan(scores(train, val, "paper")[2])
    assert normalised(scores(train, val, "paper")).tolist() == pytest.approx([1 / 3] * 3)
    # dG = .5, .25, 0; dO = 0, .25, 0; the largest change is .5, so dO counts as .05 at least.
    found = scores(train, val, "guarded", eps=0.1)
    assert found.tolist() == pytest.approx([0.5 / 0.0025, 0.25 / 0.0625, 0.0])
    assert normalised(scores(train, train * 0 + val[0], "guarded")).tolist() == pytest.approx([1 / 3] * 3)
    # Validation losses that rise: signed by the paper, counted by one benchmark, left out here and by tsai's floor.
    rising = torch.tensor([[1.0, 1.0], [1.25, 0.5]], dtype=torch.float64)
    falling = torch.tensor([[1.0, 1.0], [0.5, 0.25]], dtype=torch.float64)
    assert scores(falling, rising, "paper")[0] < 0 < scores(falling, rising, "absolute")[0]
    assert scores(falling, rising, "guarded")[0] == 0 and scores(falling, rising, "clamped")[0] == 1e-8
    # A negative gap counts as 1e-4 where only the last losses are looked at.
    under = torch.tensor([[1.0, 1.0], [0.5, 0.5]], dtype=torch.float64)
    assert scores(under, under - 0.25, "gap").tolist() == pytest.approx([0.25 / 1e-8] * 2)


def test_the_published_weights_are_presets() -> None:
    published = json.loads((Path(__file__).parent / "vectors" / "gblend.json").read_text())["official_example_weights"]
    assert published.pop("order") == ["audio", "visual", "av"]
    entry = catalogue().get("strategies", "gblend")
    presets = [list(entry.preset(name)["weights"].values()) for name in entry.extra["presets"]]
    assert len(published) == 6 and all(values in presets for values in published.values())
    assert all(entry.preset(name)["mode"] == "fixed" for name in entry.extra["presets"])


# ---------------------------------------------------------------------- G-Blend: steps and estimates by hand
def branch_losses(w: Weights, batch: Batch) -> dict[str, Any]:
    """The loss of each branch."""
    z, y = features_of(w, batch.inputs), batch.target.numpy()
    own = {m: z[m] @ w[f"extra.gblend_{m}.weight"].T + w[f"extra.gblend_{m}.bias"] for m in IN}
    return {**{m: cross_entropy(own[m], y) for m in IN}, "fused": task_loss(w, batch)}


def test_a_step_with_fixed_weights() -> None:
    given = {"a": 0.7, "v": 0.2, "fused": 0.4}

    def by_hand(w: Weights, batch: Batch, epoch: int, step: int, start: Weights) -> Weights:
        return gradient(lambda u: sum(given[k] * v for k, v in branch_losses(u, batch).items()), w)

    train_both(GBlend(mode="fixed", weights=given), by_hand)


def test_equal_weights_where_none_are_given() -> None:
    def by_hand(w: Weights, batch: Batch, epoch: int, step: int, start: Weights) -> Weights:
        return gradient(lambda u: sum(branch_losses(u, batch).values()) / 3, w)

    train_both(GBlend(mode="fixed"), by_hand, epochs=1)


def mine(name: str, branch: str) -> bool:
    """Whether a parameter takes part in a branch."""
    if branch == "fused":
        return not name.startswith("extra")
    return name.startswith((f"encoders.{branch}.", f"extra.gblend_{branch}."))


def estimate(w: Weights, sgd: Sgd, epochs: int, eps: float, least: float) -> dict[str, float]:
    """Each branch trained alone by SGD on a copy of weights and momentum; the guarded formula."""

    def mean(u: Weights, branch: str, where: list[Batch]) -> float:
        return float(np.mean([branch_losses(u, b)[branch] for b in where]))

    gain, over, change = {}, {}, [0.0]
    for branch in (*IN, "fused"):
        u, own = dict(w), Sgd()
        own.velocity = {k: v.copy() for k, v in sgd.velocity.items()}
        for batch in batches() * epochs:
            part = {k: v for k, v in u.items() if mine(k, branch)}
            u |= own.step(part, gradient(lambda p, u=u, b=batch, k=branch: branch_losses({**u, **p}, b)[k], part))
        train_n, train_end = mean(w, branch, batches()), mean(u, branch, batches())
        val_n, val_end = mean(w, branch, SLICE), mean(u, branch, SLICE)
        gain[branch], over[branch] = val_n - val_end, (val_end - train_end) - (val_n - train_n)
        change += [abs(train_n - train_end), abs(gain[branch])]
    raw = {k: max(gain[k], 0) / max(over[k] ** 2, (eps * max(change)) ** 2) for k in gain}
    return {k: (1 - 3 * least) * v / sum(raw.values()) + least for k, v in raw.items()}


def test_the_online_estimates_and_the_training_between_them() -> None:
    r, sgd = run_with_slice(GBlend(warmup=2, super_epoch=1, eps=0.3, least=0.05)), Sgd()
    w = weights_of(r.model)
    blend: dict[str, float] = {}
    for epoch, length in enumerate((2, 0, 1)):
        if length:
            blend = estimate(w, sgd, length, 0.3, 0.05)
        r.start_epoch()
        for branch, weight in blend.items():
            assert r.strategy.current[branch] == pytest.approx(weight, abs=1e-9), (epoch, branch)
        for batch in r.epoch_batches():
            r.step(batch)
            total = gradient(lambda u: sum(blend[k] * v for k, v in branch_losses(u, batch).items()), w)  # noqa: B023
            w = sgd.step(w, total)
            assert_same(r.model, w)
        r.end_epoch()
    assert len(set(blend.values())) == 3


# ---------------------------------------------------------------------- G-Blend in a run
def watched(r: Run) -> dict[str, Any]:
    """All of a run that an estimate must leave alone, but its cost."""
    state = {k: v for k, v in r.state_dict().items() if k not in ("cost", "strategy")}
    return {**state, "random": torch.get_rng_state(), "mode": [m.training for m in r.model.modules()]}


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_an_estimate_leaves_the_run_bit_for_bit_alone_and_is_counted(mode: Any) -> None:
    r = sliced(GBlend(mode=mode, warmup=1, super_epoch=2), epochs=5)
    if mode == "online":
        train(r, 1)
    before, spent = watched(r), copy.copy(r.cost)
    r.strategy.epoch_start(r)
    assert difference(before, watched(r)) is None
    length = 2 if mode == "online" else 5
    n, s = 5, 3  # batches of training and of the slice
    assert r.cost.backward - spent.backward == pytest.approx(2 * n * length)
    assert r.cost.forward - spent.forward == pytest.approx(2 * n * length + 4 * (n + s))


def test_super_epochs_begin_where_they_should(forks: list[tuple[int, int]]) -> None:
    train(sliced(GBlend(warmup=3, super_epoch=2), epochs=8), 8)
    assert forks == [(0, 3)] * 3 + [(3, 2)] * 3 + [(5, 2)] * 3 + [(7, 1)] * 3
    forks.clear()
    train(sliced(GBlend(mode="offline", warmup=1, super_epoch=1), epochs=4), 4)
    assert forks == [(0, 4)] * 3
    forks.clear()
    train(sliced(Window(GBlend(warmup=2, super_epoch=3), 1, 4), epochs=6), 6)
    assert forks == [(1, 2)] * 3 + [(3, 3)] * 3


@pytest.mark.parametrize("stop", [2, 4])
def test_a_run_resumed_within_a_super_epoch_goes_on_with_its_weights(forks: list[tuple[int, int]], stop: int) -> None:
    def fresh(state: Any = None) -> Run:
        return sliced(GBlend(warmup=3, super_epoch=2), epochs=6, state=state)

    straight, half = train(fresh(), 6), train(fresh(), stop)
    forks.clear()
    resumed = train(fresh(through_disk(half.state_dict())), 6 - stop)
    assert forks == [(e, n) for e, n in ((3, 2), (5, 1)) if e >= stop for _ in range(3)]
    assert equal(weights(straight.model), weights(resumed.model)) and straight.cost == resumed.cost
    assert straight.strategy.state_dict() == resumed.strategy.state_dict()


def test_within_a_fork_the_weights_stay(forks: list[tuple[int, int]]) -> None:
    r = train(sliced(GBlend(warmup=1, super_epoch=1)), 1)
    forks.clear()
    own = GBlend(warmup=1, super_epoch=1)
    own.load_state_dict(r.strategy.state_dict())
    r.fork(own, epochs=2)
    assert len(forks) == 1 and own.current == r.strategy.current
    assert not r.forked and r.fork().forked


def test_weights_of_unknown_branches_and_weights_that_would_be_ignored_are_refused() -> None:
    with pytest.raises(Incompatible, match=r"visual; the branches here are a, b, fused"):
        run(GBlend(mode="fixed", weights={"visual": 0.5, "fused": 0.5}))
    with pytest.raises(BadValue, match="mode='fixed'"):
        GBlend(weights={"a": 1.0})


def test_a_modality_of_weight_zero_adds_no_term_and_its_classifier_stands_still() -> None:
    r = run(GBlend(mode="fixed", weights={"a": 0.5, "fused": 0.5}))
    before = weights(r.model.extra)
    terms = r.strategy.losses(*step_and_outputs(r), {"task": torch.ones(())})
    assert set(terms) == {"task", "gblend/a"}
    after = weights(train(r, 1).model.extra)
    assert torch.equal(before["gblend_b.weight"], after["gblend_b.weight"])
    assert not torch.equal(before["gblend_a.weight"], after["gblend_a.weight"])


def step_and_outputs(r: Run) -> tuple[Step, Outputs]:
    batch = next(iter(r.train()))
    return Step(r, batch), r.model(batch.inputs)


def test_a_modality_at_rest_takes_its_classifier_with_it() -> None:
    class Resting(Strategy):
        def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
            return [replace(p, freeze=frozenset({"a"})) for p in passes]

    r = run(Chain(GBlend(mode="fixed"), Resting()), model(norm=True))
    before = weights(r.model)
    after = weights(train(r, 1).model)
    still = [k for k in before if torch.equal(before[k], after[k])]
    assert {k for k in before if "encoders.a." in k or "gblend_a" in k or k == "head.weight.a"} == set(still)


def test_predictions_are_those_of_the_joint_logits_alone() -> None:
    r = train(run(GBlend(mode="fixed")), 1)
    batch = next(iter(loader().batches()))
    before = r.strategy.predict(r.model.eval()(batch.inputs)).scores
    with torch.no_grad():
        for p in r.model.extra.parameters():
            p.zero_()
    assert torch.equal(before, r.strategy.predict(r.model(batch.inputs)).scores)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_items_without_a_modality_do_not_count_in_its_branch(n: int) -> None:
    widths = {m: 3 + i for i, m in enumerate("abcd"[:n])}
    present = torch.rand(40, n, generator=torch.Generator().manual_seed(1)) < 0.6
    present[:, 1] = True
    present[:, 0] = False  # nobody has the first one
    own = loader(widths=widths, present=present)
    r = Run(model(widths), GBlend(warmup=1, super_epoch=1), train=own, slice=own, training=Training(lr=0.05, epochs=2))
    train(r, 2)
    assert all(math.isfinite(v) for v in r.strategy.current.values())
    assert sum(r.strategy.current.values()) == pytest.approx(1.0)
    assert r.strategy.current["a"] == pytest.approx(0.01)  # no loss, no gain
    batch = next(iter(own.batches()))
    here = batch.present[:, 1] if batch.present is not None else None
    found = gblend.branch_loss(Step(r, batch), r.forward(batch, mode="eval"), "b")
    logits = r.model.extra["gblend_b"](r.forward(batch, mode="eval").features["b"])
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(logits[here], batch.target[here]))


def test_losses_are_means_over_items_whatever_the_batches() -> None:
    present = torch.rand(20, 2, generator=torch.Generator().manual_seed(2)) < 0.5
    present[:, 1] |= ~present[:, 0]
    own = loader(n=20, present=present)  # batches of 8, 8 and 4
    r = run(GBlend(mode="fixed"), train=own)
    whole = replace(Batch(**data(n=20)), present=present)
    out = r.forward(whole, mode="eval")
    for i, m in enumerate("ab"):
        logits = r.model.extra[f"gblend_{m}"](out.features[m])[present[:, i]]
        loss = torch.nn.functional.cross_entropy(logits, whole.target[present[:, i]])
        assert float(gblend._mean_loss(r, m, r.train())) == pytest.approx(float(loss.detach()), abs=1e-6)
    joint = torch.nn.functional.cross_entropy(out.logits, whole.target)
    assert float(gblend._mean_loss(r, "fused", r.train())) == pytest.approx(float(joint.detach()), abs=1e-6)


def test_equal_weights_and_a_warning_where_an_estimate_fails() -> None:
    r = sliced(GBlend(formula="gap"))
    with torch.no_grad():
        for p in r.model.parameters():
            p.fill_(float("nan"))
    r.start_epoch()
    assert list(r.strategy.current.values()) == pytest.approx([1 / 3] * 3)
    assert ["equal ones were taken" in w for w in r.warnings] == [True]


# ---------------------------------------------------------------------- MSES: the rule
LOSSES = st.lists(st.floats(0, 5), min_size=1, max_size=15)


def rule(losses: Sequence[float], patience: int, smoothing: float = 0.6) -> tuple[int | None, int]:
    """The first epoch that stops, from 1, and the best one by then."""
    watch = None
    for epoch, loss in enumerate(losses, 1):
        watch = observed(watch, loss, smoothing)
        if stale(watch, patience):
            return epoch, int(watch["best_epoch"])
    return None, 0 if watch is None else int(watch["best_epoch"])


@FEW
@given(LOSSES, st.floats(0, 1), st.integers(0, 5))
def test_the_stop_is_the_first_epoch_too_far_from_the_best_smoothed_one(
    losses: list[float], smoothing: float, patience: int
) -> None:
    smooth = [losses[0]] + [smoothing * a + (1 - smoothing) * b for a, b in itertools.pairwise(losses)]
    best, stop = 1, None
    for epoch, value in enumerate(smooth, 1):
        if value < smooth[best - 1]:
            best = epoch
        if epoch - best > patience:
            stop = epoch
            break
    assert rule(losses, patience, smoothing) == (stop, best)
    watch = None
    for loss, value in zip(losses, smooth):
        watch = observed(watch, loss, smoothing)
        assert watch["smoothed"] == pytest.approx(value, abs=1e-12)


@FEW
@given(st.integers(0, 6), st.floats(0.1, 3), st.integers(8, 15))
def test_constant_losses_stop_two_epochs_after_the_patience_and_falling_ones_never(
    patience: int, loss: float, n: int
) -> None:
    assert rule([loss] * n, patience) == (patience + 2, 1)
    assert rule([loss * 0.9**i for i in range(n)], patience)[0] is None


def test_a_loss_that_is_not_finite_is_no_improvement() -> None:
    assert rule([math.nan] * 5, 2) == (3, 0)
    assert rule([1.0, math.nan, 0.5, 0.4], 2) == (None, 4)
    assert rule([1.0, -math.inf, math.inf, 1.1], 2) == (4, 1)


# ---------------------------------------------------------------------- MSES: steps and runs
def test_a_step_adds_the_losses_of_the_modalities_that_move() -> None:
    def by_hand(w: Weights, batch: Batch, epoch: int, step: int, start: Weights) -> Weights:
        y = batch.target.numpy()

        def loss(u: Weights) -> Any:
            own = unimodal_of(u, features_of(u, batch.inputs))
            return task_loss(u, batch) + 0.7 * sum(cross_entropy(z, y) for z in own.values())

        return gradient(loss, w)

    r, sgd = run_with_slice(MSES(weight=0.7, patience=9)), Sgd()
    w = weights_of(r.model)
    for epoch in range(2):
        r.start_epoch()
        for i, batch in enumerate(r.epoch_batches()):
            r.step(batch)
            w = sgd.step(w, by_hand(w, batch, epoch, i, w))
            assert_same(r.model, w)
        r.end_epoch()


def group_state(r: Run, m: str) -> dict[str, Any]:
    """All that belongs to a modality: weights, batch statistics, what the optimizer remembers."""
    own = {
        k: v
        for k, v in weights(r.model).items()
        if f"encoders.{m}." in k or k.startswith(("head.linear." + m, "head.weight." + m))
    }
    groups = r.model.groups()
    params = [p for g in (f"encoder:{m}", f"head:{m}") for p in groups.get(g, [])]
    memory = {
        f"{i}/{k}": v.clone() for i, p in enumerate(params) for k, v in r.optimizer.state[p].items() if v is not None
    }
    return {**own, **memory}


@pytest.mark.parametrize("head", [Sum, Concat])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("restore", ["modality", "none"])
def test_a_stopped_modality_goes_back_to_its_best_epoch_and_stands_still(
    scripted: Callable[..., None], head: Any, optimizer: str, restore: Any
) -> None:
    scripted("loss", {"a": [1.0, 0.5, 0.9, 1.5, 2.0], "b": [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]})
    training = Training(optimizer=optimizer, lr=0.05, epochs=9, weight_decay=0.1)
    r = sliced(MSES(patience=1, smoothing=0.0, restore=restore), model(norm=True, head=head), training=training)
    kept = []
    for _ in range(4):
        train(r, 1)
        kept.append(weights(r.model))
    assert r.strategy.stopped == ["a"] and not r.stopped
    own = [k for k in kept[0] if "encoders.a." in k or k.startswith(("head.linear.a", "head.weight.a"))]
    same = [all(torch.equal(k[n], kept[3][n]) for n in own) for k in kept[:3]]
    assert same == [False, restore == "modality", False]
    assert not torch.equal(kept[1]["encoders.b.net.0.weight"], kept[3]["encoders.b.net.0.weight"])
    at_rest, moving = group_state(r, "a"), group_state(r, "b")
    train(r, 3)
    assert all(torch.equal(at_rest[k], v) for k, v in group_state(r, "a").items())
    assert sum(not torch.equal(moving[k], v) for k, v in group_state(r, "b").items()) > 5
    assert "a" not in r.strategy.kept and r.strategy.stopped == ["a"]


def test_restore_all_takes_model_and_optimizer_back_but_not_who_stopped_before(scripted: Callable[..., None]) -> None:
    scripted("loss", {"a": [1.0, 2.0, 3.0], "b": [1.0, 0.5, 0.6, 0.7], "c": [0.9, 0.8, 0.7, 0.6, 0.5]})
    widths = {"a": 4, "b": 3, "c": 2}
    own = loader(widths=widths)
    strategy = MSES(patience=1, smoothing=0.0, restore="all")
    r = run(strategy, model(widths, norm=True, head=Sum), train=own, slice=own, training=Training(lr=0.05, epochs=8))
    states = []
    for _ in range(4):
        train(r, 1)
        states.append({m: group_state(r, m) for m in "abc"})
    # a is best in epoch 0 and stops in epoch 2, b is best in epoch 1 and stops in epoch 3.
    assert strategy.stopped == ["a", "b"]
    for now, m, then in ((2, "a", 0), (2, "b", 0), (2, "c", 0), (3, "a", 0), (3, "b", 1), (3, "c", 1)):
        assert difference(states[then][m], states[now][m]) is None, (now, m)
    assert all(difference(states[0][m], states[1][m]) is not None for m in "abc")


def test_when_all_have_stopped_training_ends(scripted: Callable[..., None]) -> None:
    scripted("loss", {"a": [1.0, 1.0, 1.0, 1.0, 1.0], "b": [1.0, 0.5, 0.4, 0.4, 0.4, 0.4, 0.4]})
    r = sliced(MSES(patience=1, smoothing=0.0), epochs=9)
    fit(r, lambda: loader(seed=3).batches())
    assert r.strategy.stopped == ["a", "b"] and r.epoch == 5


class Alternating(Strategy):
    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        return [replace(p, name=f"{p.name}/{m}", present=frozenset({m})) for p in passes for m in step.run.modalities]


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("other", [Alternating, lambda: OGM(noise=True), lambda: GBlend(mode="fixed")])
def test_a_stopped_modality_stands_still_in_company(scripted: Callable[..., None], other: Any, order: int) -> None:
    scripted("loss", {"a": [1.0, 2.0], "b": [1.0, 0.9, 0.8, 0.7, 0.6]})
    parts = [MSES(patience=0, smoothing=0.0), other()]
    r = train(sliced(Chain(*(parts if order == 0 else parts[::-1])), model(norm=True, head=Sum), 6), 2)
    assert parts[0].stopped == ["a"]
    before, moving = group_state(r, "a"), group_state(r, "b")
    train(r, 2)
    assert all(torch.equal(before[k], v) for k, v in group_state(r, "a").items())
    assert not all(torch.equal(moving[k], v) for k, v in group_state(r, "b").items())


def test_after_its_window_a_stopped_modality_moves_again(scripted: Callable[..., None]) -> None:
    scripted("loss", {"a": [1.0, 2.0], "b": [1.0, 0.9, 0.8, 0.7, 0.6]})
    inner = MSES(patience=0, smoothing=0.0)
    r = train(sliced(Window(inner, 0, 2), epochs=6), 2)
    before = group_state(r, "a")
    train(r, 1)
    assert inner.stopped == ["a"] and all(torch.equal(before[k], v) for k, v in group_state(r, "a").items())
    train(r, 1)
    assert not any(torch.equal(before[k], v) for k, v in group_state(r, "a").items() if k.endswith("weight"))


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_stop_is_resumed(scripted: Callable[..., None], stop: int) -> None:
    scripted("loss", {"a": [1.0, 0.5, 0.9, 1.5, 2.0], "b": [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]})

    def fresh(state: Any = None) -> Run:
        return sliced(MSES(patience=1, smoothing=0.0), epochs=6, state=state)

    straight, half = train(fresh(), 6), train(fresh(), stop)
    resumed = train(fresh(through_disk(half.state_dict())), 6 - stop)
    assert equal(weights(straight.model), weights(resumed.model)) and resumed.strategy.stopped == ["a"]


def test_a_modality_that_nobody_has_in_the_slice_is_not_watched() -> None:
    present = torch.ones(20, 2, dtype=torch.bool)
    present[:, 0] = False
    r = run(MSES(patience=0), slice=loader(n=20, present=present))
    train(r, 3)
    assert set(r.strategy.watched) == {"b"}


def test_the_epoch_that_is_chosen_keeps_the_weights_that_were_scored() -> None:
    class Wiping(Strategy):
        def epoch_end(self, run: Run, metrics: Any) -> None:
            run.edit("encoder:a", lambda name, value: value * 0)

    r = run(Wiping(), training=Training(lr=0.05, epochs=2))
    held = loader(seed=3)
    chosen = fit(r, held.batches)
    assert not any(bool(p.any()) for p in r.model.encoders["a"].parameters())
    chosen.restore(r)
    assert evaluate(r.model, r.strategy, held.batches())["loss"] == pytest.approx(chosen.loss)


# ---------------------------------------------------------------------- MSLR: the rule
ACCURACY = st.integers(1, 64).map(lambda n: n / 64)


@FEW
@given(st.lists(ACCURACY, max_size=8), ACCURACY, st.integers(1, 6), st.booleans(), st.sampled_from([0.25, 0.5]))
def test_ratios_are_positive_blind_to_scale_and_wait_for_a_full_memory(
    before: list[float], now: float, memory: int, current: bool, scale: float
) -> None:
    found = ratio(before, now, memory, current)
    if len(before) + current < memory:
        assert found is None
        return
    used = [*before, now][-memory:] if current else before[-memory:]
    assert found == pytest.approx(now / np.mean(used)) and found > 0
    assert ratio([scale * a for a in before], scale * now, memory, current) == pytest.approx(found)
    assert ratio([now] * memory, now, memory, current) == 1.0
    assert ratio([0.0] * memory, 0.0, memory, current) == 1.0


@FEW
@given(st.integers(1, 9), st.floats(1, 100))
def test_the_grid_is_symmetric_and_begins_nearest_to_one(points: int, span: float) -> None:
    found = grid(points, span)
    assert len(found) == points and found[0] == pytest.approx(1.0 if points % 2 else span ** (-1 / (points - 1)))
    assert sorted(found) == pytest.approx(sorted(1 / x for x in found))
    assert max(found) == pytest.approx(span if points > 1 else 1.0)


# ---------------------------------------------------------------------- MSLR: steps and runs
def rate_of(name: str, factor: Mapping[str, float], scope: str) -> float:
    for m, c in factor.items():
        if name.startswith(f"encoders.{m}.") or (scope == "branch" and name == f"head.weight.{m}"):
            return c
    return 1.0


def scaled_step(sgd: Sgd, w: Weights, g: Weights, factor: Mapping[str, float], scope: str) -> Weights:
    """w <- w - factor * 0.2 v: the rate is scaled, momentum and weight decay are not."""
    moved = sgd.step(w, g)
    return {k: w[k] + rate_of(k, factor, scope) * (moved[k] - w[k]) for k in w}


@pytest.mark.parametrize("scope", ["branch", "encoder"])
def test_kept_rates_scale_the_update(scope: Any) -> None:
    r, sgd, factors = (
        run_of(MSLR(mode="keep", factors={"a": 0.25, "v": 1.5}, scope=scope)),
        Sgd(),
        {"a": 0.25, "v": 1.5},
    )
    w = weights_of(r.model)
    for _ in range(2):
        r.start_epoch()
        for batch in r.epoch_batches():
            r.step(batch)
            g = gradient(lambda u, batch=batch: task_loss(u, batch), w)
            w = scaled_step(sgd, w, g, factors, scope)
            assert_same(r.model, w)
        r.end_epoch()


@pytest.mark.parametrize(("compound", "current", "period"), [(False, False, 1), (True, True, 2), (True, False, 1)])
def test_dynamic_rates_follow_the_accuracies_on_the_slice(compound: bool, current: bool, period: int) -> None:
    strategy = MSLR(memory=2, compound=compound, include_current=current, period=period, factors={"a": 0.5})
    r, sgd = run_with_slice(strategy, epochs=6), Sgd()
    w, seen, q, used = weights_of(r.model), {"a": [], "v": []}, {"a": 1.0, "v": 1.0}, []
    for epoch in range(6):
        factors = {"a": 0.5 * q["a"], "v": q["v"]}
        used.append(tuple(factors.values()))
        r.start_epoch()
        for batch in r.epoch_batches():
            r.step(batch)
            w = scaled_step(sgd, w, gradient(lambda u, batch=batch: task_loss(u, batch), w), factors, "branch")
            assert_same(r.model, w)
        r.end_epoch()
        own = [(unimodal_of(w, features_of(w, b.inputs)), b.target.numpy()) for b in SLICE]
        for m, past in seen.items():
            now = float(np.mean(np.concatenate([z[m].argmax(1) == y for z, y in own])))
            recent = [*past, now][-2:] if current else past[-2:]
            if len(recent) == 2 and epoch % period == 0:
                q[m] = now / np.mean(recent) * (q[m] if compound else 1.0)
            past.append(now)
    assert len(set(used)) > 1


def test_the_schedule_and_the_factors_multiply_and_every_parameter_has_one_rate() -> None:
    training = Training(lr=0.1, epochs=6, schedule="step", step_size=2, gamma=0.5)
    r = run(MSLR(mode="keep", factors={"a": 0.25}), model(head=Sum), training=training)
    for epoch in range(4):
        train(r, 1)
        rates = {g["name"]: g["lr"] for g in r.optimizer.param_groups}
        base = 0.1 * 0.5 ** (epoch // 2)
        assert rates == pytest.approx({"encoder:a": base / 4, "head:a": base / 4, "encoder:b": base, "head:b": base})
    every = [id(p) for g in r.optimizer.param_groups for p in g["params"]]
    assert sorted(every) == sorted(id(p) for p in r.model.parameters())


def test_compounded_factors_stay_in_bounds_and_others_recover(scripted: Callable[..., None]) -> None:
    scripted("acc", {"a": [0.5, 0.0, 0.5, 0.5], "b": [0.5] * 4})
    compounding, free = MSLR(memory=1, compound=True), MSLR(memory=1)
    for strategy in (compounding, free):
        train(sliced(strategy), 2)
    assert compounding.ratios == {"a": 1e-3, "b": 1.0} and free.ratios == {"a": 0.0, "b": 1.0}
    assert ratio([0.0], 0.5, 1) == 1.0


def test_rates_are_taken_back_when_the_window_closes(scripted: Callable[..., None]) -> None:
    scripted("acc", {"a": [0.2, 0.4], "b": [0.4, 0.2]})

    def rates(r: Run) -> dict[str, float]:
        train(r, 1)
        return {g["name"]: g["lr"] / 0.05 for g in r.optimizer.param_groups}

    for wrapped in (lambda s: s, lambda s: Chain(s, OGM()), lambda s: Window(s, 0, 9)):
        r = sliced(Window(wrapped(MSLR(memory=1, factors={"a": 3.0})), 0, 2), model(head=Sum), 6)
        assert [rates(r)[g] for g in ("encoder:a",) * 4] == pytest.approx([3.0, 3.0, 6.0, 1.0])
        assert set(rates(r).values()) == {1.0}


def alone(m: str, factor: float) -> tuple[float, float]:
    """Accuracy and loss on the slice of an ordinary run of one modality at a scaled rate."""
    whole = model(head=Sum)
    head = Sum({m: 5}, 3)
    head.linear[m].load_state_dict(whole.head.linear[m].state_dict())
    only = MultimodalModel({m: whole.encoders[m]}, head)

    def part(**options: Any) -> list[Batch]:
        return [replace(b, inputs={m: b.inputs[m]}) for b in loader(**options).batches()]

    r = Run(only, Strategy(), train=part(), training=Training(lr=0.05 * factor, epochs=3, weight_decay=0.01), seed=0)
    rows = evaluate(train(r, 3).model, Strategy(), part(n=20, seed=9))
    return rows["acc"], -rows["loss"]


def test_keep_and_smart_search_what_ordinary_trainings_find(forks: list[tuple[int, int]]) -> None:
    def fresh(strategy: Strategy) -> Run:
        own = list(loader().batches())  # in a fixed order, as in the trainings that are compared with
        return run(
            strategy,
            model(head=Sum),
            train=own,
            slice=loader(n=20, seed=9),
            training=Training(lr=0.05, epochs=3, weight_decay=0.01),
        )

    tried = grid(3, 40.0)
    smart = MSLR(mode="smart", points=3, span=40.0, trial=1.0)
    r = fresh(smart)
    before = weights(r.model)
    r.start_epoch()
    assert equal(before, weights(r.model)) and len(forks) == 9 and {f[1] for f in forks} == {3}
    found = {m: tried[max(range(3), key=[alone(m, x) for x in tried].__getitem__)] for m in "ab"}
    assert smart.found == found
    joint = []
    for x in tried:
        other = train(fresh(MSLR(mode="keep", factors={m: c * x for m, c in found.items()})), 3)
        rows = evaluate(other.model, Strategy(), loader(n=20, seed=9).batches())
        joint.append((rows["acc"], -rows["loss"]))
    assert smart.shared == tried[max(range(3), key=joint.__getitem__)]
    assert {smart.factor(m) for m in "ab"} == {found[m] * smart.shared for m in "ab"}
    assert r._lr_scale["encoder:a"] == smart.factor("a") and len(set(tried)) == 3
    forks.clear()
    train(r, 2)
    assert not forks


def test_a_search_costs_what_it_declares_and_given_factors_need_none(forks: list[tuple[int, int]]) -> None:
    keep = MSLR(mode="keep", points=3, trial=0.5)
    r = train(sliced(keep), 4)
    assert keep.cost["backward"] == 2.5 and r.cost.backward == pytest.approx(2.5 * 4 * r.steps_per_epoch)
    # Each trial is scored on the slice, of three batches, by one modality of two.
    assert keep.cost["slice_run"] == 3 and MSLR(mode="smart", points=3).cost["slice_run"] == 6
    assert r.cost.forward == pytest.approx(2.5 * 4 * r.steps_per_epoch + 3 * 3)
    given = MSLR(mode="keep", factors={"a": 0.5})
    assert not given.requires and given.cost == {"forward": 1, "backward": 1}
    forks.clear()
    train(run(given), 1)
    assert not forks
    with pytest.raises(Incompatible, match=r"audio; the modalities here are a, b"):
        run(MSLR(mode="keep", factors={"audio": 0.5}))


# ---------------------------------------------------------------------- what the three need of the engine
def test_a_snapshot_with_the_optimizers_memory_is_put_back() -> None:
    r = train(run(m=model(head=Sum), training=Training(optimizer="adam", epochs=5)), 1)
    early = r.snapshot("encoder:a", optimizer=True)
    kept, bare = group_state(r, "a"), r.snapshot("encoder:a")
    train(r, 1)
    r.restore("encoder:a", bare)
    steps = [v for k, v in group_state(r, "a").items() if k.endswith("/step")]
    assert equal(bare, r.snapshot("encoder:a")) and {float(s) for s in steps} == {2.0 * r.steps_per_epoch}
    r.restore("encoder:a", early)
    own = len(list(r.model.encoders["a"].parameters()))
    now = {
        k: v for k, v in group_state(r, "a").items() if "head" not in k and ("." in k or int(k[: k.index("/")]) < own)
    }
    assert len(now) > own and all(torch.equal(kept[k], v) for k, v in now.items())
    train(r, 1)
    assert early["optimizer"] and float(next(iter(early["optimizer"].values()))["step"]) == r.steps_per_epoch


def test_window_end_comes_once_after_the_last_open_epoch() -> None:
    class Noting(Strategy):
        def __init__(self) -> None:
            self.seen: list[tuple[str, int]] = []

        def epoch_end(self, run: Run, metrics: Any) -> None:
            self.seen.append(("epoch", run.epoch))

        def window_end(self, run: Run) -> None:
            self.seen.append(("window", run.epoch))

    inner = Noting()
    train(run(Window(inner, 1, 2), training=Training(epochs=5)), 5)
    assert inner.seen == [("epoch", 1), ("epoch", 2), ("window", 2)]
    for open_to_the_end in (Window(Noting(), 1), Chain(Noting())):
        train(run(open_to_the_end, training=Training(epochs=3)), 3)
        noted = getattr(open_to_the_end, "inner", None) or open_to_the_end.parts[0]
        assert not any(name == "window" for name, _ in noted.seen)


def test_passes_over_the_slice_are_part_of_the_declared_cost() -> None:
    class Reading(Strategy):
        requires = frozenset({"slice"})

        def epoch_end(self, run: Run, metrics: Any) -> None:
            run.log("reading/acc", metrics["acc"])

    class Honest(Reading):
        cost = {"forward": 1, "backward": 1, "slice": 1}  # noqa: RUF012

    assert check_strategy(Honest, only=["check_cost"]).ok
    failed = check_strategy(Reading, only=["check_cost"], raise_failures=False).failed
    assert "cost['slice']" in failed[0].reason
    assert Chain(Honest(), Honest()).cost["slice"] == 2


@pytest.mark.parametrize(("given", "taken"), [({"a": 1, "b": 0.5}, {"a": 1.0, "b": 0.5}), ({}, {}), (None, None)])
def test_mappings_of_names_to_numbers_are_parameters(given: Any, taken: Any) -> None:
    p = Param("x", "numbers?", None, range=(0, 2))
    assert p.check(given) == taken and list(map(type, (p.check(given) or {}).values())) == [float] * len(given or {})
    assert p.accepts() == "a mapping of names to numbers from 0 to 2 or null"


@pytest.mark.parametrize(
    "given", [{"a": 3}, {"a": "1"}, {"a": True}, {"a": float("nan")}, {1: 1.0}, [1.0], 1.0, "a", {"a": {"b": 1}}]
)
def test_other_mappings_are_refused(given: Any) -> None:
    with pytest.raises(BadValue, match="mapping of names to numbers from 0 to 2"):
        Param("x", "numbers?", None, range=(0, 2)).check(given)


def method(text: str, *pairs: tuple[str, Any]) -> Any:
    return resolve_method(catalogue(), text, Settings(catalogue(), pairs))


def test_mappings_are_set_on_the_command_line_and_shown_as_written() -> None:
    pair = parse_setting("gblend_fixed.weights={fou: 1e-1, fused: 2}")
    found = method("gblend_fixed", pair)
    assert found.parts[0].params["weights"] == {"fou": 0.1, "fused": 2.0}
    assert found.label == "gblend_fixed[weights={fou: 0.1, fused: 2.0}]"
    assert parse_setting(f"x.y={shown(pair[1])}")[1] == pair[1]
    assert method("gblend_fixed", ("gblend_fixed.preset", "audioset")).parts[0].params["weights"]["fused"] == 0.377
    assert method("mses", ("mses.preset", "cremad")).parts[0].params["patience"] == 80


@pytest.mark.parametrize(
    ("name", "settings", "uses"),
    [
        ("gblend", (), True),
        ("gblend_offline", (), True),
        ("gblend_fixed", (), False),
        ("mses", (), True),
        ("mslr", (), True),
        ("mslr_keep", (), True),
        ("mslr_smart", (), True),
        ("mslr_keep", (("mslr_keep.factors", {"fou": 0.5}),), False),
        ("mslr_smart", (("mslr_smart.factors", {"fou": 0.5}),), True),
    ],
)
def test_the_catalogue_knows_which_modes_learn_from_the_slice(name: str, settings: Any, uses: bool) -> None:
    found = method(name, *settings)
    assert found.uses_slice is uses
    made = catalogue().get("strategies", found.parts[0].strategy).load()(**found.parts[0].params)
    assert ("slice" in made.requires) is uses


@pytest.mark.parametrize("given", ["{}", "{mode: online}", "[mode]", "online", "[{mode: [a]}, {mode: a}]"])
def test_a_condition_for_the_slice_that_is_none_is_refused(given: str, tmp_path: Path) -> None:
    text = f"strategies: {{s: {{summary: S., path: 'a:B', slice_if: {given}}}}}"
    (tmp_path / "registry.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BadValue, match=r"s\.slice_if: must be a mapping of parameters to lists of values"):
        read_entries(tmp_path / "registry.yaml", "pkg")


def test_what_the_methods_cost_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "mses"]) == 0
    assert "forwards of the whole slice an epoch: 1" in capsys.readouterr().out
    plan = make_plan(BenchSpec("gblend", baselines=("mses",), seeds=(0,), epochs=1), catalogue())
    assert {"gblend", "mses", "concat", "sum"} <= {p.method for p in plan.runs}


def test_a_branch_of_items_that_all_lack_it_gives_a_loss_of_zero_and_no_nan() -> None:
    present = torch.ones(8, 2, dtype=torch.bool)
    present[:, 0] = False
    batch = replace(Batch(**data(n=8)), present=present)
    r = run(GBlend(mode="fixed"), train=[batch])

    def terms(strategy: Strategy) -> Terms:
        return strategy.losses(Step(r, batch), r.model(batch.inputs, batch.present), {"task": torch.ones(())})

    assert float(terms(r.strategy)["gblend/a"].detach()) == 0.0
    r.step(batch)
    assert all(bool(p.isfinite().all()) for p in r.model.parameters())

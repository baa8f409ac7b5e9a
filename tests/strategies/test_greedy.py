"""Greedy: when it cuts a branch off, for how long, and what it refuses."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import train, weights
from helpers.channel_runs import bench_run
from helpers.steps_by_hand import FIXED, SEEDS
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from mmzoo.api import Incompatible, Pass, Run
from mmzoo.errors import MmzooError
from mmzoo.evaluation.predictions import predict
from mmzoo.heads.channel import Channel
from mmzoo.heads.concat import Concat
from mmzoo.strategies.greedy import Greedy, GreedyMany, relative_change

# ---------------------------------------------------------------------- Greedy
CHANGES = st.lists(st.floats(0.01, 100.0), min_size=4, max_size=4)


def greedy(m: int = 2, **options: Any) -> Greedy:
    strategy = (Greedy if m == 2 else GreedyMany)(**{"epsilon": 0.1, "window": 3, **options})
    strategy.setup(SimpleNamespace(modalities=list(range(m)), device="cpu"))  # type: ignore[arg-type]
    return strategy


def observed(strategy: Greedy, rows: Any, unlocked: bool = True) -> list[dict[str, Any]]:
    """State after each of these steps; a row is mu of (bypass 0, bypass 1, main 0, main 1)."""
    trace = []
    for row in rows:
        strategy._observe(torch.tensor(row, dtype=torch.float64).reshape(2, -1), unlocked)
        trace.append({**strategy.state_dict(), "d": float(strategy.speeds[0] - strategy.speeds[1])})
    return trace


@FIXED
@given(st.lists(CHANGES, min_size=1, max_size=12), st.integers(1, 5), st.floats(0.0, 1.0))
def test_a_trigger_starts_exactly_window_steps_in_which_the_sums_stand_still(
    rows: list[list[float]], window: int, epsilon: float
) -> None:
    left, sums = 0, torch.zeros(2, 2, dtype=torch.float64)
    for state in observed(greedy(window=window, epsilon=epsilon), rows):
        if left:
            left -= 1
            assert torch.equal(state["sums"], sums)
        else:
            assert bool((state["sums"] > sums).all())
            assume(abs(abs(state["d"]) - epsilon) > 1e-9)
            left = window if abs(state["d"]) > epsilon else 0
            if left:
                assert int(state["cut"]) == (0 if state["d"] > 0 else 1)
        assert int(state["left"]) == left
        sums = state["sums"]


@FIXED
@given(st.lists(CHANGES, min_size=1, max_size=8))
def test_exchanging_the_branches_turns_d_round_and_cuts_off_the_other(rows: list[list[float]]) -> None:
    one = observed(greedy(), rows)
    two = observed(greedy(), [[r[1], r[0], r[3], r[2]] for r in rows])
    for a, b in zip(one, two):
        assume(abs(abs(a["d"]) - 0.1) > 1e-9)
        assert b["d"] == pytest.approx(-a["d"], abs=1e-12) and int(a["left"]) == int(b["left"])
        if a["left"]:
            assert int(a["cut"]) == 1 - int(b["cut"])


@FIXED
@given(st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.01, 10)), min_size=1, max_size=6))
def test_equal_branches_are_left_alone(rows: list[tuple[float, float]]) -> None:
    for state in observed(greedy(epsilon=0.0), [[b, b, m, m] for b, m in rows]):
        assert state["d"] == 0 and int(state["left"]) == 0


@FIXED
@given(st.lists(CHANGES, min_size=1, max_size=4))
def test_natural_logarithms_are_ln_10_times_as_large_and_locked_steps_only_add_up(rows: list[list[float]]) -> None:
    ten, e = (observed(greedy(log=log), rows, unlocked=False) for log in ("log10", "ln"))
    for a, b in zip(ten, e):
        assert b["d"] == pytest.approx(math.log(10) * a["d"], abs=1e-9)
        assert int(a["left"]) == 0
    np.testing.assert_allclose(ten[-1]["sums"].flatten(), np.sum(rows, 0), rtol=1e-12)


@pytest.mark.parametrize("row", [[0, 1, 1, 1], [1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 1]])
def test_a_branch_that_has_not_learned_starts_nothing(row: list[float]) -> None:
    strategy = greedy()
    assert [int(s["left"]) for s in observed(strategy, [row] * 3)] == [0, 0, 0]
    assert int(observed(strategy, [[50.0, 1.0, 1.0, 1.0]])[0]["left"]) == 3  # nothing has stuck


@FIXED
@given(st.integers(2, 4), st.lists(st.floats(0.1, 10), min_size=8, max_size=8))
def test_of_many_the_fastest_is_cut_off(m: int, drawn: list[float]) -> None:
    rows = torch.tensor(drawn, dtype=torch.float64)[: 2 * m].reshape(2, m)
    speeds = (rows[0] / rows[1]).log10()
    spread = float(speeds.max() - speeds.min())
    assume(spread > 1e-6)
    for share, left in ((0.999, 3), (1.001, 0)):
        many = greedy(m, epsilon=share * spread)
        many._observe(rows, True)
        assert int(many.left) == left
        assert int(many.cut) == (int(speeds.argmax()) if left else 0)


@FIXED
@given(SEEDS, st.floats(1e-3, 1e3))
def test_the_relative_change_ignores_a_common_scale(seed: int, c: float) -> None:
    g = torch.Generator().manual_seed(seed)
    params = [nn.Parameter(torch.randn(s, generator=g, dtype=torch.float64)) for s in ((2, 3), (4,), (1,))]
    for p in params:
        p.grad = torch.randn(p.shape, generator=g, dtype=torch.float64)
    g2, w2 = (sum(float((t**2).sum()) for t in ts) for ts in ([p.grad for p in params], [p.data for p in params]))
    mu = float(relative_change(params))
    assert mu == pytest.approx(g2 / w2, rel=1e-12)
    scaled = [nn.Parameter(c * p.detach()) for p in params]
    for p, q in zip(params, scaled):
        q.grad = c * p.grad
    assert float(relative_change(scaled)) == pytest.approx(mu, rel=1e-9)


def test_the_relative_change_of_nothing_is_zero() -> None:
    zero, idle = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))
    zero.grad = torch.ones(2)
    broken = nn.Parameter(torch.ones(1))
    broken.grad = torch.tensor([math.inf])
    assert [float(relative_change(ps)) for ps in ([], [zero], [idle], [broken])] == [0.0] * 4
    zero.grad = torch.full((2,), 2.0)
    assert float(relative_change([zero, idle])) == pytest.approx(4.0)  # a missing gradient is one of zero


def test_a_cut_branch_learns_from_its_own_input_and_evaluation_uses_the_gates() -> None:
    run = train(bench_run(Greedy(epsilon=1e-6, window=50, start_epoch=0)), 1)
    strategy: Any = run.strategy
    assert int(strategy.left) > 0
    cut = run.modalities[int(strategy.cut)]
    (free,) = [m for m in run.modalities if m != cut]
    batch = next(iter(run.train()))
    run.step(batch)
    for exchange in run.model.head.exchange.values():
        assert not bool(exchange.gate[cut].linear.weight.grad.any())
        assert bool(exchange.gate[free].linear.weight.grad.any())
    (pass_,) = strategy.plan(SimpleNamespace(run=run), [Pass()])
    run.model.eval()
    other = {**batch.inputs, free: batch.inputs[free] + 1.0}
    assert torch.equal(run.model.encode(batch.inputs, pass_)[cut], run.model.encode(other, pass_)[cut])
    scores = predict(run.model, strategy, [batch]).scores
    strategy.left = torch.zeros_like(strategy.left)
    assert torch.equal(predict(run.model, strategy, [batch]).scores, scores)


def test_at_random_each_branch_is_cut_off_in_a_third_of_the_steps_from_the_start_epoch_on() -> None:
    strategy = Greedy(schedule="random")
    run = bench_run(strategy)
    run.start_epoch()
    drawn = []
    for epoch, n in ((0, 50), (1, 900)):
        run.epoch = epoch
        for step in range(n):
            run.global_step = step
            (pass_,) = strategy.plan(_step(run), [Pass()])
            (again,) = strategy.plan(_step(run), [Pass()])
            flags = {m: bool(f) for m, f in pass_.flags["mean_gates"].items()}
            assert flags == {m: bool(f) for m, f in again.flags["mean_gates"].items()}
            drawn.append((epoch, *flags.values()))
    assert all(d == (0, False, False) for d in drawn if d[0] == 0)
    for kind in ((1, False, False), (1, True, False), (1, False, True)):
        assert 240 < drawn.count(kind) < 360
    assert bool(train(run, 1).model.head.exchange["-1"].gate["a"].steps > 0)


def _step(run: Run) -> Any:
    from mmzoo.api import Step

    return Step(run, next(iter(run.train())))


def test_absent_modalities_do_not_count_in_a_branch_loss() -> None:
    present = torch.ones(40, 2, dtype=torch.bool)
    present[::3, 1] = False
    run = bench_run(Greedy(), present=present)
    step = _step(run)
    out = run.model(step.batch.inputs, step.batch.present)
    here = step.batch.present[:, 1]
    own = [run.criterion(out.unimodal["a"], step.target), run.criterion(out.unimodal["b"][here], step.target[here])]
    task = run.strategy.losses(step, out, {"task": out.logits.sum(), "x/y": out.logits.mean()})
    torch.testing.assert_close(task["task"], own[0] + own[1])
    assert set(task) == {"task", "x/y"}


def test_any_number_of_branches_is_ours_and_two_are_greedy() -> None:
    one, two = (train(bench_run(kind(epsilon=1e-3)), 3) for kind in (Greedy, GreedyMany))
    assert all(torch.equal(v, weights(two.model)[k]) for k, v in weights(one.model).items())
    four = train(bench_run(GreedyMany(epsilon=1e-3), n=4), 3)
    assert four.strategy.sums.shape == (2, 4)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("strategy", "n", "head", "reason"),
    [
        (Greedy, 3, Channel, "at most 2 modalities, not 3"),
        (Greedy, 1, Channel, "at least 2 modalities; there is 1"),
        (Greedy, 2, Concat, "needs a head with gates between encoder stages.*Concat has none"),
        (GreedyMany, 1, Channel, "at least 2 modalities"),
    ],
)
def test_greedy_refuses_with_the_reason(strategy: Any, n: int, head: Any, reason: str) -> None:
    with pytest.raises(Incompatible, match=reason):
        bench_run(strategy(), head=head, n=n)


def test_plans_refuse_what_cannot_work_and_take_the_rest(plan: Any) -> None:
    kinds = {
        r.method: r.reason
        for r in plan("greedy_many", baselines=("greedy", "ogm@mmtm"), datasets=("mfeat:six",)).refused
    }
    assert list(kinds) == ["greedy"] and "at most 2 modalities, not 6" in kinds["greedy"]
    with pytest.raises(MmzooError, match=r"needs a head with gates between encoder stages.*concat has none"):
        plan("greedy@concat")
    runs = plan("greedy_random", baselines=("channel",)).runs
    assert [r.spec.head for r in runs] == ["channel", "channel"]
    assert runs[0].spec.parts[0].params["schedule"] == "random"

"""What the mathematics of the strategies promises, where no other file has it."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.channel_runs import bench_run
from helpers.steps_by_hand import ALPHAS, FIXED, FORMS, SCORES, SEEDS, pmr_case, pmr_terms, run_of
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from mmzoo.api import Strategy
from mmzoo.heads.sum import Sum
from mmzoo.strategies import ogm
from mmzoo.strategies.dynamic_gap import DynamicGap
from mmzoo.strategies.greedy import Greedy
from mmzoo.strategies.mses import MSES
from mmzoo.strategies.mslr import MSLR
from mmzoo.strategies.pmr import PMR


@FIXED
@given(SCORES, ALPHAS, FORMS, st.floats(0.01, 5.0))
def test_ogm_slows_a_modality_the_more_the_further_it_is_ahead(
    drawn: list[float], alpha: float, form: Any, more: float
) -> None:
    scores = torch.tensor(drawn, dtype=torch.float64)
    ahead = scores.clone()
    ahead[0] += more
    before, after = (ogm.coefficients(s, alpha, form) for s in (scores, ahead))
    assert float(after[0]) <= float(before[0]) and bool((after[1:] >= before[1:]).all() or len(drawn) > 2)


@FIXED
@given(SEEDS, st.integers(2, 3), st.sampled_from(["paper", "code"]))
def test_pmr_is_plain_training_where_the_modalities_are_equal(seed: int, n: int, variant: Any) -> None:
    features, prototypes, target, logits = pmr_case(seed, n)
    same = [dict.fromkeys(side, side["a"]) for side in (features, prototypes)]
    terms = pmr_terms(same[0], same[1], target, logits, variant=variant)
    assert {name: float(v) for name, v in terms.items() if name.startswith("pmr/")} == {
        name: 0.0 for name in terms if name.startswith("pmr/")
    }
    assert sum(name.startswith("pmr/") for name in terms) >= n


def test_prototypes_carry_no_gradient() -> None:
    run = run_of(PMR())
    run.start_epoch()
    kept: Any = run.strategy
    assert kept.prototypes and not any(c.requires_grad for c in kept.prototypes.values())


def _ended(strategy: Strategy, values: dict[str, list[float]], key: str) -> tuple[Strategy, list[Any]]:
    """A strategy after the ends of some epochs with these scores on the slice; and what it set, epoch by epoch."""
    seen: list[Any] = []
    model = SimpleNamespace(groups=lambda: {})
    run = SimpleNamespace(
        modalities=tuple(values),
        model=model,
        device="cpu",
        reduce=lambda x: x,
        log=lambda *_: None,
        stop=lambda: None,
        snapshot=lambda *_, **__: {},
        restore=lambda *_: None,
    )
    for epoch in range(len(next(iter(values.values())))):
        strategy.epoch_end(run, {"unimodal": {m: {key: v[epoch]} for m, v in values.items()}})  # type: ignore[arg-type]
        seen.append(strategy.state_dict())
    return strategy, seen


LOSSES = st.lists(st.integers(1, 40).map(lambda n: n / 8), min_size=6, max_size=6)


@FIXED
@given(LOSSES, LOSSES, LOSSES, st.integers(0, 3))
def test_mses_stops_each_modality_by_its_own_losses_and_for_good(
    a: list[float], b: list[float], c: list[float], patience: int
) -> None:
    for order in ("ab", "ba"):  # whoever is listed first
        (one, first), (two, _) = (
            _ended(MSES(patience=patience), {m: {"a": a, "b": x}[m] for m in order}, "loss") for x in (b, c)
        )
        assert ("a" in one.stopped) == ("a" in two.stopped)  # type: ignore[attr-defined]
        assert one.watched["a"] == two.watched["a"]  # type: ignore[attr-defined]
    for before, after in itertools.pairwise(first):
        assert set(before["stopped"]) <= set(after["stopped"])


@FIXED
@given(LOSSES, LOSSES, LOSSES, st.booleans())
def test_mslr_follows_each_modality_by_its_own_accuracies(
    a: list[float], b: list[float], c: list[float], compound: bool
) -> None:
    strategies = [_ended(MSLR(memory=2, compound=compound), {"a": a, "b": x}, "acc")[0] for x in (b, c)]
    one, two = strategies
    assert one.factor("a") == two.factor("a") > 0  # type: ignore[attr-defined]
    constant = _ended(MSLR(memory=2, compound=compound, factors={"a": 0.9}), {"a": [0.25] * 5, "b": a}, "acc")[0]
    assert constant.factor("a") == pytest.approx(0.9)  # type: ignore[attr-defined]


@pytest.mark.parametrize("rate", [1e-3, 10.0])
def test_the_speeds_of_greedy_do_not_depend_on_the_rate(rate: float) -> None:
    found = []
    for lr in (0.05, rate):
        run = bench_run(Greedy())
        for group in run.optimizer.param_groups:
            group["lr"] = lr
        run.start_epoch()
        run.step(next(iter(run.epoch_batches())))
        found.append(run.strategy.speeds)  # type: ignore[attr-defined]
    assert torch.equal(found[0], found[1]) and bool(found[0].isfinite().all())


def _gradients(strategy: Strategy) -> dict[str, Tensor]:
    run = run_of(strategy)
    run.start_epoch()
    run.step(next(iter(run.epoch_batches())))
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in run.model.named_parameters()}


def test_matching_alone_leaves_the_classifier_without_gradient_and_no_matching_is_classification() -> None:
    alone = _gradients(DynamicGap(schedule="constant", alpha=1.0))
    assert not any(bool(g.any()) for n, g in alone.items() if n.startswith("head."))
    assert any(bool(g.any()) for n, g in alone.items() if n.startswith("encoders."))
    plain, none = _gradients(Strategy()), _gradients(DynamicGap(schedule="constant", alpha=0.0))
    assert all(torch.equal(g, none[n]) for n, g in plain.items())


@FIXED
@given(
    st.lists(st.floats(-50, 50), min_size=1, max_size=6),
    st.floats(0, 1),
    st.floats(0.001, 10),
    st.sampled_from(["eta", "rms"]),
)
def test_a_learned_alpha_never_leaves_the_box(derivatives: list[float], start: float, eta: float, step: Any) -> None:
    strategy = DynamicGap(
        schedule="learned", alpha=start, eta=eta, normalize=False, max_change=1.0, step=step, travel=5
    )
    rule: Any = strategy.learner.step  # type: ignore[attr-defined]
    alpha = start
    for h in derivatives:
        alpha = rule(alpha, SimpleNamespace(value=h, direction=0.0, usable=True), 10)
        assert 0.0 <= alpha <= 1.0


@FIXED
@given(SEEDS, st.integers(2, 4), st.floats(0.01, 100))
def test_scaling_all_classifiers_of_a_sum_alike_decides_the_same(seed: int, n: int, scale: float) -> None:
    g = torch.Generator().manual_seed(seed)
    z = {m: torch.randn(5, 3, generator=g, dtype=torch.float64) for m in "abcd"[:n]}
    torch.manual_seed(seed)
    head = Sum(dict.fromkeys(z, 3), 4).double()
    before = head(z).logits.detach()
    with torch.no_grad():
        for p in head.parameters():
            p.mul_(scale)
    top = before.topk(2, 1).values
    assume(float((top[:, 0] - top[:, 1]).min()) > 1e-9)
    assert torch.equal(head(z).logits.argmax(1), before.argmax(1))

"""Relearning, ReconBoost, AUG and AMSS: what is trained when, and from which weights."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics.cluster import contingency_matrix

pytest.importorskip("mmzoo_later", reason="mmzoo-later is not installed")

from later_helpers import SEEDS, drawn, quick, started
from mmzoo_later import amss, aug, reconboost, relearning
from mmzoo_later.aug import AUG
from mmzoo_later.reconboost import ReconBoost
from mmzoo_later.relearning import Relearning

from mmzoo.api import Run, Training
from mmzoo.heads.shared import Shared
from mmzoo.heads.sum import Sum
from mmzoo.testing.harness.tasks import build_model, make_task


# ---------------------------------------------------------------------- Relearning
@quick
@given(SEEDS, st.integers(1, 40), st.integers(2, 5))
def test_purity_is_that_of_the_contingency_table(seed: int, n: int, classes: int) -> None:
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import MinMaxScaler

    x, y = drawn(seed, n, 3), torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))
    clusters = KMeans(min(classes, n), random_state=0).fit_predict(MinMaxScaler().fit_transform(x.numpy()))
    expected = contingency_matrix(y.numpy(), clusters).max(0).sum() / n
    assert relearning.purity(x, y, classes) == pytest.approx(expected)


def test_relearning_moves_towards_the_start_and_leaves_the_rest() -> None:
    run = started(Relearning(every=2, times=1), norm=True)
    initial = {n: p.detach().clone() for n, p in run.model.encoders.named_parameters()}
    run.strategy._gap = lambda run, a, b: torch.tensor(0.2, dtype=torch.float64)  # type: ignore[attr-defined]
    w = float(torch.tanh(torch.tensor(0.6, dtype=torch.float64)))
    for epoch in range(4):
        run.train_epoch()
        before = {n: t.detach().clone() for n, t in run.model.state_dict().items()}
        run.end_epoch()
        for name, t in run.model.state_dict().items():
            name_in = name.removeprefix("encoders.")
            if epoch == 1 and name_in in initial and name != name_in:
                expected = w * initial[name_in] + (1 - w) * before[name]
                assert torch.allclose(t, expected), name
            else:
                assert torch.equal(t, before[name]), (epoch, name)
    assert run.strategy.done == 1  # type: ignore[attr-defined]


# ---------------------------------------------------------------------- ReconBoost
@quick
@given(SEEDS, st.integers(2, 5))
def test_reconboost_weighs_down_what_the_others_know(seed: int, classes: int) -> None:
    logits, others = drawn(seed, 7, classes), drawn(seed + 1, 7, classes)
    y = torch.randint(classes, (7,), generator=torch.Generator().manual_seed(seed))
    each = reconboost.boosting_losses(logits, others, y)
    ce = F.cross_entropy(logits, y, reduction="none")
    q = others.softmax(1)[torch.arange(7), y]
    assert torch.allclose(each, (5 - q) * ce / classes)
    assert bool((each >= 4 * ce / classes - 1e-12).all() and (each <= 5 * ce / classes + 1e-12).all())


@pytest.mark.parametrize("form", ["live", "detached"])
def test_reconboost_trains_one_modality_and_then_all(form: Any) -> None:
    run = started(ReconBoost(alone=1, joint=1, agreement_form=form), head=Sum, norm=True)
    moved = []
    for _ in range(4):
        before = {n: t.clone() for n, t in run.model.state_dict().items()}
        run.train_epoch()
        run.end_epoch()
        after = run.model.state_dict()
        moved.append({n for n in before if not torch.equal(before[n], after[n])})
    for epoch, (mine, other) in ((0, ("audio", "image")), (2, ("image", "audio"))):
        assert not [n for n in moved[epoch] if f".{other}" in n] and [n for n in moved[epoch] if f".{mine}" in n]
        assert "extra.reconboost.value" not in moved[epoch]
    for epoch in (1, 3):
        assert {n.split(".")[1] for n in moved[epoch] if n.startswith("encoders.")} == {"audio", "image"}
        assert "extra.reconboost.value" in moved[epoch]


def test_reconboost_agreement_of_the_released_code_changes_nothing() -> None:
    results = {}
    for name, params in (
        ("none", {"agreement": 0.0}),
        ("released", {"agreement_form": "detached"}),
        ("live", {}),
    ):
        run = started(ReconBoost(alone=1, joint=0, **params), head=Sum)
        run.train_epoch()
        results[name] = torch.cat([p.detach().flatten() for p in run.model.parameters()])
    assert torch.equal(results["none"], results["released"])
    assert not torch.equal(results["none"], results["live"])


def test_reconboost_forgets_momentum_where_a_phase_starts() -> None:
    run = started(ReconBoost(alone=1, joint=1), head=Sum)
    run.train_epoch()
    run.end_epoch()
    assert run.optimizer.state
    run.start_epoch()
    assert not run.optimizer.state


# ---------------------------------------------------------------------- AUG
@quick
@given(SEEDS, st.floats(0, 1))
def test_aug_trains_a_new_layer_on_what_is_left(seed: int, residual: float) -> None:
    before, new = drawn(seed, 6, 3), drawn(seed + 1, 6, 3)
    y = torch.randint(3, (6,), generator=torch.Generator().manual_seed(seed))
    p = before.softmax(1)[torch.arange(6), y]
    left = ((1 - residual * p) * F.cross_entropy(new, y, reduction="none")).mean()
    expected = F.cross_entropy(before + new, y) + F.cross_entropy(before, y) + left
    each = aug.boosted_losses(before + new, before, new, y, residual)
    assert float(each.mean()) == pytest.approx(float(expected))


@pytest.mark.parametrize("growth", ["trained", "released"])
def test_aug_grows_trains_and_goes_on_from_a_checkpoint(growth: Any) -> None:
    def fresh(state: Any = None) -> Run:
        task = make_task(2, equal=True, dtype=torch.float64)
        return Run(
            build_model(task, Shared),
            AUG(growth=growth),
            train=task.loader("train"),
            state=state,
            training=Training(lr=0.05, momentum=0.9, batch_size=5, epochs=5),
        )

    def epochs(run: Run, n: int) -> None:
        for _ in range(n):
            run.train_epoch()
            run.end_epoch()

    run = fresh()
    epochs(run, 3)
    grown = [n for n in run.model.extra]
    assert grown and sorted(grown) == sorted(
        f"aug_{m}_{i}" for m in run.modalities for i in range(run.strategy.grown.count(m))
    )  # type: ignore[attr-defined]
    state = run.state_dict()
    before = {n: p.detach().clone() for n, p in run.model.extra.named_parameters()}
    epochs(run, 2)
    after = dict(run.model.extra.named_parameters())
    assert all(torch.equal(before[n], after[n]) == (growth == "released") for n in before)
    other = fresh(state)
    epochs(other, 2)
    assert all(torch.equal(a, b) for a, b in zip(run.model.state_dict().values(), other.model.state_dict().values()))


def test_aug_predicts_by_what_it_trained() -> None:
    """The decision rule, which sees outputs alone, gives the logits that the training pass had."""
    run = started(AUG(weights={"audio": 0.4, "image": 0.6}), head=Shared)
    for _ in range(3):
        run.train_epoch()
        run.end_epoch()
    assert run.model.extra
    batch = next(iter(run.train()))
    from mmzoo.api import Step

    out = run.model.eval()(batch.inputs)
    trained = run.strategy.outputs(Step(run, batch), out)
    predicted = run.strategy.predict(out)
    assert torch.allclose(trained.logits, predicted.logits)
    assert torch.allclose(predicted.logits, 0.4 * trained.unimodal["audio"] + 0.6 * trained.unimodal["image"])
    assert not torch.allclose(predicted.logits, out.logits)


# ---------------------------------------------------------------------- AMSS
@quick
@given(SEEDS, st.integers(1, 40), st.floats(0.1, 0.9))
def test_amss_keeps_so_many_channels_and_none_without_importance(seed: int, n: int, share: float) -> None:
    g = torch.Generator().manual_seed(seed)
    importance = torch.rand(n, generator=g, dtype=torch.float64) * (torch.rand(n, generator=g) < 0.7)
    uniform = torch.rand(n, generator=g, dtype=torch.float64)
    factors = amss.channel_factors(importance, torch.tensor(share, dtype=torch.float64), uniform)
    wanted = int(torch.tensor(n * share, dtype=torch.float64).ceil())
    assert int((factors == 1).sum()) == wanted and set(factors.tolist()) <= {0.0, 1.0}
    positive = int((importance > 0).sum())
    assert int(factors[importance > 0].sum()) >= min(wanted, positive)  # the others only where there are no more


def test_amss_draws_like_torch_multinomial() -> None:
    """Chances of being among two of four, drawn one after the other without replacement."""
    p = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64)
    g = torch.Generator().manual_seed(0)
    n = 4000
    ours = torch.stack(
        [amss.channel_factors(p, torch.tensor(0.5), torch.rand(4, generator=g, dtype=torch.float64)) for _ in range(n)]
    ).mean(0)
    exact = torch.tensor(
        [sum(p[i] * p[j] / (1 - p[i]) for i, j in itertools.permutations(range(4), 2) if u in (i, j)) for u in range(4)]
    )
    assert torch.allclose(ours, exact.double(), atol=0.03)


@quick
@given(SEEDS, st.integers(2, 4), st.floats(0.05, 2))
def test_amss_trains_less_of_the_stronger(seed: int, m: int, temperature: float) -> None:
    ratios = drawn(seed, m).abs()
    shares = amss.keep_ratios(ratios, torch.ones(m), temperature)
    order = ratios.argsort()
    assert bool((shares[order].diff() <= 1e-12).all())
    assert bool(((shares >= 0.1) & (shares <= 0.9)).all())
    equal = amss.keep_ratios(ratios, torch.tensor([1.0] * (m - 1) + [0.0]), temperature)
    assert torch.allclose(equal, torch.full_like(equal, min(0.9, 1 - 1 / m)))

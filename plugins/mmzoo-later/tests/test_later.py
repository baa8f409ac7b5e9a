"""The contract checks that every method has to pass, the recorded numbers, and the methods' own invariants."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.cluster import contingency_matrix
from torch import Tensor

pytest.importorskip("mmzoo_later", reason="mmzoo-later is not installed")

from mmzoo_later import amss, aug, cml, inforeg, mmpareto, modality_valuation, opm, reconboost, relearning
from mmzoo_later import replays as _replays  # noqa: F401
from mmzoo_later.amss import AMSS
from mmzoo_later.aug import AUG
from mmzoo_later.cml import CML
from mmzoo_later.inforeg import InfoReg
from mmzoo_later.mmcosine import MMCosine
from mmzoo_later.mmpareto import MMPareto
from mmzoo_later.modality_valuation import ModalityValuation
from mmzoo_later.opm import OPM
from mmzoo_later.reconboost import ReconBoost
from mmzoo_later.relearning import Relearning

from mmzoo.api import Chain, Incompatible, Run, Strategy, Training
from mmzoo.heads.concat import Concat
from mmzoo.heads.shared import Shared
from mmzoo.heads.sum import Sum
from mmzoo.strategies.gblend import GBlend
from mmzoo.strategies.mla import MLA
from mmzoo.testing import check_installed, check_vectors, parametrize_with_checks, run_program
from mmzoo.testing.harness.tasks import build_model, make_task

VECTORS = sorted((Path(__file__).parent / "vectors").glob("*.json"))
SEEDS = st.integers(0, 10**6)
quick = settings(deadline=None, max_examples=25, derandomize=True)


# ---------------------------------------------------------------------- contracts
@parametrize_with_checks(
    [
        MMPareto,
        lambda: Relearning(every=1, times=2),
        lambda: ModalityValuation(warmup=0),
        lambda: ModalityValuation(warmup=0, level="modality", part=1.0, strength=3.0),
        CML,
        InfoReg,
        lambda: AMSS(mode="amss_plus"),
        AMSS,
    ],
    draws=2,
)
def test_contract(check) -> None:  # type: ignore[no-untyped-def]
    check()


@parametrize_with_checks(
    [lambda: OPM(warmup=0, execute=1.0)],
    draws=2,
    expected_failures={"check_no_waiting": "items of which nothing is left are taken out of the loss by an index"},
)
def test_contract_of_dropping(check) -> None:  # type: ignore[no-untyped-def]
    check()


@parametrize_with_checks([lambda: ReconBoost(alone=1, joint=1)], head=Sum, draws=2)
def test_contract_of_boosting(check) -> None:  # type: ignore[no-untyped-def]
    check()


@parametrize_with_checks([AUG, lambda: AUG(growth="released")], head=Shared, draws=2)
def test_contract_of_growth(check) -> None:  # type: ignore[no-untyped-def]
    check()


@parametrize_with_checks([MMCosine], kind="head", draws=2)
def test_contract_of_the_head(check) -> None:  # type: ignore[no-untyped-def]
    check()


@pytest.mark.parametrize("path", VECTORS, ids=lambda p: p.stem)
def test_recorded_numbers(path: Path) -> None:
    check_vectors(path)


# ---------------------------------------------------------------------- helpers
def started(strategy: Strategy, modalities: int = 2, head: Any = Concat, **options: Any) -> Run:
    task = make_task(modalities, equal=True, dtype=torch.float64)
    with_slice = task.loader("slice") if "slice" in strategy.requires else None
    training = Training(lr=0.05, momentum=0.9, weight_decay=0.01, batch_size=5, epochs=options.pop("epochs", 4))
    return Run(
        build_model(task, head, **options), strategy, train=task.loader("train"), slice=with_slice, training=training
    )


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------------- MMPareto
@quick
@given(SEEDS, st.integers(1, 5))
def test_mmpareto_climbs_neither_loss_and_is_the_sum_without_conflict(seed: int, width: int) -> None:
    a, b = drawn(seed, 2, width)
    cosine, w = mmpareto.shares([a], [b])
    (result,) = mmpareto.integrate([a], [b], gamma=1.0)
    assert 0 < float(w) < 1
    if float(cosine) > 0:
        assert torch.allclose(result, a + b)
        return
    if 0.001 < float(w) < 0.999:  # the shortest vector has the same product with both
        assert float(result @ a) >= -1e-12 and float(result @ b) >= -1e-12
    mixed = [t * a + (1 - t) * b for t in torch.linspace(0.001, 0.999, 500, dtype=torch.float64)]
    shortest = (w * a + (1 - w) * b).norm()
    assert float(shortest) <= min(float(v.norm()) for v in mixed) + 1e-12
    combined = 2 * (w * a + (1 - w) * b)
    assert float(result.norm()) >= float(combined.norm()) - 1e-12


def test_mmpareto_without_its_guard_scales_rounding_errors() -> None:
    joint, own = [torch.tensor([2.0, 0.3], dtype=torch.float64)], [torch.tensor([-1.0, -0.15], dtype=torch.float64)]
    plain = joint[0] + own[0]
    (guarded,) = mmpareto.integrate(joint, own)
    (released,) = mmpareto.integrate(joint, own, floor=0.0)
    assert float(guarded.norm()) < 1e-9
    assert float(released.norm()) == 0.0 or float(released.norm()) == pytest.approx(1.5 * float(plain.norm()))


@pytest.mark.parametrize("modalities", [2, 3])
def test_mmpareto_takes_separate_gradients(modalities: int) -> None:
    """The encoders' gradients are those that two backward passes by hand give; the head's are those of the sum."""
    seen: dict[str, Tensor] = {}

    class Watched(MMPareto):
        def gradients(self, step, out, grads):  # type: ignore[no-untyped-def]
            seen.update({n: p.grad.clone() for n, p in step.run.model.named_parameters() if p.grad is not None})

    run = started(Watched(), modalities)
    run.start_epoch()
    batch = next(iter(run.epoch_batches()))
    model = run.model
    out = model(batch.inputs)
    joint = F.cross_entropy(out.logits, batch.target)
    own = {m: F.cross_entropy(model.extra[f"mmpareto_{m}"](z), batch.target) for m, z in out.features.items()}
    expected = {}
    for m, encoder in model.encoders.items():
        params = list(encoder.parameters())
        a = torch.autograd.grad(joint, params, retain_graph=True)
        b = torch.autograd.grad(own[m], params, retain_graph=True)
        expected[m] = mmpareto.integrate(a, b)
    head = torch.autograd.grad(joint, list(model.head.parameters()), retain_graph=True)
    run.step(batch)
    for m, encoder in model.encoders.items():
        for (name, _), g in zip(encoder.named_parameters(), expected[m]):
            assert torch.allclose(seen[f"encoders.{m}.{name}"], g)
    for (name, _), g in zip(model.head.named_parameters(), head):
        assert torch.allclose(seen[f"head.{name}"], g)


# ---------------------------------------------------------------------- OPM
@quick
@given(st.lists(st.floats(0, 64), min_size=2, max_size=4), st.floats(0, 1), st.floats(0, 2))
def test_opm_never_drops_the_weakest(scores: list[float], base: float, strength: float) -> None:
    s = torch.tensor(scores, dtype=torch.float64)
    q = opm.drop_probabilities(s, base, strength)
    assert float(q[s.argmin()]) == 0.0
    positive = q[q > 0]
    assert bool(((positive >= base - 1e-12) & (positive <= min(1.0, base * (1 + strength)) + 1e-12)).all())
    order = torch.randperm(len(s), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(opm.drop_probabilities(s[order], base, strength), q[order])


def test_opm_keeps_the_expected_size_of_features_and_drops_who_is_ahead() -> None:
    run = started(OPM(warmup=0, execute=1.0, base=0.6))
    strategy = run.strategy
    strategy._probabilities = lambda step, feats: torch.tensor([0.6, 0.0], dtype=torch.float64)  # type: ignore[attr-defined]
    from mmzoo.api import Batch, Step

    n = 20_000
    feats = {"audio": torch.ones(n, 5, dtype=torch.float64), "image": torch.ones(n, 5, dtype=torch.float64)}
    step = Step(run, Batch(feats, torch.zeros(n, dtype=torch.int64), torch.arange(n)))
    found = strategy.features(step, feats)
    assert step.keep is not None and bool(step.keep.all())
    assert float((found["audio"][:, 0] == 0).double().mean()) == pytest.approx(0.6, abs=0.02)
    assert bool((found["image"] == 1 / 0.7).all())
    assert float(torch.cat(list(found.values()), 1).mean()) == pytest.approx(1.0, abs=0.02)


# ---------------------------------------------------------------------- MMCosine
@quick
@given(SEEDS, st.floats(0.01, 100), st.lists(st.floats(0.01, 100), min_size=2, max_size=3))
def test_mmcosine_knows_directions_only(seed: int, scale: float, factors: list[float]) -> None:
    dims = {f"m{i}": 3 + i for i in range(len(factors))}
    head = MMCosine(dims, 4, scale=scale).double().requires_grad_(False)
    z = {m: drawn(seed + i, 6, d) for i, (m, d) in enumerate(dims.items())}
    out, longer = head(z), head({m: f * x for f, (m, x) in zip(factors, z.items())})
    assert torch.allclose(out.logits, longer.logits, atol=1e-9)
    for m, x in z.items():
        assert float(out.unimodal[m].abs().max()) <= scale + 1e-9
        expected = scale * F.cosine_similarity(x[:, None], head.weight[m][None], dim=-1)
        assert torch.allclose(out.unimodal[m], expected, atol=1e-9)


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


# ---------------------------------------------------------------------- modality valuation
@quick
@given(SEEDS, st.integers(1, 4))
def test_contributions_are_shapley_values(seed: int, m: int) -> None:
    """Against the definition by orders; they add up to v of all."""
    names = [f"m{i}" for i in range(m)]
    g = torch.Generator().manual_seed(seed)
    sets = [frozenset(s) for k in range(1, m + 1) for s in itertools.combinations(names, k)]
    correct = {s: torch.rand(5, generator=g) < 0.5 for s in sets}
    phi = modality_valuation.contributions(correct, names)

    def value(s: frozenset[str]) -> Tensor:
        return correct[s].double() * len(s) if s else torch.zeros(5, dtype=torch.float64)

    orders = list(itertools.permutations(names))
    for i, u in enumerate(names):
        gains = [value(frozenset(o[: o.index(u) + 1])) - value(frozenset(o[: o.index(u)])) for o in orders]
        assert torch.allclose(phi[:, i], torch.stack(gains).mean(0))
    assert torch.allclose(phi.sum(1), value(frozenset(names)))


@pytest.mark.parametrize("level", ["sample", "modality"])
def test_valuation_repeats_items_without_the_others(level: Any) -> None:
    run = started(ModalityValuation(warmup=2, level=level, part=1.0, strength=3.0), 3)
    for _ in range(2):
        run.train_epoch()
        assert run._sampling is None
        run.end_epoch()
    run.start_epoch()
    rows, drop, _ = run._sampling  # type: ignore[misc]
    assert drop is not None
    n = 14
    assert len(rows) > n and torch.equal(rows[:n], torch.arange(n)) and not bool(drop[:n].any())
    assert bool((drop[n:].sum(1) == (2 if level == "sample" else 1)).all())
    if level == "sample":
        phi = torch.cat([run.strategy._contributions(run, b) for b in run.train(shuffled=False)])  # type: ignore[attr-defined]
        copies = modality_valuation.extra_copies(phi)
        for u in range(3):
            kept = ~drop[n:, u]
            assert torch.equal(torch.bincount(rows[n:][kept], minlength=n), copies[:, u])
    seen = torch.cat([b.index for b in run.epoch_batches()])
    assert torch.equal(seen.sort().values, rows.sort().values)


# ---------------------------------------------------------------------- CML
@quick
@given(SEEDS, st.floats(0, 0.2))
def test_cml_is_zero_where_confidence_is_monotone_and_bounds_the_peers_form(seed: int, margin: float) -> None:
    full, part = drawn(seed, 9, 3).softmax(1), drawn(seed + 1, 9, 3).softmax(1)
    y = torch.randint(3, (9,), generator=torch.Generator().manual_seed(seed))
    right = full.argmax(1)
    assert float(cml.rank_loss(full, part, right, form="masked")) >= float(
        cml.rank_loss(full, part, right, form="peer")
    )
    unsure = torch.full_like(part, 1 / 3)
    for form in ("authors", "masked", "peer"):
        assert float(cml.rank_loss(full, unsure, y, margin, form)) == pytest.approx(0.0, abs=1e-12)  # type: ignore[arg-type]
    assert float(cml.rank_loss(full, part, y, margin)) >= float(cml.rank_loss(full, part, y, margin, "masked"))


def test_cml_does_not_raise_confidence_where_both_are_wrong() -> None:
    full = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64, requires_grad=True)
    part = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64, requires_grad=True)
    cml.rank_loss(full, part, torch.tensor([2])).backward()
    assert part.grad is not None and float(part.grad[0, 0]) == 1.0
    assert full.grad is None or not bool(full.grad.any())


# ---------------------------------------------------------------------- InfoReg
@quick
@given(SEEDS, st.integers(2, 4))
def test_inforeg_holds_the_leader_alone(seed: int, m: int) -> None:
    s = drawn(seed, m) * 3
    beta = inforeg.pulls(s, torch.full((m,), 0.95, dtype=torch.float64))
    assert int((beta > 0).sum()) == 1 and float(beta[s.argmax()]) > 0
    second = s.sort().values[-2]
    assert float(beta.max()) == pytest.approx(0.95 * float(torch.exp(torch.tanh(s.max() - second))))
    assert not bool(inforeg.pulls(torch.ones(m), torch.ones(m)).any())


def test_inforeg_window_opens_with_growth() -> None:
    assert inforeg.rate([]) == inforeg.rate([3.0]) == inforeg.rate([0.0, 0.0]) == 1.0
    assert inforeg.rate([1.0, 3.0]) == pytest.approx((2 - 1) / 2)
    assert inforeg.rate([2.0] * 11) == 0.0
    traces = [float(x) for x in range(1, 13)]
    now, before = sum(traces[-10:]) / 10, sum(traces[-11:-1]) / 10
    assert inforeg.rate(traces) == pytest.approx((now - before) / now)


def test_inforeg_pulls_towards_the_start_of_the_epoch() -> None:
    run = started(InfoReg(weight=0.0))
    run.strategy._pulls = lambda step, out: {"audio": torch.tensor(2.0), "image": torch.tensor(0.0)}  # type: ignore[attr-defined]
    seen: list[dict[str, Tensor]] = []
    inner = run.strategy.gradients

    def watched(step: Any, out: Any, grads: Any) -> None:
        before = {n: p.grad.clone() for n, p in run.model.encoders.named_parameters() if p.grad is not None}
        inner(step, out, grads)
        start = {f"{m}.{n}": t for m, s in run.strategy.start.items() for n, t in s.items()}  # type: ignore[attr-defined]
        for name, p in run.model.encoders.named_parameters():
            pull = 2.0 * (p.detach() - start[name]) if name.startswith("audio") else 0.0
            assert torch.allclose(p.grad, before[name] + pull)  # type: ignore[arg-type]
        seen.append(before)

    run.strategy.gradients = watched  # type: ignore[method-assign]
    run.train_epoch()
    assert len(seen) == run.steps_per_epoch


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


# ---------------------------------------------------------------------- together
@pytest.mark.parametrize(
    ("parts", "owned"),
    [
        ([AUG, ReconBoost], "predict"),
        ([AUG, MLA], "predict"),
        ([ReconBoost, GBlend], "task"),
        ([MMPareto, MMPareto], "backward"),
        ([ModalityValuation, ModalityValuation], "data"),
    ],
)
def test_two_owners_are_refused(parts: Sequence[Any], owned: str) -> None:
    with pytest.raises(Incompatible, match=owned):
        Chain(*(part() for part in parts))


def test_what_cannot_work_says_why() -> None:
    with pytest.raises(Incompatible, match="take the head sum or shared"):
        started(ReconBoost())
    with pytest.raises(Incompatible, match=r"head shared or sum"):
        started(AUG())
    with pytest.raises(Incompatible, match="InfoReg is told of video"):
        started(InfoReg(watch="video"))
    with pytest.raises(Incompatible, match="Give each of them one"):
        started(AUG(weights={"audio": 1.0}), head=Shared)
    for strategy in (MMPareto(), OPM(), ReconBoost(), ModalityValuation(), CML(), InfoReg(), AUG(), AMSS()):
        with pytest.raises(Incompatible, match="at least 2 modalities"):
            started(strategy, 1, Sum)


def test_installed_as_a_stranger(tmp_path: Path) -> None:
    """The installed program finds the package and benches all its methods beside the built-in ones."""
    mmzoo = partial(run_program, cwd=tmp_path)
    check_installed("mmzoo-later", tmp_path)
    listed = json.loads(mmzoo("list", "methods", "--json"))["methods"]
    mine = sorted(e["name"] for e in listed if e["package"] == "mmzoo-later")
    assert len(mine) == 15
    mmzoo(
        "bench",
        "--method",
        "mmpareto",
        "--baselines",
        ",".join([*(n for n in mine if n != "mmpareto"), "opm+amss"]),
        "--no-references",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--datasets",
        "mfeat",
        "--set",
        "opm.warmup=0",
        "--set",
        "modality_valuation.warmup=0",
        "--set",
        "relearning.every=1",
        "--set",
        "relearning.times=1",
        "--out",
        "results",
    )
    rows = json.loads(mmzoo("report", "results", "--format", "json"))["rows"]
    assert sorted(r["status"] for r in rows) == ["ok"] * 16


def test_the_registry_says_which_strategies_train_in_one_process() -> None:
    from mmzoo.registry import read_entries

    path = Path(amss.__file__).with_name("registry.yaml")
    entries = [e for e in read_entries(path, "mmzoo-later") if e.kind == "strategies"]
    assert {e.name: e.extra.get("single_process", "") for e in entries} == {
        e.name: e.load().single_process for e in entries
    }

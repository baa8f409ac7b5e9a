"""AGM and MLA: steps by hand in numpy, what their mathematics promises, and what the engine gained for them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_values import Linear, Sgd, Weights, assert_same, cross_entropy, gradient, log_softmax, weights_of
from torch import Tensor

from mmzoo.api import Batch, Chain, Encoder, Incompatible, MultimodalModel, Outputs, Pass, Run, Step, Strategy, Window
from mmzoo.cli import main
from mmzoo.errors import UnknownName
from mmzoo.functional import shapley_weights
from mmzoo.heads.concat import Concat
from mmzoo.heads.shared import Shared
from mmzoo.heads.sum import Sum
from mmzoo.strategies import agm, mla
from mmzoo.strategies.agm import AGM
from mmzoo.strategies.mla import MLA
from mmzoo.strategies.plain import Plain
from mmzoo.testing import check_strategy
from mmzoo.testing.checks.strategy import REGULARISED
from mmzoo.testing.harness.observing import difference, weights
from mmzoo.testing.harness.tasks import CoupledConcat, build_model, build_run, make_task, random_present, train
from mmzoo.training.config import Training

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=40)
SEEDS = st.integers(0, 10_000)
N, C = 6, 3
IN = {"a": 4, "v": 2, "t": 3}


def rows(seed: int, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------------- whole steps, by hand
def batches(modalities: Sequence[str], n: int = 3) -> list[Batch]:
    found = []
    for i in range(n):
        g = torch.Generator().manual_seed(i)
        target = torch.cat([torch.arange(C), torch.randint(C, (N - C,), generator=g)])
        inputs = {m: rows(10 * i + IN[m], N, IN[m]) + 0.5 * target[:, None] / (j + 1) for j, m in enumerate(modalities)}
        found.append(Batch(inputs, target, torch.arange(N) + N * i))
    return found


def run_of(strategy: Strategy, modalities: Sequence[str], head: Any) -> Run:
    torch.manual_seed(0)
    encoders: dict[str, Encoder] = {m: Linear(IN[m], 3) for m in modalities}
    model = MultimodalModel(encoders, head({m: e.out_dim for m, e in encoders.items()}, C)).double()
    training = Training(optimizer="sgd", lr=0.2, momentum=0.9, weight_decay=0.03, epochs=3)
    return Run(model, strategy, train=batches(modalities), training=training, seed=5)


def encoded(w: Weights, m: str, x: Any) -> Any:
    return x @ w[f"encoders.{m}.linear.weight"].T + w[f"encoders.{m}.linear.bias"]


def logits_on(w: Weights, batch: Batch, there: Sequence[str]) -> Any:
    """f(S) of the concat head: inputs outside `there` are zeros; nothing at all counts as zero."""
    if not there:
        return np.zeros((N, C))
    x = {m: t.numpy() * (m in there) for m, t in batch.inputs.items()}
    return sum(encoded(w, m, x[m]) @ w[f"head.weight.{m}"].T for m in x) + w["head.bias"]


def responses_of(w: Weights, batch: Batch) -> dict[str, Any]:
    """Shapley values as what a modality adds, on average over all orders in which the modalities may come."""
    names = list(batch.inputs)
    orders = list(itertools.permutations(names))
    phi = dict.fromkeys(names, 0.0)
    for order in orders:
        for i, m in enumerate(order):
            added = logits_on(w, batch, order[: i + 1]) - logits_on(w, batch, order[:i])
            phi[m] = phi[m] + added / len(orders)
    return phi


def factors_of(phi: Mapping[str, Any], y: Any, means: Mapping[str, float], alpha: float) -> tuple[Any, Any]:
    """(scores, kappa) with the exponent written for two and for three modalities."""
    s = {m: float(-np.maximum(log_softmax(z)[np.arange(len(y)), y], math.log(1e-8)).mean()) for m, z in phi.items()}

    def ratio(of: Mapping[str, float], m: str) -> float:
        others = [of[k] for k in of if k != m]
        if len(others) == 1:
            return math.exp(others[0] - of[m])
        return math.exp(1.5 * (sum(of.values()) / 3 - of[m]))

    cap = 10 if len(s) == 2 else 7
    return s, {m: math.exp(alpha * min(ratio(means, m) - ratio(s, m), cap)) for m in s}


def clipped(g: Weights, limit: float | None) -> Weights:
    largest = max(np.abs(v).max() for k, v in g.items() if k.startswith("head."))
    if limit is None or largest <= limit:
        return g
    norm = math.sqrt(sum(float((v**2).sum()) for v in g.values()))
    return {k: v * min(1.0, limit / (norm + 1e-6)) for k, v in g.items()}


@pytest.mark.parametrize("modalities", [("a", "v"), ("a", "v", "t")], ids=len)
@pytest.mark.parametrize(("how", "clip"), [("exact", None), ("exact", 0.05), ("detached", None), ("detached", 0.05)])
def test_agm(how: Any, clip: float | None, modalities: tuple[str, ...]) -> None:
    alpha, found, clips = 1.5, [], []
    means, t = dict.fromkeys(modalities, 0.0), 0

    def by_hand(w: Weights, batch: Batch) -> Weights:
        nonlocal t
        y, phi = batch.target.numpy(), responses_of(w, batch)
        score, kappa = factors_of(phi, y, means, alpha)
        t += 1
        means.update({m: means[m] * (t - 1) / t + score[m] / t for m in means})
        found.extend(kappa.values())
        if how == "exact":
            at = np.exp(log_softmax(logits_on(w, batch, modalities)))
            at[np.arange(N), y] -= 1.0

            def scaled(u: Weights) -> Any:
                return sum((at / N * kappa[m] * z).sum() for m, z in responses_of(u, batch).items())

            g = gradient(scaled, w)
        else:
            g = gradient(lambda u: cross_entropy(logits_on(u, batch, modalities), y), w)
            for m in modalities:
                for key in (f"encoders.{m}.linear.weight", f"encoders.{m}.linear.bias", f"head.weight.{m}"):
                    g[key] = kappa[m] * g[key]
            g["head.bias"] = np.mean(list(kappa.values())) * g["head.bias"]
        clips.append(clip is not None and clipped(g, clip) is not g)
        return clipped(g, clip)

    run, sgd = run_of(AGM(alpha=alpha, clip=clip, gradient=how), modalities, Concat), Sgd()
    w = weights_of(run.model)
    for _ in range(2):
        run.start_epoch()
        for batch in run.epoch_batches():
            run.step(batch)
            w = sgd.step(w, by_hand(w, batch))
            assert_same(run.model, w)
        run.end_epoch()
    assert min(found) < 0.9 and max(found) > 1.1 and any(clips) == (clip is not None)
    assert run.cost.forward == 2 * t and run.cost.backward == (2 if how == "exact" else 1) * t


@pytest.mark.parametrize("modalities", [("a", "v"), ("t", "a", "v")], ids=len)
@pytest.mark.parametrize("projection", ["owm", "owm_normalized", "released", "none"])
def test_mla(projection: Any, modalities: tuple[str, ...]) -> None:
    run, velocity = run_of(MLA(projection=projection), modalities, Shared), {}
    w, p, calls = weights_of(run.model), np.eye(3), 0
    epochs, atol = (1, 1e-8) if projection == "released" else (2, 1e-11)  # its P multiplies errors
    for _ in range(epochs):
        run.start_epoch()
        for i, batch in enumerate(run.epoch_batches()):
            run.step(batch)
            for m in modalities:
                x, y = batch.inputs[m].numpy(), batch.target.numpy()
                g = gradient(
                    lambda u, m=m, x=x, y=y: cross_entropy(
                        encoded(u, m, x) @ u["head.linear.weight"].T + u["head.linear.bias"], y
                    ),
                    w,
                )
                if calls and projection != "none":
                    r = encoded(w, m, x).mean(0)
                    k, a = p @ r, 0.1 ** (1 + i / 3)
                    below = a + (k[:, None] * r[None, :] if projection == "released" else r @ k)
                    p = p - np.outer(k, k) / below
                    p = p if projection == "owm" else p / np.sqrt((p**2).sum())
                    g["head.linear.weight"] = g["head.linear.weight"] @ p.T
                calls += 1
                for key in [k for k in w if k.startswith(("head.", f"encoders.{m}."))]:
                    total = g[key] + 0.03 * w[key]
                    velocity[key] = 0.9 * velocity[key] + total if key in velocity else total
                    w[key] = w[key] - 0.2 * velocity[key]
            for name, value in weights_of(run.model).items():
                np.testing.assert_allclose(value, w[name], rtol=0, atol=atol, err_msg=name)
        logged = run.end_epoch()
    assert run.cost.forward == pytest.approx(3 * epochs) == run.cost.backward
    assert {f"mla/{m}" for m in modalities} <= set(logged) and ("mla/kept" in logged) == (projection != "none")


# ---------------------------------------------------------------------- AGM: what its mathematics promises
def coalition_values(seed: int, names: Sequence[str]) -> dict[frozenset[str], Tensor]:
    sets = [frozenset(s) for k in range(1, len(names) + 1) for s in itertools.combinations(names, k)]
    return {s: rows(seed + i, 4, C, scale=3.0) for i, s in enumerate(sets)}


@FIXED
@given(seed=SEEDS, n=st.integers(1, 4))
def test_responses_add_up_and_follow_the_names(seed: int, n: int) -> None:
    names = list("abcd"[:n])
    values = coalition_values(seed, names)
    phi = agm.responses(values, names)
    assert torch.allclose(phi.sum(0), values[frozenset(names)], rtol=0, atol=1e-12)
    assert torch.allclose(agm.responses(values, names[::-1]), phi.flip(0), rtol=0, atol=1e-12)


@FIXED
@given(seed=SEEDS)
def test_responses_of_a_pair_are_halves(seed: int) -> None:
    values = coalition_values(seed, "av")
    a, v, both = values[frozenset("a")], values[frozenset("v")], values[frozenset("av")]
    expected = torch.stack([(both - v + a) / 2, (both - a + v) / 2])
    assert torch.allclose(agm.responses(values, "av"), expected, rtol=0, atol=1e-12)


@FIXED
@given(n=st.integers(1, 5))
def test_weights_of_shapley_values_share_out_what_all_are_worth(n: int) -> None:
    table = shapley_weights(range(n))
    for s in table[0]:
        total = sum(row[s] for row in table.values())
        assert total == pytest.approx(1.0 if len(s) == n else -1.0 if not s else 0.0, abs=1e-12)
        # A player is paid for the sets that it is in, as much as it is charged for the same sets without it.
        assert all(row[s] == pytest.approx(-row[s - {p}]) for p, row in table.items() if p in s)


LOSSES = st.lists(st.floats(0.0, 18.0), min_size=2, max_size=5)


@FIXED
@given(now=LOSSES, data=st.data(), alpha=st.floats(0.0, 3.0), cap=st.floats(0.1, 20.0), symmetric=st.booleans())
def test_factors_are_positive_bounded_and_follow_the_names(
    now: list[float], data: Any, alpha: float, cap: float, symmetric: bool
) -> None:
    scores = torch.tensor(now, dtype=torch.float64)
    means = torch.tensor([data.draw(st.floats(0.0, 18.0)) for _ in now], dtype=torch.float64)
    k = agm.coefficients(scores, means, alpha, cap, symmetric)
    assert (k >= 0).all() and (k <= math.exp(alpha * cap) * (1 + 1e-12)).all()
    if symmetric:
        assert (k >= math.exp(-alpha * cap) * (1 - 1e-12)).all()
    order = torch.tensor(data.draw(st.permutations(range(len(now)))))
    assert torch.allclose(agm.coefficients(scores[order], means[order], alpha, cap, symmetric), k[order], rtol=1e-9)
    assert torch.equal(agm.coefficients(scores, means, 0.0, cap, symmetric), torch.ones_like(k))


@FIXED
@given(level=st.floats(0.0, 18.0), before=st.floats(0.0, 18.0), n=st.integers(2, 5))
def test_equal_modalities_are_left_alone(level: float, before: float, n: int) -> None:
    same = torch.full((n,), level, dtype=torch.float64), torch.full((n,), before, dtype=torch.float64)
    assert torch.allclose(agm.coefficients(*same, 2.0), torch.ones(n, dtype=torch.float64), rtol=1e-9)


@FIXED
@given(a=st.floats(0.0, 18.0), v=st.floats(0.0, 18.0))
def test_the_ratios_of_a_pair_are_inverse(a: float, v: float) -> None:
    r = agm.ratios(torch.tensor([a, v], dtype=torch.float64))
    assert float(r[0]) == pytest.approx(math.exp(v - a), rel=1e-9) and float(r.prod()) == pytest.approx(1.0, rel=1e-9)


@FIXED
@given(now=LOSSES, data=st.data(), less=st.floats(0.01, 3.0))
def test_a_modality_that_gets_better_than_it_was_is_slowed(now: list[float], data: Any, less: float) -> None:
    scores = torch.tensor(now, dtype=torch.float64)
    better = scores.clone()
    better[0] -= less
    before, after = (agm.coefficients(s, scores, 0.5, 1000.0) for s in (scores, better))
    assert torch.allclose(before, torch.ones_like(before), rtol=1e-9) and float(after[0]) < 1.0
    assert bool((after[1:] > 1.0).all()) or len(now) == 1


def test_the_caps_are_those_of_the_authors_scripts() -> None:
    for n, cap in ((2, 10.0), (3, 7.0), (4, 7.0)):
        means = torch.zeros(n, dtype=torch.float64)
        means[1:] = 18.0
        assert float(agm.coefficients(torch.zeros_like(means), means, 1.0)[0]) == pytest.approx(math.exp(cap))


def test_factors_never_are_infinite() -> None:
    for dtype in (torch.float32, torch.float64):
        k = agm.coefficients(torch.tensor([0.0, 18.0]).to(dtype), torch.tensor([18.0, 0.0]).to(dtype), 100.0, 1000.0)
        assert float(k[0]) == 0.0 and float(k[1]) == pytest.approx(torch.finfo(dtype).max ** 0.4, rel=1e-3)


@pytest.mark.parametrize("gradient", ["exact", "detached"])
def test_without_a_cap_clipping_still_bounds_the_step(gradient: Any) -> None:
    """The preset avmnist in float32: a factor of 1e15 must not turn into infinite norms or NaN."""
    task = make_task(2)
    run = build_run(
        task, AGM(alpha=2.5, cap=1000.0, gradient=gradient), build_model(task), momentum=0.0, weight_decay=0.0
    )
    run.strategy.means, run.strategy.counts = torch.tensor([0.0, 18.0]), torch.ones(2)
    before = weights(run.model)
    run.start_epoch()
    run.step(next(run.epoch_batches()))
    moved = torch.cat([(t - before[n]).flatten() for n, t in weights(run.model).items()])
    assert float(moved.norm()) == pytest.approx(0.05, rel=1e-3)  # the rate times the norm that is let through


def test_the_true_class_counts_at_least_the_floor() -> None:
    phi = torch.tensor([[[0.0, 100.0]], [[100.0, 0.0]]], dtype=torch.float64)
    total, count = agm.score_sums(phi, torch.tensor([0]))
    assert float(total[0]) == pytest.approx(-math.log(1e-8)) and float(total[1]) == 0.0 and count.tolist() == [1.0, 1.0]


def test_modalities_without_items_take_no_part() -> None:
    scores, means = torch.tensor([0.3, 2.0, 0.0]), torch.tensor([0.9, 1.1, 0.4])
    seen = torch.tensor([True, True, False])
    k = agm.coefficients(scores, means, 0.5, 10.0, seen=seen, known=seen)
    assert torch.allclose(k[:2], agm.coefficients(scores[:2], means[:2], 0.5, 10.0)) and float(k[2]) == 1.0
    task = make_task(3)
    present = random_present(task, 0, 0.7)
    present[:, 2], present[:, 0] = False, True
    run = build_run(task.with_train(present=present), AGM(), build_model(task))
    logged = train(run, 1)
    assert logged["agm/text"] == 1.0 != logged["agm/audio"]
    assert run.strategy.counts.tolist() == [3.0, 3.0, 0.0] and float(run.strategy.means[2]) == 0.0


@pytest.mark.parametrize("n", [2, 3])
def test_each_forward_receives_its_share_of_the_factors(n: int) -> None:
    """With two modalities half the sum of both for all inputs, half their difference for one alone."""
    strategy, task = AGM(alpha=2.0), make_task(n, dtype=torch.float64)
    run, batch, names = build_run(task, strategy, build_model(task)), task.batch(), task.modalities
    sets = [frozenset(s) for k in range(1, n + 1) for s in itertools.combinations(names, k)]
    leaves = {s: rows(i, len(batch), 3).requires_grad_() for i, s in enumerate(sets)}
    run.coalitions = lambda batch, sets, present: {frozenset(s): outputs(leaves[frozenset(s)]) for s in sets}  # type: ignore[method-assign, assignment, misc]
    full = leaves[frozenset(names)]
    out = strategy.outputs(Step(run, batch), replace(outputs(full), features=dict.fromkeys(names, full)))
    assert torch.allclose(out.logits, full, atol=1e-12)
    g = rows(9, len(batch), 3)
    (out.logits * g).sum().backward()
    phi = torch.stack(list(out.unimodal.values())).detach()
    total, count = agm.score_sums(phi, batch.target)
    kappa = agm.coefficients(total / count, torch.zeros(n, dtype=torch.float64), 2.0, known=torch.zeros(n).bool())
    assert float(kappa.max() - kappa.min()) > 0.1
    table = shapley_weights(names)
    for s, leaf in leaves.items():
        share = sum(float(k) * table[m][s] for m, k in zip(names, kappa))
        assert torch.allclose(leaf.grad, share * g, atol=1e-12)
    assert torch.allclose(full.grad, kappa.mean() * g, atol=1e-12)
    if n == 2:
        alone = leaves[frozenset({names[0]})].grad
        assert torch.allclose(alone, (kappa[0] - kappa[1]) / 2 * g, atol=1e-12)


def outputs(logits: Tensor) -> Outputs:
    return Outputs(logits, {}, {})


@pytest.mark.parametrize("gradient", ["exact", "detached"])
def test_batch_statistics_and_dropout_are_those_of_plain_training(gradient: Any) -> None:
    task = make_task(3, dtype=torch.float64)
    runs = [
        build_run(task, s, build_model(task, **REGULARISED))
        for s in (Plain(), AGM(alpha=1e-9, clip=None, gradient=gradient))
    ]
    for run in runs:
        train(run, 2)
    assert difference(weights(runs[0].model), weights(runs[1].model), 1e-6) is None


def test_for_a_head_that_adds_up_detached_factors_give_the_encoders_the_exact_gradients() -> None:
    """Encoders without bias give zero for zero, so that nothing flows through the inputs of zeros."""

    class NoBias(Linear):
        def __init__(self, width: int) -> None:
            super().__init__(width, 3)
            self.linear.bias = None  # type: ignore[assignment]

    found = []
    for how in ("exact", "detached"):
        torch.manual_seed(0)
        model = MultimodalModel({m: NoBias(IN[m]) for m in IN}, Sum(dict.fromkeys(IN, 3), C)).double()
        run = Run(model, AGM(alpha=2.0, clip=None, gradient=how), train=batches(list(IN), 1))
        run.train_epoch()
        found.append({m: e.linear.weight.detach().clone() for m, e in model.encoders.items()})
    assert difference(found[0], found[1], 1e-12) is None


def test_a_window_that_closes_leaves_no_factor_at_work() -> None:
    task = make_task()
    run = build_run(task, Window(AGM(), 0, 0), build_model(task))
    assert "agm/audio" in train(run, 1) and "agm/audio" not in train(run, 1)


def test_later_parts_of_a_chain_see_the_responses() -> None:
    seen: dict[str, Any] = {}

    class Look(Strategy):
        def outputs(self, step: Step, out: Outputs) -> Outputs:
            seen["responses"], seen["logits"] = dict(out.unimodal), out.logits
            return out

    task = make_task(3)
    run = build_run(task, Chain(AGM(), Look()), build_model(task))
    train(run, 1)
    assert list(seen["responses"]) == list(task.modalities)
    assert torch.allclose(torch.stack(list(seen["responses"].values())).sum(0), seen["logits"], atol=1e-6)


# ---------------------------------------------------------------------- sets of modalities
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("head", [Concat, CoupledConcat])
def test_coalitions_are_forwards_with_zeroed_inputs(head: Any, masked: bool) -> None:
    task = make_task(3, dtype=torch.float64)
    if masked:
        task = task.with_train(present=random_present(task, 1))
    run = build_run(task, Plain(), build_model(task, head, **REGULARISED))
    train(run, 1)
    run.start_epoch()
    batch, names = task.batch(), task.modalities
    sets = [frozenset(s) for k in range(len(names) + 1) for s in itertools.combinations(names, k)]
    before, cost = weights(run.model), run.cost.forward
    found = run.coalitions(batch, sets)
    assert run.cost.forward - cost == (1 if head is Concat else len(sets))
    assert list(found) == sets and difference(before, weights(run.model)) is None and run.model.training
    g = rows(3, len(batch), task.n_classes)
    for s, out in found.items():
        other = run.forward(batch, zero=set(names) - s, mode="eval")
        assert torch.allclose(out.logits, other.logits, rtol=0, atol=1e-12)
        params = [p for p in run.model.parameters() if p.requires_grad]
        grads = [
            torch.autograd.grad(
                (o.logits * g).sum(), params, allow_unused=True, retain_graph=True, materialize_grads=True
            )
            for o in (out, other)
        ]
        assert difference(list(grads[0]), list(grads[1]), 1e-12) is None


def test_coalitions_of_some_modalities_leave_the_others_out() -> None:
    task = make_task(3, dtype=torch.float64)
    run, batch = build_run(task, Plain(), build_model(task)), task.batch()
    fed = ("audio", "text")
    out = run.coalitions(batch, [{"audio"}], present=fed)[frozenset({"audio"})]
    other = run.forward(batch, present=fed, zero=["text"], mode="eval")
    assert set(out.features) == set(fed) and torch.allclose(out.logits, other.logits, atol=1e-12)
    with pytest.raises(UnknownName, match="no modality that is fed 'image'"):
        run.coalitions(batch, [{"image"}], present=fed)


def test_features_of_a_batch_and_of_zeros_are_those_of_evaluation() -> None:
    task = make_task(3, dtype=torch.float64)
    present = random_present(task, 1)
    model, batch = build_model(task, **REGULARISED).train(), task.batch()
    before = weights(model)
    real, blank = model.encode_blanked(batch.inputs, present=present)
    assert difference(before, weights(model)) is None and all(e.training for e in model.encoders.values())
    model.eval()
    zeros = {m: torch.zeros_like(x) for m, x in batch.inputs.items()}
    for found, inputs in ((real, batch.inputs), (blank, zeros)):
        assert difference(model.encode(inputs, present=present), found, 1e-12) is None


def test_zeros_in_encoders_that_cannot_run_one_by_one_are_refused() -> None:
    task = make_task()
    with pytest.raises(Incompatible, match="acts between the stages"):
        build_model(task, CoupledConcat).encode_blanked(task.batch().inputs)


class Tokens(Encoder):
    """The mean embedding of those tokens that count."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(9, 3)
        self.out_dim = 3

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        mask = x["mask"].to(self.table.weight.dtype).unsqueeze(-1)
        return (self.table(x["ids"]) * mask).sum(1) / mask.sum(1).clamp_min(1)


def test_inputs_of_several_tensors_are_zeroed_as_a_whole() -> None:
    torch.manual_seed(0)
    model = MultimodalModel({"text": Tokens(), "x": Linear(2, 3)}, Concat({"text": 3, "x": 3}, 3)).double()
    text = {"ids": torch.randint(1, 9, (4, 5)), "mask": torch.ones(4, 5, dtype=torch.bool)}
    batch = Batch({"text": text, "x": rows(0, 4, 2)}, torch.arange(4) % 3, torch.arange(4))
    run = Run(model, AGM(), train=[batch])
    for s in ({"text"}, {"x"}):
        out = run.coalitions(batch, [s])[frozenset(s)]
        assert torch.allclose(out.logits, run.forward(batch, zero={"text", "x"} - s, mode="eval").logits, atol=1e-12)
    run.train_epoch()
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("gradient", ["exact", "detached"])
def test_the_cost_holds_for_every_head(gradient: Any) -> None:
    new = lambda: AGM(gradient=gradient)  # noqa: E731
    assert check_strategy(new, head=CoupledConcat, only=["check_cost"]).ok
    task = make_task(3)
    run = build_run(task, new(), build_model(task, CoupledConcat))
    train(run, 1)
    a_batch = run.cost.forward / run.steps_per_epoch, run.cost.backward / run.steps_per_epoch
    assert a_batch == (7, 7 if gradient == "exact" else 1)

    class Undeclared(AGM):
        cost: ClassVar[Mapping[str, float]] = {"forward": 2, "backward": 2}

    assert not check_strategy(Undeclared, head=CoupledConcat, only=["check_cost"], raise_failures=False).ok
    declared, sets = new().cost, 2 ** len(run.modalities) - 3
    assert a_batch == tuple(declared[k] + sets * declared.get(f"{k}_coalition", 0) for k in ("forward", "backward"))
    assert Chain(AGM(), AGM(gradient="detached")).cost == {
        "forward": 3,
        "backward": 2,
        "forward_coalition": 2,
        "backward_coalition": 1,
    }


def test_show_tells_what_sets_of_modalities_take(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "strategies/agm"]) == 0
    text = "cost a batch: forward 2, backward 2; and for each of 2^M - 3 more sets of modalities, where the head acts"
    assert text in capsys.readouterr().out


# ---------------------------------------------------------------------- MLA: projection
MATRICES = {"seed": SEEDS, "d": st.integers(1, 5), "steps": st.integers(1, 6), "a": st.floats(0.01, 0.1)}


@FIXED
@given(**MATRICES)
def test_the_projection_stays_between_zero_and_identity_and_shrinks_what_it_has_seen(
    seed: int, d: int, steps: int, a: float
) -> None:
    p = torch.eye(d, dtype=torch.float64)
    for i in range(steps):
        r = rows(seed + i, d, scale=2.0)
        k = p @ r
        q = mla.next_matrix(p, r, a)
        assert torch.equal(q, q.T)
        values = torch.linalg.eigvalsh(q)
        assert float(values.min()) > -1e-12 and float(values.max()) < 1 + 1e-12
        assert torch.allclose(q @ r, a / (a + r @ k) * k, rtol=0, atol=1e-10)
        grad = rows(seed + 50 + i, C, d)
        assert (mla.projected(grad, q) @ r).norm() <= (grad @ k).norm() + 1e-10
        p = q


@FIXED
@given(**MATRICES)
def test_normalised_projections_have_norm_one(seed: int, d: int, steps: int, a: float) -> None:
    for form in ("owm_normalized", "released"):
        p = torch.eye(d, dtype=torch.float64)
        for i in range(steps):
            p = mla.next_matrix(p, rows(seed + i, d), a, form)  # type: ignore[arg-type]
        assert float(p.norm()) == pytest.approx(1.0)


def test_a_projection_that_is_not_finite_is_dropped() -> None:
    p = torch.eye(2, dtype=torch.float64)
    r = torch.tensor([math.sqrt(0.1), -math.sqrt(0.1)], dtype=torch.float64)  # 0.1 + k_0 r_1 is zero
    r[1] = -0.1 / r[0]
    assert torch.equal(mla.next_matrix(p, r, 0.1, "released"), p)
    assert torch.equal(mla.next_matrix(p, torch.full((2,), math.inf, dtype=torch.float64), 0.1), p)


def test_damping_falls_tenfold_in_an_epoch() -> None:
    assert [mla.damping(i, 10) for i in (0, 10)] == pytest.approx([0.1, 0.01])


# ---------------------------------------------------------------------- MLA: the decision rule
@FIXED
@given(seed=SEEDS, b=st.integers(1, 5), m=st.integers(1, 4), c=st.integers(2, 5))
def test_weights_by_entropy(seed: int, b: int, m: int, c: int) -> None:
    z = rows(seed, b, m, c, scale=4.0)
    w = mla.entropy_weights(z)
    assert (w >= 0).all() and torch.allclose(w.sum(1), torch.ones(b, dtype=torch.float64))
    h = -(z.softmax(-1) * z.softmax(-1).log()).sum(-1)
    largest = torch.exp(h.amax(1, keepdim=True) - h)
    assert torch.allclose(w, largest / largest.sum(1, keepdim=True), atol=1e-12)
    shifted = z + rows(seed + 1, b, m, 1, scale=10.0)
    assert torch.allclose(mla.entropy_weights(shifted), w, atol=1e-9)
    assert torch.allclose(mla.entropy_weights(z.flip(1)), w.flip(1), atol=1e-12)
    halves = torch.cat([mla.entropy_weights(part) for part in z.split(max(1, b // 2))])
    assert torch.allclose(halves, w, atol=1e-12)
    same = z[:, :1].expand(-1, m, -1)
    assert torch.allclose(mla.entropy_weights(same), torch.full((b, m), 1 / m, dtype=torch.float64))


def test_a_confident_modality_beats_an_undecided_one_and_huge_logits_are_no_trouble() -> None:
    z = torch.tensor([[[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]]])
    w = mla.entropy_weights(z)
    assert torch.isfinite(w).all() and float(w[0, 0]) == pytest.approx(3 / 4)


def test_an_absent_modality_has_no_say() -> None:
    z, here = rows(0, 3, 2, 4), torch.tensor([[True, True], [True, False], [False, False]])
    w = mla.entropy_weights(z, here)
    assert torch.equal(w[0], mla.entropy_weights(z)[0]) and w[1].tolist() == [1.0, 0.0] and torch.isfinite(w).all()
    for fusion in ("entropy", "fixed", "mean"):
        task = make_task(2, equal=True)
        run = build_run(task, MLA(fusion=fusion), build_model(task, Shared))
        model, batch = run.model.eval(), task.batch()
        present = torch.ones(len(batch), 2, dtype=torch.bool)
        present[0, 1] = False
        out = run.strategy.predict(model(batch.inputs, present))
        assert torch.allclose(out.scores[0], out.unimodal["audio"][0].softmax(-1), atol=1e-6)
        whole = run.strategy.predict(model(batch.inputs))
        assert torch.allclose(out.scores[1:], whole.scores[1:], atol=1e-6)


@pytest.mark.parametrize(("fusion", "typed"), [("fixed", (0.55, 0.45)), ("mean", (0.5, 0.5))])
def test_fixed_weights(fusion: Any, typed: tuple[float, float]) -> None:
    z = {"a": rows(0, 3, 4), "v": rows(1, 3, 4)}
    out = MLA(fusion=fusion).predict(Outputs(z["a"], z, z))
    expected = (typed[0] * z["a"] + typed[1] * z["v"]).softmax(-1)
    assert torch.allclose(out.scores, expected, atol=1e-12) and torch.equal(out.logits, z["a"])


def test_the_order_of_modalities_does_not_matter_in_a_decision() -> None:
    z = {"a": rows(0, 3, 4), "v": rows(1, 3, 4), "t": rows(2, 3, 4)}
    one, other = (
        MLA().predict(Outputs(z["a"], z, {m: z[m] for m in order})).scores
        for order in (("a", "v", "t"), ("t", "a", "v"))
    )
    assert torch.allclose(one, other, atol=1e-12)


# ---------------------------------------------------------------------- MLA: turns
def test_a_pass_moves_its_encoder_and_the_head_alone() -> None:
    task = make_task(3, equal=True)
    run = build_run(task, MLA(), build_model(task, Shared, norm=True), optimizer="adam", lr=1e-3)
    run.start_epoch()
    moved: list[set[str]] = []

    class Watched(MLA):
        def gradients(self, step: Step, out: Outputs, grads: Any) -> None:
            self.before = weights(step.run.model)
            super().gradients(step, out, grads)

        def updated(self, step: Step, out: Outputs, terms: Any) -> None:
            after = weights(step.run.model)
            params = {n for n, _ in step.run.model.named_parameters()}
            moved.append(
                {
                    n.split(".linear")[0].split(".stages")[0].split(".project")[0]
                    for n in params
                    if not torch.equal(after[n], self.before[n])
                }
            )

    run.strategy = Watched()
    run.step(task.batch())
    assert moved == [{f"encoders.{m}", "head"} for m in task.modalities]
    for name, p in run.model.named_parameters():
        assert int(run.optimizer.state[p]["step"]) == (3 if name.startswith("head") else 1), name


def test_items_without_a_modality_are_not_in_its_pass() -> None:
    """Other labels and other features there change nothing."""
    task = make_task(2, equal=True)
    n = len(task.target["train"])
    present = torch.ones(n, 2, dtype=torch.bool)
    present[: n // 2, 0] = False
    present[0] = False  # an item without anything is in no pass at all
    changed = task.with_train(
        present=present,
        target=task.target["train"].clone().index_fill_(0, torch.tensor([0]), 1),
        inputs={"audio": torch.where(present[:, :1], task.inputs["train"]["audio"], 7.0)},
    )
    runs = [build_run(t, MLA(), build_model(t, Shared)) for t in (task.with_train(present=present), changed)]
    for run in runs:
        train(run, 2)
    assert difference(weights(runs[0].model), weights(runs[1].model), 1e-6) is None
    step = Step(runs[0], changed.batch()).at(Pass("joint/audio", present=frozenset({"audio"})))
    assert torch.equal(step.keep, present[:, 0])


def test_what_cannot_work_is_refused_before_training() -> None:
    task = make_task(4, equal=True)
    for strategy, head, reason in (
        (MLA(), Concat, "head Concat has none as wide"),
        (MLA(projection="none"), Concat, "a share of its bias"),
        (MLA(fusion="fixed"), Shared, "2 or 3 modalities, not for 4"),
    ):
        with pytest.raises(Incompatible, match=reason):
            build_run(task, strategy, build_model(task, head))


# ---------------------------------------------------------------------- what the engine gained
def test_outputs_say_which_items_have_a_modality() -> None:
    task = make_task(3)
    model, batch = build_model(task), task.batch()
    assert model(batch.inputs).present is None
    present = random_present(task, 0)
    out = model.outputs(model.encode(batch.inputs, Pass(present=frozenset({"text"})), present), present)
    assert out.present is not None and list(out.present) == ["text"] and torch.equal(out.present["text"], present[:, 2])


class InTurn(Strategy):
    expected_failures: ClassVar[Mapping[str, str]] = {"check_modality_order": "the first one is trained twice"}

    def losses(self, step: Step, out: Outputs, terms: Any) -> Any:
        first = step.run.modalities[0]
        return (
            {**terms, "in_turn/first": step.run.criterion(step.kept(out.unimodal[first]), step.target)}
            if (first in out.unimodal)
            else terms
        )


def test_a_strategy_may_say_which_checks_it_cannot_pass() -> None:
    only = ["check_modality_order", "check_terms"]
    expected = {"check_modality_order": "expected", "check_terms": "passed"}
    for strategy in (InTurn(), Chain(Plain(), InTurn()), Window(InTurn())):
        assert {r.name: r.status for r in check_strategy(strategy, only=only, draws=3)} == expected

    class Wrong(Plain):
        expected_failures: ClassVar[Mapping[str, str]] = {"check_terms": "no reason"}

    with pytest.raises(AssertionError, match="is expected to fail: no reason"):
        check_strategy(Wrong, only=only, draws=3)


@pytest.mark.parametrize("strategy", [AGM(cap=3.0, symmetric=True), AGM(gradient="detached", clip=None)], ids=str)
def test_parameters_without_a_recipe_keep_the_contract(strategy: Strategy) -> None:
    assert check_strategy(strategy, draws=3).ok


@pytest.mark.parametrize("strategy", [MLA(projection="owm_normalized"), MLA(fusion="mean")], ids=str)
def test_other_forms_of_mla_keep_the_contract(strategy: Strategy) -> None:
    assert check_strategy(strategy, head=Shared, draws=3).ok

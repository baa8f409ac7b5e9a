"""UMT: steps by hand, and what its mathematics promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import NormEncoder, loader, model, run, train, weights
from helpers.by_hand import Sgd, Weights, assert_same, cross_entropy, encode, gradient, weights_of
from helpers.taught_runs import (
    MODALITIES,
    OUT,
    C,
    N,
    Needs,
    batches,
    drawn,
    given_teachers,
    linear_model,
    linear_run,
    training,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmzoo.api import Batch, Chain, MultimodalModel, Run, Step, Strategy, Training
from mmzoo.core.seeding import seeded, stream
from mmzoo.errors import Incompatible
from mmzoo.heads.concat import Concat
from mmzoo.strategies.ume import ensemble
from mmzoo.strategies.umt import UMT, distances

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=40)
SEEDS = st.integers(0, 10_000)


@pytest.mark.parametrize("present", [False, True], ids=["complete", "absent modalities"])
def test_umt_step_by_hand(present: bool) -> None:
    weight, teachers = 2.5, given_teachers()
    r, sgd = linear_run(UMT(weight=weight), present, teachers=teachers), Sgd()
    w = weights_of(r.model)
    theirs = {m: weights_of(t) for m, t in teachers.items()}

    def loss(u: Weights, batch: Batch) -> Any:
        there = torch.ones(N, 3, dtype=torch.bool) if batch.present is None else batch.present
        logits, distance = u["head.bias"], 0.0
        for i, m in enumerate(MODALITIES):
            here = there[:, i].numpy()
            z = encode(u, m, batch.inputs[m]) * here[:, None]
            logits = logits + z @ u[f"head.weight.{m}"].T
            gap = z[here] - encode(theirs[m], m, batch.inputs[m])[here]
            distance = distance + (gap**2).sum() / (here.sum() * OUT[m])
        return cross_entropy(logits, batch.target.numpy()) + weight * distance

    for _ in range(2):
        r.start_epoch()
        for batch in r.epoch_batches():
            r.step(batch)
            w = sgd.step(w, gradient(lambda u, b=batch: loss(u, b), w))  # type: ignore[misc]
            assert_same(r.model, w)
        r.end_epoch()


def test_a_teacher_by_hand() -> None:
    """The encoder's initial weights, a linear classifier of its own, plain steps in the run's order and budget on the
    items that have the modality."""
    r = linear_run(UMT(), present=True)
    fresh = weights_of(linear_model())
    with seeded(5, "init", "teacher", "v"):
        head = nn.Linear(OUT["v"], C).double()
    w = {n: value for n, value in fresh.items() if n.startswith("encoders.v.")}
    w |= {f"head.layer.{n}": value for n, value in weights_of(head).items()}
    sgd = Sgd()

    def loss(u: Weights, batch: Batch) -> Any:
        here = batch.present[:, 1]  # type: ignore[index]
        z = encode(u, "v", batch.inputs["v"][here])
        return cross_entropy(z @ u["head.layer.weight"].T + u["head.layer.bias"], batch.target[here].numpy())

    for _ in range(3):
        for batch in batches(present=True):
            w = sgd.step(w, gradient(lambda u, b=batch: loss(u, b), w))  # type: ignore[misc]
    assert_same(r.teacher("v"), w)


def test_a_teacher_computes_as_the_run_does_after_a_resume_too() -> None:
    def started(**given: Any) -> Run:
        return run(Needs(), training=Training(lr=0.01, epochs=2, precision="bf16"), **given)

    r = started()
    assert r.teacher("a").precision == "bf16"
    assert started(state=r.state_dict()).teacher("a").precision == "bf16"
    assert started(teachers={"a": model({"a": 4})}).teacher("a").precision == "bf16"


def test_a_teacher_sees_the_batches_in_the_order_of_the_run() -> None:
    seen: list[Tensor] = []

    class Watched(NormEncoder):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return super().forward(x)

    encoders = {m: Watched(width) for m, width in {"a": 4, "b": 3}.items()}
    m = MultimodalModel(encoders, Concat({"a": 5, "b": 5}, 3))
    run(UMT(), m, seed=3, training=Training(epochs=2))
    expected = [b.inputs[m] for m in "ab" for e in (0, 1) for b in loader().batches(stream(3, "order", e))]
    assert len(seen) == len(expected) and all(torch.equal(x, y) for x, y in zip(seen, expected))


@FIXED
@given(seed=SEEDS, batch=st.integers(1, 9), width=st.integers(1, 6))
def test_the_distance_to_a_teacher(seed: int, batch: int, width: int) -> None:
    z, t = drawn(seed, batch, width).requires_grad_(), drawn(seed + 1, batch, width).requires_grad_()
    value = distances(z, t).mean()
    np.testing.assert_allclose(value.item(), ((z - t) ** 2).sum().item() / (batch * width), rtol=1e-12)
    assert value >= 0 and not distances(z, z).any()
    value.backward()
    assert t.grad is None
    torch.testing.assert_close(z.grad, 2 * (z - t).detach() / (batch * width))
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(distances(z[order], t[order]), distances(z, t)[order])


@FIXED
@given(
    seed=SEEDS, modalities=st.integers(1, 4), classes=st.integers(2, 5), average=st.sampled_from(["probs", "logits"])
)
def test_the_average_prediction(seed: int, modalities: int, classes: int, average: Any) -> None:
    own = [2 * drawn(seed + i, 6, classes) for i in range(modalities)]
    p = ensemble(own, average).softmax(-1)
    if average == "probs":
        torch.testing.assert_close(p, torch.stack([z.softmax(-1) for z in own]).mean(0))
        # Log-probabilities come back, so that the loss is that of the ensemble.
        torch.testing.assert_close(ensemble(own, average), p.log())
        assert bool((ensemble([z + 3.0 for z in own], average) - ensemble(own, average)).abs().max() < 1e-12)
    else:
        torch.testing.assert_close(ensemble(own, average), sum(own) / modalities)
        for scale in (0.01, 7.0):  # a common scale leaves the decision alone
            assert torch.equal(ensemble([scale * z for z in own], average).argmax(1), p.argmax(1))
    torch.testing.assert_close(ensemble(own[::-1], average).softmax(-1), p)
    torch.testing.assert_close(ensemble([own[0]] * modalities, average).softmax(-1), own[0].softmax(-1))
    present = torch.rand(6, modalities, generator=torch.Generator().manual_seed(seed)) < 0.6
    present[0] = False
    masked = ensemble(own, average, present)
    if average == "probs":
        torch.testing.assert_close(masked.logsumexp(-1), torch.zeros(6, dtype=torch.float64))
    masked = masked.softmax(-1)
    torch.testing.assert_close(masked[0], torch.full((classes,), 1 / classes, dtype=torch.float64))
    for i in range(1, 6):
        here = [z[i : i + 1] for z, there in zip(own, present[i]) if there]
        if here:
            torch.testing.assert_close(masked[i], ensemble(here, average).softmax(-1)[0])
    torch.testing.assert_close(ensemble(own, average, torch.ones_like(present)).softmax(-1), p)


def test_a_scale_of_one_modality_changes_the_decision() -> None:
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    for average in ("probs", "logits"):
        assert ensemble([a, b], average).argmax() == 0 and ensemble([a, 9 * b], average).argmax() == 1
    # The two averages are not one decision: many doubtful votes against one that is sure.
    votes = [torch.tensor([[30.0, 0.0]]), torch.tensor([[0.0, 4.0]]), torch.tensor([[0.0, 4.0]])]
    assert ensemble(votes, "logits").argmax() == 0 and ensemble(votes, "probs").argmax() == 1


@pytest.mark.parametrize("average", ["probs", "logits"])
def test_extreme_logits_stay_finite(average: Any) -> None:
    own = [torch.tensor([[1e4, -1e4, 0.0]]), torch.tensor([[-1e4, 1e4, 0.0]])]
    for present in (None, torch.tensor([[True, False]]), torch.tensor([[False, False]])):
        out = ensemble(own, average, present)
        assert bool(torch.isfinite(out).all()) and bool(torch.isfinite(F.cross_entropy(out, torch.tensor([2]))))


@settings(FIXED, max_examples=10)
@given(seed=SEEDS)
def test_a_student_that_equals_its_teachers_has_the_plain_loss(seed: int) -> None:
    twins = {m: linear_model((m,)) for m in MODALITIES}
    for m, twin in twins.items():
        twin.encoders[m].load_state_dict(linear_model(seed=seed).encoders[m].state_dict())
    r = Run(linear_model(seed=seed), UMT(), train=batches(), training=training(), teachers=twins)
    batch = batches()[0]

    def terms() -> Mapping[str, Tensor]:
        out = r.model(batch.inputs)
        return r.strategy.losses(Step(r, batch), out, {"task": r.criterion(out.logits, batch.target)})

    at_first = terms()
    assert set(at_first) == {"task", "umt/a", "umt/v", "umt/t"} and sum(at_first.values()) == at_first["task"]
    train(r, 1)  # the student moves away
    assert all(terms()[f"umt/{m}"] > 0 for m in MODALITIES)


def test_a_large_weight_pulls_the_students_to_the_teachers() -> None:
    def distance(weight: float) -> float:
        r = linear_run(Chain(Needs(), UMT(weight=weight)), teachers=given_teachers(), training=training(lr=0.05))
        first = batches()[0]
        train(r, 60)
        features = {m: z.detach() for m, z in r.model(first.inputs).features.items()}
        return sum(float(distances(features[m], r.teacher_outputs(m, first).features[m]).mean()) for m in MODALITIES)

    far, near = distance(0.0), distance(10.0)
    assert near < 0.1 * far, (near, far)


def test_a_weight_of_zero_needs_no_teacher() -> None:
    strategy = UMT(weight=0.0)
    assert strategy.requires == frozenset() and strategy.cost == {"forward": 1, "backward": 1}
    r = train(linear_run(strategy), 1)
    assert r.cost.forward == r.cost.backward == 2
    with pytest.raises(Incompatible, match="Name 'teachers' in `requires`"):
        r.teacher("a")


def test_items_that_a_step_drops_do_not_count() -> None:
    class Keeps(Strategy):
        def features(self, step: Step, feats: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            step.keep = torch.arange(len(step.batch)) % 2 == 0
            return feats

    whole, half = batches()[:1], [batches()[0].map(lambda t: t[::2])]
    kept = train(linear_run(Chain(Keeps(), UMT()), train=whole, teachers=given_teachers()), 2)
    alone = train(linear_run(UMT(), train=half, teachers=given_teachers()), 2)
    for name, value in weights(kept.model).items():
        torch.testing.assert_close(value, weights(alone.model)[name], rtol=0, atol=1e-12)

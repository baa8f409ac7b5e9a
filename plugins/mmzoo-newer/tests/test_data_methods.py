"""Data Remixing and BSS: contracts, training steps in numpy, and what the formulas promise."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("mmzoo_newer", reason="mmzoo-newer is not installed")

from helpers.by_hand import Sgd, Weights, assert_same, cross_entropy, encode, gradient, log_softmax, weights_of
from mmzoo_newer import bss, remix
from mmzoo_newer.bss import BSS
from mmzoo_newer.remix import Remix
from newer_helpers import BATCH, SEEDS, N, drawn, labels, moved, numpy_run, quick, started

from mmzoo.api import Run
from mmzoo.heads.separate import Separate
from mmzoo.testing import parametrize_with_checks

OWN = partial(Separate, hidden=0)


@parametrize_with_checks(
    [lambda: Remix(warmup=0)],
    head=OWN,
    draws=2,
    expected_failures={
        "check_no_waiting": "samples that lack the modality of a pass are taken out of the loss by an index"
    },
)
def test_contract_of_remixing(check) -> None:  # type: ignore[no-untyped-def]
    check()


@parametrize_with_checks([lambda: Remix(warmup=1, order="interleave")], head=OWN, draws=2)
def test_contract_of_warming_up(check) -> None:  # type: ignore[no-untyped-def]
    check()


@parametrize_with_checks(
    [BSS, lambda: BSS(mode="sampling", decision="own"), lambda: BSS(decision="head")], head=OWN, draws=2
)
def test_contract_of_sampling(check) -> None:  # type: ignore[no-untyped-def]
    check()


# ---------------------------------------------------------------------- numpy
def outputs(w: Weights, inputs: Any, only: str | None = None) -> tuple[Any, Weights]:
    """Joint and unimodal logits of the head separate with one linear layer; `only`: the others are absent."""
    z = {m: encode(w, m, x) for m, x in inputs.items() if only in (None, m)}
    joint = sum(x @ w[f"head.blocks.weight.{m}"].T for m, x in z.items()) + w["head.blocks.bias"]
    own = {m: x @ w[f"head.linear.{m}.weight"].T + w[f"head.linear.{m}.bias"] for m, x in z.items()}
    return joint, own


def test_remix_by_hand() -> None:
    run = numpy_run(Remix(warmup=1, warm_weight=0.5, weight=0.7), OWN)
    data = next(iter(run._train.sampled(torch.arange(N), None, ordered=True).batches()))  # type: ignore[union-attr]
    whole = [b for b in run.train(shuffled=False)]
    inputs = {m: torch.cat([b.inputs[m] for b in whole]) for m in data.inputs}
    y = torch.cat([b.target for b in whole])
    sgd, w, sizes = Sgd(), weights_of(run.model), []

    def loss(u: Weights, rows: Any, only: str | None, weight: float) -> Any:
        joint, own = outputs(u, {m: x[rows] for m, x in inputs.items()}, only)
        target = y[rows].numpy()
        return cross_entropy(joint, target) + weight * sum(cross_entropy(z, target) for z in own.values())

    for epoch in range(3):
        run.start_epoch()
        if epoch:
            p = {m: np.exp(log_softmax(z)) for m, z in outputs(w, inputs)[1].items()}
            score = np.stack([(x * np.log2(4 * x)).sum(1) for x in p.values()])
            keep = torch.tensor(score.argmin(0))
            mixed = torch.randperm(N, generator=run.generator("remix"))
            order = torch.cat([mixed[keep[mixed] == i] for i in range(2)])
        for batch, at in zip(run.epoch_batches(), range(0, N, BATCH)):
            run.step(batch)
            if not epoch:
                w = moved(sgd, w, gradient(lambda u, rows=batch.index: loss(u, rows, None, 0.5), w))  # type: ignore[misc]
                assert_same(run.model, w)
                continue
            rows = order[at : at + BATCH]
            assert torch.equal(batch.index, rows)
            for i, m in enumerate("av"):
                mine = rows[keep[rows] == i]
                if len(mine):
                    g = gradient(lambda u, mine=mine, m=m: loss(u, mine, m, 0.7), w)  # type: ignore[misc]
                    ours = {n: x for n, x in g.items() if n == "head.blocks.bias" or f".{m}" in n}
                    w = moved(sgd, w, ours)
                    sizes.append(len(mine))
            assert_same(run.model, w)
        run.end_epoch()
    assert BATCH in sizes and min(sizes) < BATCH and sum(sizes) == 2 * N


@pytest.mark.parametrize("mode", ["curriculum", "sampling"])
def test_bss_by_hand(mode: Any) -> None:
    run = numpy_run(BSS(mode=mode, own=0.9, fused=0.1, start=0.4, grow=1.0), OWN)
    whole = [b for b in run.train(shuffled=False)]
    inputs = {m: torch.cat([b.inputs[m] for b in whole]) for m in whole[0].inputs}
    y = torch.cat([b.target for b in whole])
    sgd, w, order, counts = Sgd(), weights_of(run.model), np.arange(0), []

    def unit(x: Any) -> Any:
        return (x - x.min()) / (x.max() - x.min())

    for epoch in range(3):
        run.start_epoch()
        joint, own = outputs(w, inputs)
        a, v = (np.exp(log_softmax(z)) for z in own.values())
        cosine = unit((a * v).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(v, axis=1))
        each = [-log_softmax(z)[np.arange(N), y.numpy()] for z in (*own.values(), joint)]
        hard = unit(0.9 * (each[0] + each[1]) + 0.1 * each[2])
        if mode == "sampling":
            weights = torch.tensor(1 - (hard - cosine) + 0.01)
            expected = torch.multinomial(weights, N, generator=run.generator("bss"))
        elif not epoch:
            order = (1 - cosine + hard).argsort(kind="stable")
        count = N if mode == "sampling" else int(N * min(1.0, math.sqrt(0.16 + (epoch + 1) * 0.84 / 3)))
        counts.append(count)
        seen = []
        for batch in run.epoch_batches():
            run.step(batch)
            seen.append(batch.index)

            def loss(u: Weights, rows: Any = batch.index) -> Any:
                joint, own = outputs(u, {m: x[rows] for m, x in inputs.items()})
                target = y[rows].numpy()
                return 0.1 * cross_entropy(joint, target) + 0.9 * sum(cross_entropy(z, target) for z in own.values())

            w = moved(sgd, w, gradient(loss, w))
            assert_same(run.model, w)
        rows = torch.cat(seen)
        if mode == "sampling":
            assert torch.equal(rows, expected)
        else:
            assert set(rows.tolist()) == set(order[:count].tolist()) and len(rows) == count
        run.end_epoch()
    assert mode == "sampling" or counts[0] < counts[1] < counts[2] == N


# ---------------------------------------------------------------------- Data Remixing
@quick
@given(SEEDS, st.integers(2, 6), st.integers(2, 4))
def test_separability_is_bounded_and_blind_to_the_order_of_classes(seed: int, classes: int, m: int) -> None:
    p = drawn(seed, m, 7, classes).mul(3).softmax(-1)
    score = remix.separability(p)
    assert bool((score >= -1e-9).all() and (score <= math.log2(classes) + 1e-9).all())
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    assert torch.allclose(remix.separability(p[..., order]), score)
    kept = remix.least_separable(score)
    assert torch.equal(score.gather(0, kept[None])[0], score.amin(0))


def test_of_equal_modalities_the_last_is_kept() -> None:
    assert remix.least_separable(torch.tensor([[1.0, 0.5], [1.0, 2.0], [1.0, 0.5]])).tolist() == [2, 2]


@pytest.mark.parametrize("order", ["blocks", "interleave"])
def test_every_sample_is_seen_once_with_one_modality_and_the_muted_stand_still(order: Any) -> None:
    run = started(Remix(warmup=0, order=order), 3, OWN, norm=True)
    run.start_epoch()
    assert run._sampling is not None and run._sampling[1] is not None
    assert bool(((~run._sampling[1]).sum(1) == 1).all())
    seen = []
    for batch in run.epoch_batches():
        assert batch.present is not None
        seen.append(batch.index)
        missing = [m for i, m in enumerate(run.modalities) if not bool(batch.present[:, i].any())]
        before = {m: state(run, m) for m in missing}
        run.step(batch)
        assert all(torch.equal(before[m], state(run, m)) for m in missing)
    assert sorted(torch.cat(seen).tolist()) == list(range(14))


def state(run: Run, modality: str) -> torch.Tensor:
    """All that belongs to a modality, batch statistics too."""
    tensors = [t.flatten().double() for t in run.model.encoders[modality].state_dict().values()]
    return torch.cat([*tensors, *(p.detach().flatten() for p in run.model.head.own(modality))])


# ---------------------------------------------------------------------- BSS
@quick
@given(SEEDS, st.integers(2, 4), st.integers(2, 5), st.floats(0.1, 10), st.floats(-5, 5))
def test_scores_stay_in_their_bounds_and_follow_the_rank(seed: int, m: int, c: int, scale: float, shift: float) -> None:
    own, fused, y = list(drawn(seed, m, 9, c)), drawn(seed + 1, 9, c), labels(seed, 9, c)
    s, loss = bss.similarities(own), bss.sample_losses(own, fused, y)
    hard, weight = bss.hardness(s, loss), bss.draw_weights(s, loss)
    assert bool((hard >= 0).all() and (hard <= 2).all() and (weight >= 0.01 - 1e-12).all() and (weight <= 2.01).all())
    assert torch.allclose(bss.hardness(s, scale * loss + shift), hard, atol=1e-9)
    assert torch.allclose(bss.similarities(own[::-1]), s) and torch.allclose(
        bss.sample_losses(own[::-1], fused, y), loss
    )
    everybody = torch.ones(9, m, dtype=torch.bool)
    assert torch.allclose(bss.similarities(own, present=everybody), s)
    assert torch.allclose(bss.sample_losses(own, fused, y, present=everybody), loss)


def test_scores_of_samples_that_lack_a_modality() -> None:
    own, fused, y = list(drawn(0, 3, 4, 3)), drawn(1, 4, 3), labels(0, 4, 3)
    present = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 0, 1], [0, 1, 1]]).bool()
    s = bss.similarities(own, present=present)
    p = [z.softmax(-1) for z in own]
    assert float(s[0]) == pytest.approx(float(F.cosine_similarity(p[0][:1], p[1][:1])))
    assert float(s[2]) == pytest.approx(float(s[[0, 1, 3]].mean()))
    loss = bss.sample_losses(own, fused, y, 1.0, 0.0, present)
    assert float(loss[2]) == pytest.approx(3 * float(F.cross_entropy(own[2][2:3], y[2:3])))


@quick
@given(st.floats(0, 1), st.floats(0.5, 60))
def test_the_pace_never_falls_and_ends_with_all(start: float, grow: float) -> None:
    shares = [bss.pace(t, start, grow) for t in range(1, 80)]
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert bss.pace(0, start, grow) == pytest.approx(start)


def test_equal_scores_are_zeros_and_decisions_add_up_who_is_there() -> None:
    assert bss.scaled(torch.full((3,), 2.0)).tolist() == [0.0, 0.0, 0.0]
    run = started(BSS(), 2, OWN)
    batch = next(iter(run.train()))
    present = torch.ones(len(batch), 2, dtype=torch.bool)
    present[0, 1] = False
    out = run.model.eval()(batch.inputs, present)
    total = run.strategy.predict(out).logits
    assert torch.allclose(total[0], out.logits[0] + out.unimodal["audio"][0])
    assert torch.allclose(total[1], out.logits[1] + out.unimodal["audio"][1] + out.unimodal["image"][1])

"""CGGM, AMCo and MCR: contracts, training steps in numpy, and what the formulas promise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("mmzoo_newer", reason="mmzoo-newer is not installed")

from helpers.by_hand import Sgd, Weights, assert_same, cross_entropy, encode, gradient, log_softmax, weights_of
from mmzoo_newer import amco, cggm, mcr
from mmzoo_newer.amco import AMCo
from mmzoo_newer.cggm import CGGM
from mmzoo_newer.mcr import MCR
from newer_helpers import SEEDS, C, drawn, labels, moved, numpy_run, quick, started

from mmzoo.api import Incompatible, Step
from mmzoo.heads.concat import Concat
from mmzoo.heads.gated import Gated
from mmzoo.testing import parametrize_with_checks


@parametrize_with_checks([CGGM, lambda: CGGM(weight=0.0), AMCo, lambda: AMCo(growth=0.3, sigma=0.2)], draws=2)
def test_contract(check) -> None:  # type: ignore[no-untyped-def]
    check()


@parametrize_with_checks(
    [lambda: MCR(samples=3), lambda: MCR(samples=2, game="independent", clean="detach", contrastive=0.0)], draws=2
)
def test_contract_of_the_game(check) -> None:  # type: ignore[no-untyped-def]
    check()


@parametrize_with_checks(
    [lambda: MCR(samples=2, game="collaborative", bottleneck=0.5)],
    draws=2,
    expected_failures={"check_large_logits": "the reconstruction squares what it makes of the logits"},
)
def test_contract_of_the_bottleneck(check) -> None:  # type: ignore[no-untyped-def]
    check()


def concat(w: Weights, inputs: Any) -> tuple[Weights, Any]:
    z = {m: encode(w, m, x) for m, x in inputs.items()}
    return z, sum(x @ w[f"head.weight.{m}"].T for m, x in z.items()) + w["head.bias"]


# ---------------------------------------------------------------------- CGGM
@pytest.mark.parametrize("guard", [True, False])
def test_cggm_by_hand(guard: bool) -> None:
    run = numpy_run(CGGM(rho=1.3, weight=0.2, guard=guard, lr_scale=1.0), Concat)
    sgd, w, before, last = Sgd(), weights_of(run.model), np.zeros(2), None
    factors = []
    for _ in range(3):
        run.start_epoch()
        for batch in run.epoch_batches():
            y = batch.target.numpy()

            def own(u: Weights, still: Weights, batch: Any = batch) -> list[Any]:
                z, _ = concat(still, batch.inputs)
                return [z[m] @ u[f"extra.cggm_{m}.weight"].T + u[f"extra.cggm_{m}.bias"] for m in "av"]

            def loss(u: Weights, still: Weights = w, batch: Any = batch, y: Any = y, last: Any = last) -> Any:
                _, f = concat(u, batch.inputs)
                total = cross_entropy(f, y) + sum(cross_entropy(z, y) for z in own(u, still))
                if last is None:
                    return total
                cosine = []
                for m in "av":
                    v, part = still[f"extra.cggm_{m}.weight"].ravel(), u[f"head.weight.{m}"].ravel()
                    cosine.append((v * part).sum() / np.linalg.norm(v) / np.sqrt((part * part).sum()))
                return total + 0.2 * (np.abs(last).sum() - (last * cosine).sum()) / 2

            g = gradient(loss, w)
            now = np.array([(z.argmax(1) == y).mean() for z in own(w, w)])
            gain = now - before
            if guard:
                gain = np.maximum(gain, 0)
                c = 1 - gain / gain.sum() if gain.sum() > 0 else np.full(2, 0.5)
            else:
                c = 1 - gain / (gain.sum() + 1e-8)
            factors.append(c)
            if np.abs(c).max() > 1e3:  # the released rule divides by about zero, and what follows is noise
                return
            for m, k in zip("av", c):
                for name in [n for n in g if n.startswith(f"encoders.{m}.")]:
                    g[name] = 1.3 * k * g[name]
            w, before, last = moved(sgd, w, g), now, c
            run.step(batch)
            assert_same(run.model, w)
        run.end_epoch()
    assert np.ptp(factors) > 0


@quick
@given(st.lists(st.floats(0, 1), min_size=2, max_size=4), st.floats(0, 1))
def test_cggm_slows_who_gains_most(now: list[float], base: float) -> None:
    a = torch.tensor(now, dtype=torch.float64)
    zero = torch.zeros_like(a)
    m = len(now)
    c = cggm.guarded(a, zero)
    assert float(c.sum()) == pytest.approx(m - 1) and bool(((c >= -1e-12) & (c <= 1 + 1e-12)).all())
    if float(a.sum()) > 1e-3:
        assert torch.allclose(cggm.coefficients(a, zero), c, atol=1e-4)
        assert bool((c[a.argsort()].diff() <= 1e-12).all())
    level = torch.full_like(a, base)
    assert torch.allclose(cggm.guarded(level, level), torch.full_like(a, 1 - 1 / m))
    aligned = cggm.direction(c, torch.ones_like(c))
    assert float(aligned) == pytest.approx(0.0, abs=1e-12)
    assert float(cggm.direction(c, torch.linspace(-1, 1, m, dtype=torch.float64))) >= -1e-12


def test_cggm_needs_a_linear_classifier_for_its_direction() -> None:
    with pytest.raises(Incompatible, match="or weight=0"):
        started(CGGM(), head=Gated)
    assert started(CGGM(weight=0.0), head=Gated)


# ---------------------------------------------------------------------- AMCo
def test_amco_by_hand() -> None:
    run = numpy_run(AMCo(sigma=0.45, ramp=0.3, growth=0.1, weight=0.5), Concat)
    sgd, w, masks = Sgd(), weights_of(run.model), 0
    for epoch in range(3):
        run.start_epoch()
        dependent = dict.fromkeys("av", False)
        for i, batch in enumerate(run.epoch_batches()):
            y = batch.target.numpy()
            order = torch.randperm(C, generator=Step(run, batch).generator("amco")).numpy()
            rate = math.sin(math.pi / 2 * min(0.3, 0.1 * epoch * i) / 0.3)
            mask = (order >= math.floor(C * rate + 1e-9)).astype(float)
            masks += sum(dependent.values()) and int((mask == 0).sum())

            def logits(u: Weights, batch: Any = batch, mask: Any = mask, dependent: Any = dependent) -> list[Any]:
                z, _ = concat(u, batch.inputs)
                own = [z[m] @ u[f"head.weight.{m}"].T + u["head.bias"] / 2 for m in "av"]
                return [x * mask if dependent[m] else x for m, x in zip("av", own)]

            def loss(u: Weights, y: Any = y, logits: Any = logits) -> Any:
                own = logits(u)
                fused = sum(own) @ u["extra.amco.weight"].T + u["extra.amco.bias"]
                return cross_entropy(fused, y) + 0.5 * sum(cross_entropy(x, y) for x in own)

            own = np.concatenate(logits(w), 1)
            p = np.exp(own - own.max(1, keepdims=True))
            share = (p / p.sum(1, keepdims=True)).reshape(len(y), 2, C).sum(2).mean(0)
            w = moved(sgd, w, gradient(loss, w))
            dependent = dict(zip("av", share > 0.45))
            run.step(batch)
            assert_same(run.model, w)
        run.end_epoch()
    assert masks > 0


@quick
@given(SEEDS, st.integers(2, 4), st.integers(2, 6))
def test_amco_shares_add_up_and_masks_touch_the_dependent_alone(seed: int, m: int, classes: int) -> None:
    own = {f"m{i}": z for i, z in enumerate(drawn(seed, m, 5, classes))}
    share = amco.dominance(own)
    assert torch.allclose(share.sum(1), torch.ones(5, dtype=torch.float64))
    flags = {n: torch.tensor(float(i == 0)) for i, n in enumerate(own)}
    mask = torch.zeros(classes, dtype=torch.float64)
    left = amco.masked(own, flags, mask)
    assert not bool(left["m0"].any()) and all(torch.equal(left[n], own[n]) for n in list(own)[1:])
    same = amco.masked(own, flags, torch.ones_like(mask))
    assert all(torch.equal(same[n], z) for n, z in own.items())
    counts = [amco.masked_classes(amco.mask_rate(0.05 * i), classes) for i in range(12)]
    assert counts == sorted(counts) and counts[0] == 0 and counts[-1] == classes


def test_amco_predicts_with_the_layer_that_it_trains() -> None:
    run = started(AMCo())
    run.train_epoch()
    out = run.model.eval()(next(iter(run.train())).inputs)
    assert torch.allclose(run.strategy.predict(out).logits, run.model.extra["amco"](out.logits))


# ---------------------------------------------------------------------- MCR
@pytest.mark.parametrize("game", ["greedy", "independent", "collaborative"])
@pytest.mark.parametrize("clean", ["keep", "detach"])
def test_mcr_by_hand(game: Any, clean: Any) -> None:
    k, weight = 3, 0.4
    run = numpy_run(MCR(weight=weight, own=0.3, contrastive=0.0, game=game, clean=clean, samples=k), Concat)
    sgd, w = Sgd(), weights_of(run.model)
    for _ in range(2):
        run.start_epoch()
        for batch in run.epoch_batches():
            y, n = batch.target.numpy(), len(batch)
            step = Step(run, batch)
            orders = {m: torch.rand(k, n, generator=step.generator(f"mcr/{m}")).argsort(1).numpy() for m in "av"}

            def divergence(p: Weights, f: Any, u: str, orders: Any = orders, n: int = n) -> Any:
                """J_u from the parts and the clean logits, one of which may be a constant."""
                total = 0
                for order in orders[u]:
                    mixed = sum(x[order] if m == u else x for m, x in p["parts"].items()) + p["bias"]
                    a, b = np.exp(log_softmax(f)), np.exp(log_softmax(mixed))
                    mean = (a + b) / 2
                    total = total + (a * np.log(a / mean) + b * np.log(b / mean)).sum() / 2 / n
                return total / k

            def loss(
                u: Weights, still: Weights = w, batch: Any = batch, y: Any = y, divergence: Any = divergence
            ) -> Any:
                def parts(v: Weights) -> Weights:
                    z, _ = concat(v, batch.inputs)
                    return {m: z[m] @ v[f"head.weight.{m}"].T for m in "av"}

                live, held = parts(u), parts(still)
                f = sum(live.values()) + u["head.bias"]
                compared = f if clean == "keep" else sum(held.values()) + still["head.bias"]
                total = cross_entropy(f, y)
                z, _ = concat(u, batch.inputs)
                for m in "av":
                    total = total + 0.3 * cross_entropy(
                        z[m] @ u[f"extra.mcr_{m}.weight"].T + u[f"extra.mcr_{m}.bias"], y
                    )
                for m, other in (("a", "v"), ("v", "a")):
                    climbing = dict(live) if game == "collaborative" else {m: live[m], other: held[other]}
                    total = total - weight * divergence({"parts": climbing, "bias": u["head.bias"]}, compared, m)
                    if game == "greedy":
                        falling = {m: held[m], other: live[other]}
                        total = total + weight * divergence({"parts": falling, "bias": u["head.bias"]}, compared, m)
                return total

            w = moved(sgd, w, gradient(loss, w))
            run.step(batch)
            assert_same(run.model, w)
        run.end_epoch()


@quick
@given(SEEDS, st.integers(2, 5))
def test_divergence_is_a_bounded_symmetric_one(seed: int, classes: int) -> None:
    a, b = 5 * drawn(seed, 6, classes), 5 * drawn(seed + 1, 6, classes)
    d = mcr.divergences(a, b)
    assert bool(((d >= -1e-12) & (d <= math.log(2) + 1e-12)).all())
    assert torch.allclose(d, mcr.divergences(b, a)) and not bool(mcr.divergences(a, a).any())


@quick
@given(SEEDS, st.integers(2, 4))
def test_the_greedy_game_has_no_value_and_leaves_the_bias_alone(seed: int, m: int) -> None:
    pieces = {f"m{i}": z.requires_grad_() for i, z in enumerate(drawn(seed, m, 6, 3))}
    bias = drawn(seed + 1, 3).requires_grad_()
    clean = sum(pieces.values()) + bias
    order = torch.rand(4, 6, generator=torch.Generator().manual_seed(seed)).argsort(1)
    _, signed = mcr.moves(pieces, lambda x: sum(x.values()) + bias, clean, "m0", order, "greedy")  # type: ignore[return-value, arg-type]
    signed.sum().backward()
    assert not bool(signed.detach().any()) and bias.grad is not None and float(bias.grad.abs().max()) < 1e-12
    assert all(p.grad is not None and bool(p.grad.any()) for p in pieces.values())
    identity = torch.arange(6)[None]
    j, _ = mcr.moves(pieces, lambda x: sum(x.values()) + bias, clean, "m0", identity, "independent")  # type: ignore[return-value, arg-type]
    assert not bool(j.detach().any())


@quick
@given(SEEDS, st.floats(0.1, 5), st.integers(2, 3))
def test_contrast_is_blind_to_scale_and_to_the_order_of_modalities(seed: int, scale: float, m: int) -> None:
    z, y = drawn(seed, m, 6, 4), labels(seed, 6, 3)
    valid = torch.ones(6 * m, dtype=torch.bool)
    value = mcr.supervised_contrast(z.flatten(0, 1), y.repeat(m), valid)
    assert torch.allclose(mcr.supervised_contrast(scale * z.flatten(0, 1), y.repeat(m), valid), value)
    assert torch.allclose(mcr.supervised_contrast(z.flip(0).flatten(0, 1), y.repeat(m), valid), value)
    one = mcr.supervised_contrast(z.flatten(0, 1), torch.zeros(6 * m, dtype=torch.int64), valid)
    assert float(one) == 0.0
    less = mcr.supervised_contrast(z.flatten(0, 1), y.repeat(m), valid & (torch.arange(6 * m) % 6 != 0))
    rest = torch.arange(1, 6)
    expected = mcr.supervised_contrast(z[:, rest].flatten(0, 1), y[rest].repeat(m), torch.ones(5 * m, dtype=torch.bool))
    assert torch.allclose(less, expected)


def test_permutations_stay_among_those_that_have_the_modality() -> None:
    run = started(MCR(samples=6))
    batch = next(iter(run.train()))
    present = torch.tensor([[1, 1], [0, 1], [1, 1], [1, 0], [1, 1]]).bool()
    from dataclasses import replace

    step = Step(run, replace(batch, present=present))
    order = run.strategy._permutations(step, "audio", 5)  # type: ignore[attr-defined]
    assert torch.equal(order.sort(1).values, torch.arange(5).expand(6, -1))
    assert bool((order[:, 1] == 1).all()) and len({tuple(o) for o in order.tolist()}) > 1

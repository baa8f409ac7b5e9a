"""IGM: contracts, training steps in numpy, and what the projection promises."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("mmzoo_newer", reason="mmzoo-newer is not installed")

from helpers.by_hand import Sgd, Weights, assert_same, encode, gradient, log_softmax, weights_of
from mmzoo_newer import igm
from mmzoo_newer.igm import IGM
from newer_helpers import SEEDS, drawn, moved, numpy_run, quick, started

from mmzoo.api import BadValue, Incompatible, Pass, Step
from mmzoo.heads.concat import Concat
from mmzoo.heads.sum import Sum
from mmzoo.testing import parametrize_with_checks


@parametrize_with_checks([lambda: IGM(rounds=2), lambda: IGM(rounds=1, mixup=0.0, rho=0.05)], head=Sum, draws=2)
def test_contract(check) -> None:  # type: ignore[no-untyped-def]
    check()


@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_igm_by_hand(rho: float) -> None:
    """Two epochs of the first modality, then two of the second under the projection of the first."""
    run = numpy_run(IGM(rounds=1, temperature=0.7, mixup=0.8, flat=0.3, rho=rho), Sum, epochs=4)
    w, p = weights_of(run.model), None
    for epoch in range(4):
        m = "av"[epoch // 2]
        if epoch == 2:
            means = [encode(w, "a", b.inputs["a"]).mean(0) for b in run.train("igm")]
            values, vectors = np.linalg.eigh(sum(np.outer(x, x) for x in means))
            spread = np.exp(-0.7 * (values - values[0]) / (values[-1] - values[0]))
            p = vectors @ np.diag(spread) @ vectors.T
        sgd = Sgd() if epoch % 2 == 0 else sgd  # noqa: F821
        run.start_epoch()
        for batch in run.epoch_batches():
            generator = Step(run, batch).at(Pass(f"joint/{m}")).generator("igm")
            s = np.random.default_rng(int(torch.randint(2**62, (), generator=generator))).beta(0.8, 0.8)
            partner = torch.randperm(len(batch), generator=generator)
            x, y = batch.inputs[m], batch.target.numpy()
            mixed_x, other = s * x + (1 - s) * x[partner], y[partner.numpy()]
            rows, weight, bias = np.arange(len(y)), f"head.linear.{m}.weight", f"head.linear.{m}.bias"

            def said(z: Any, u: Weights, weight: str = weight, bias: str = bias) -> Any:
                return log_softmax(z @ u[weight].T + u[bias])

            def mix(
                u: Weights, x: Any = mixed_x, m: str = m, s: float = s, y: Any = y, o: Any = other, r: Any = rows
            ) -> Any:
                log_p = said(encode(u, m, x), u)
                return -(s * log_p[r, y] + (1 - s) * log_p[r, o]).mean()

            steps = gradient(mix, w)
            shift = {n: rho * steps[n] / np.linalg.norm(steps[n]) for n in (weight, bias)}

            def loss(
                u: Weights, x: Any = mixed_x, m: str = m, shift: Any = shift, mix: Any = mix, y: Any = y, r: Any = rows
            ) -> Any:
                away = {**u, **{n: u[n] + d for n, d in shift.items()}}
                return 0.7 * mix(u) - 0.3 * said(encode(u, m, x), away)[r, y].mean()

            g = {n: d for n, d in gradient(loss, w).items() if f".{m}." in n}
            if p is not None:
                g[weight] = g[weight] @ p
            w = moved(sgd, w, g)
            run.step(batch)
            assert_same(run.model, w)
        run.end_epoch()


@quick
@given(SEEDS, st.integers(2, 6), st.floats(0.05, 3), st.floats(0.1, 10))
def test_a_projection_shrinks_between_e_to_the_minus_t_and_one(seed: int, d: int, t: float, scale: float) -> None:
    x = drawn(seed, 4, d)
    a = x.T @ x
    p = igm.projection(a, t)
    values = torch.linalg.eigvalsh(p)
    assert torch.allclose(p, p.T, atol=1e-9)
    assert float(values.min()) == pytest.approx(math.exp(-t)) and float(values.max()) <= 1 + 1e-9
    assert torch.allclose(igm.projection(scale * a, t), p, atol=1e-6)
    g = drawn(seed + 1, 3, d)
    assert float((g @ p).norm()) <= float(g.norm()) + 1e-9
    identity = torch.eye(d, dtype=torch.float64)
    assert torch.allclose(igm.projection(a, 0.0), identity, atol=1e-9)
    assert torch.allclose(igm.projection(2 * identity, t), identity)
    one = x[:1].T @ x[:1]
    expected = identity - (1 - math.exp(-t)) * one / one.trace()
    assert torch.allclose(igm.projection(one, t), expected, atol=1e-6)


@quick
@given(st.lists(st.integers(1, 5), min_size=2, max_size=4))
def test_turns_go_round(lengths: list[int]) -> None:
    turns = [igm.turn(e, lengths) for e in range(3 * sum(lengths))]
    for i, length in enumerate(lengths):
        assert [who for who, _ in turns].count(i) == 3 * length
        assert sum(begins for who, begins in turns if who == i) == 3
    assert turns[0] == (0, True)


def test_the_others_stand_still_bit_for_bit() -> None:
    run = started(IGM(rounds=2), 2, Sum, norm=True)
    for epoch in range(4):
        resting = run.modalities[1 - epoch % 2]
        before = {n: t.clone() for n, t in run.model.state_dict().items() if f".{resting}." in n}
        run.train_epoch()
        assert all(torch.equal(run.model.state_dict()[n], t) for n, t in before.items())
        run.end_epoch()


def test_what_cannot_work_says_why() -> None:
    with pytest.raises(BadValue, match="Give each of them one"):
        started(IGM(lengths={"audio": 1.0}), head=Sum)
    with pytest.raises(Incompatible, match="Take the head sum"):
        started(IGM(), head=Concat)
    assert started(IGM(temperature=0.0), head=Concat)


def test_predictions_are_means_of_probabilities_of_who_is_there() -> None:
    run = started(IGM(), head=Sum)
    batch = next(iter(run.train()))
    present = torch.ones(len(batch), 2, dtype=torch.bool)
    present[0, 1] = False
    out = run.model.eval()(batch.inputs, present)
    scores = run.strategy.predict(out).scores
    p = {m: z.softmax(-1) for m, z in out.unimodal.items()}
    assert torch.allclose(scores[0], p["audio"][0]) and torch.allclose(scores[1], (p["audio"][1] + p["image"][1]) / 2)

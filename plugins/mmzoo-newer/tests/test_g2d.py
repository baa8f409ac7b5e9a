"""G2D: contracts, a training step in numpy, and what the schedule promises."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("mmzoo_newer", reason="mmzoo-newer is not installed")

from helpers.by_hand import Sgd, Weights, assert_same, cross_entropy, encode, gradient, log_softmax, weights_of
from mmzoo_newer import g2d
from mmzoo_newer.g2d import G2D
from newer_helpers import SEEDS, C, D, drawn, moved, numpy_run, quick, started

from mmzoo.api import MultimodalModel, Run
from mmzoo.heads.concat import Concat
from mmzoo.testing import parametrize_with_checks


@parametrize_with_checks(
    [G2D, lambda: G2D(prioritise="batch"), lambda: G2D(logit_weight=0.0, prioritise="none")], draws=2
)
def test_contract(check) -> None:  # type: ignore[no-untyped-def]
    check()


@pytest.mark.parametrize("prioritise", ["run", "batch", "none"])
def test_g2d_by_hand(prioritise: Any) -> None:
    run = numpy_run(
        G2D(logit_weight=0.8, feature_weight=0.6, temperature=2.0, prioritise=prioritise, share=0.67), Concat
    )
    teachers = {m: run.teacher(m) for m in "av"}
    before = {m: weights_of(t) for m, t in teachers.items()}
    told = {m: taught(teachers[m], m) for m in "av"}
    data = [b for b in run.train(shuffled=False)]
    sure = {
        m: np.concatenate(
            [np.exp(log_softmax(told[m](b.inputs[m])[0]))[np.arange(len(b)), b.target] for b in data]
        ).mean()
        for m in "av"
    }
    weakest = min(sure, key=lambda m: sure[m])
    sgd, w, waited = Sgd(), weights_of(run.model), []
    for epoch in range(3):
        run.start_epoch()
        for batch in run.epoch_batches():
            run.step(batch)
            y = batch.target.numpy()
            soft = {m: log_softmax(told[m](batch.inputs[m])[0] / 2) for m in "av"}

            def loss(u: Weights, batch: Any = batch, y: Any = y, soft: Any = soft) -> Any:
                z = {m: encode(u, m, x) for m, x in batch.inputs.items()}
                f = sum(x @ u[f"head.weight.{m}"].T for m, x in z.items()) + u["head.bias"]
                far = sum(4 * (np.exp(t) * (t - log_softmax(f / 2))).sum(1).mean() for t in soft.values())
                apart = sum(((x - told[m](batch.inputs[m])[1]) ** 2).mean() for m, x in z.items())
                return cross_entropy(f, y) + 0.8 * far + 0.6 * apart

            g = gradient(loss, w)
            p = {m: np.exp(log_softmax(told[m](batch.inputs[m])[0]))[np.arange(len(y)), y].sum() for m in "av"}
            leader = max(p, key=lambda m: p[m]) if prioritise == "batch" else "av".replace(weakest, "")
            if epoch < 2 and prioritise != "none":
                waited.append(leader)
                for name in [n for n in g if n.startswith(f"encoders.{leader}.")]:
                    g[name] = 0 * g[name]
                    if prioritise == "run":
                        del g[name]
            w = moved(sgd, w, g)
            assert_same(run.model, w)
        run.end_epoch()
    assert all(np.array_equal(before[m][n], x) for m, t in teachers.items() for n, x in weights_of(t).items())
    assert prioritise == "none" or waited


def taught(teacher: MultimodalModel, m: str) -> Any:
    """x -> logits and features of a teacher, in numpy."""
    w = weights_of(teacher)
    head = {n.rpartition(".")[2] if not n.endswith(m) else "weight": x for n, x in w.items() if n.startswith("head.")}

    def said(x: torch.Tensor) -> tuple[Any, Any]:
        z = encode(w, m, x)
        return z @ head["weight"].T + head["bias"], z

    assert head["weight"].shape == (C, D)
    return said


@quick
@given(st.permutations(["a", "b", "c", "d"]), st.integers(2, 4), st.floats(0, 1), st.integers(1, 40))
def test_each_but_the_strongest_trains_alone_once_in_its_turn(
    names: list[str], m: int, share: float, epochs: int
) -> None:
    order = names[:m]
    lengths = g2d.stage_lengths(m - 1, share, epochs)
    assert sum(lengths) == round(share * epochs) and max(lengths) - min(lengths) <= 1
    who = [g2d.active(order, lengths, e) for e in range(epochs)]
    for modality, length in zip(order, lengths):
        assert who.count((modality,)) == length
    assert who.count(tuple(order)) == epochs - sum(lengths)
    assert who == sorted(who, key=lambda names: order.index(names[0]) if len(names) == 1 else m)


@quick
@given(SEEDS, st.floats(0.5, 4), st.floats(-3, 3))
def test_logits_are_compared_as_distributions(seed: int, temperature: float, shift: float) -> None:
    a, b = drawn(seed, 6, 4), drawn(seed + 1, 6, 4)
    apart = g2d.logit_divergences(a, b, temperature)
    assert bool((apart >= -1e-12).all())
    assert torch.allclose(g2d.logit_divergences(a + shift, b, temperature), apart)
    assert torch.allclose(
        g2d.logit_divergences(a, a + shift, temperature), torch.zeros(6, dtype=torch.float64), atol=1e-9
    )


def test_weakest_is_by_name_where_equal() -> None:
    assert g2d.ranked({"b": 0.2, "a": 0.2, "c": 0.1}) == ["c", "a", "b"]
    assert g2d.weakest_only(torch.tensor([0.3, 0.1, 0.1])).tolist() == [0.0, 1.0, 1.0]


def test_an_encoder_that_waits_keeps_its_weights_and_the_head_learns() -> None:
    run: Run = started(G2D(share=1.0), epochs=2)
    run.start_epoch()
    waiting = next(m for m in run.modalities if m != run.strategy.weakest_first[0])  # type: ignore[attr-defined]
    before = {n: p.detach().clone() for n, p in run.model.named_parameters()}
    for batch in run.epoch_batches():
        run.step(batch)
    changed = {n for n, p in run.model.named_parameters() if not torch.equal(before[n], p)}
    assert changed == {n for n in before if not n.startswith(f"encoders.{waiting}.")}

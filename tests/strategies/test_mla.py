"""MLA: the projection, the weights by entropy, and one modality a pass."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from helpers.agm_runs import C, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.api import Incompatible, Outputs, Pass, Step
from mmzoo.heads.concat import Concat
from mmzoo.heads.shared import Shared
from mmzoo.strategies import mla
from mmzoo.strategies.mla import MLA
from mmzoo.testing.harness.observing import difference, weights
from mmzoo.testing.harness.tasks import build_model, build_run, make_task, random_present, train

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=40)
SEEDS = st.integers(0, 10_000)
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

"""The matching by class and the learned alpha of dynamic gap, each against a computation of its own."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mmzoo import Batch, MultimodalModel, Run
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.cli import main
from mmzoo.config.spec import BenchSpec
from mmzoo.encoders.mlp import MLP
from mmzoo.errors import Incompatible
from mmzoo.functional import cosine_similarities, info_nce, same_class
from mmzoo.heads.concat import Concat
from mmzoo.registry.plugins import catalogue
from mmzoo.strategies.dynamic_gap import DynamicGap
from mmzoo.strategies.joint_unimodal import JointUnimodal
from mmzoo.strategies.label_fitting import LabelFitting
from mmzoo.training.composition import Chain
from mmzoo.training.config import Training
from mmzoo.training.step import Step

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=40)
WIDTHS = {"a": 5, "v": 3}
N, C = 12, 3


def features(seed: int, n: int, modalities: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {m: torch.randn(n, 4, generator=g, dtype=torch.float64) for m in "avt"[:modalities]}


def by_class(z: dict[str, Tensor], target: Tensor, tau: float, present: Any) -> float:
    """Each item against every item of its class, pair by pair and row by row."""
    names, y, values = list(z), target.numpy(), []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            rows = [k for k in range(len(y)) if present is None or (present[k, i] and present[k, names.index(b)])]
            if len(rows) < 2:
                values.append(0.0)
                continue
            for p, q in ((a, b), (b, a)):
                u, v = (x[rows].numpy() / np.linalg.norm(x[rows].numpy(), axis=1, keepdims=True) for x in (z[p], z[q]))
                each = []
                for r, row in enumerate(u @ v.T / tau):
                    log_p = row - np.log(np.exp(row - row.max()).sum()) - row.max()
                    each.append(-log_p[[s for s in range(len(rows)) if y[rows[s]] == y[rows[r]]]].mean())
                values.append(np.mean(each) / 2)
    pairs = len(names) * (len(names) - 1) / 2
    return float(np.sum(values) / pairs)


@FIXED
@given(st.integers(0, 10_000), st.integers(2, 7), st.integers(2, 3), st.booleans())
def test_matching_by_class_against_loops(seed: int, n: int, modalities: int, some_absent: bool) -> None:
    z, g = features(seed, n, modalities), torch.Generator().manual_seed(seed + 1)
    target = torch.randint(2, (n,), generator=g)
    present = torch.rand(n, modalities, generator=g) < 0.7 if some_absent else None
    found = info_nce(cosine_similarities(z, 0.3, present), same_class(target, present))
    assert float(found) == pytest.approx(by_class(z, target, 0.3, present), abs=1e-10)


@FIXED
@given(st.integers(0, 10_000), st.integers(2, 7))
def test_matching_by_class_is_matching_where_every_item_has_a_class_of_its_own(seed: int, n: int) -> None:
    similarities = cosine_similarities(features(seed, n, 3), 0.5)
    own = info_nce(similarities, same_class(torch.randperm(n)))
    assert float(own) == pytest.approx(float(info_nce(similarities)), abs=1e-12)


# ---------------------------------------------------------------------- the learned alpha
def data(n_batches: int = 1, seed: int = 0) -> list[Batch]:
    g = torch.Generator().manual_seed(seed)
    return [
        Batch(
            {m: torch.randn(N, d, generator=g, dtype=torch.float64) for m, d in WIDTHS.items()},
            torch.arange(N) % C,
            torch.arange(N) + N * i,
        )
        for i in range(n_batches)
    ]


def run_of(strategy: Any, n_batches: int = 1, **training: Any) -> Run:
    torch.manual_seed(0)
    encoders = {m: MLP((d,), hidden=(4,), width=3) for m, d in WIDTHS.items()}
    model = MultimodalModel(encoders, Concat(dict.fromkeys(WIDTHS, 3), C)).double()
    given = Training(**{"optimizer": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "epochs": 2, **training})
    return Run(model, strategy, train=data(n_batches), slice=data(1, seed=7), training=given, seed=1)


def flat(value: Tensor, model: torch.nn.Module) -> Tensor:
    grads = torch.autograd.grad(value, list(model.parameters()), retain_graph=True, allow_unused=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(grads, model.parameters())])


def losses(model: MultimodalModel, batch: Batch, tau: float) -> tuple[Tensor, Tensor]:
    out = model(batch.inputs)
    a, v = (F.normalize(z) for z in out.features.values())
    s, own = a @ v.T / tau, torch.arange(len(a))
    return F.cross_entropy(out.logits, batch.target), (F.cross_entropy(s, own) + F.cross_entropy(s.T, own)) / 2


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("solver", "items"), [("identity", None), ("hessian", None), ("hessian", 9)])
def test_one_update_of_alpha_by_dense_algebra(solver: Any, items: int | None, normalize: bool) -> None:
    strategy = DynamicGap(
        schedule="learned",
        solver=solver,
        items=items,
        normalize=normalize,
        alpha=0.4,
        eta=0.05,
        max_change=0.02,
        damping=2.0,
        iterations=200,
        upper_batches=1,
    )
    r = run_of(strategy)
    r.train_epoch()
    model = r.model
    batch = next(iter(r.train("dynamic_gap/inner"))).map(lambda t: t[:items])
    cls, mm = losses(model, batch, strategy.temperature)
    upper = next(iter(r.meta_batches("dynamic_gap/upper")))
    mixed = flat(mm - cls, model)
    wanted = flat(F.cross_entropy(model(upper.inputs).logits, upper.target), model)
    if solver == "hessian":
        names = [n for n, _ in model.named_parameters()]
        shapes = [p.shape for p in model.parameters()]

        def total(vector: Tensor) -> Tensor:
            pieces = [x.reshape(s) for x, s in zip(vector.split([s.numel() for s in shapes]), shapes)]
            out = torch.func.functional_call(model, dict(zip(names, pieces)), (batch.inputs,))
            a, v = (F.normalize(z) for z in out.features.values())
            s, own = a @ v.T / strategy.temperature, torch.arange(len(a))
            match = (F.cross_entropy(s, own) + F.cross_entropy(s.T, own)) / 2
            return 0.6 * F.cross_entropy(out.logits, batch.target) + 0.4 * match

        at = torch.cat([p.detach().flatten() for p in model.parameters()])
        dense = torch.autograd.functional.hessian(total, at)
    r.end_epoch()
    if solver == "identity":
        solved = wanted
    else:
        size = (r._logged["dynamic_gap/damping"][0]) / 2.0  # what power iteration made of the largest eigenvalue
        exact = float(torch.linalg.eigvalsh(dense).abs().max())
        assert 0.5 * exact < size <= exact * (1 + 1e-9)
        solved = torch.linalg.solve(dense + 2.0 * size * torch.eye(len(dense), dtype=dense.dtype), wanted)
    h = -float(mixed @ solved)
    if normalize:
        h /= float(mixed.norm() * solved.norm())
    change = min(0.02, max(-0.02, 0.05 * h))
    rel = 1e-9 if solver == "identity" else 0.1  # the solver stops at a residual of one per cent, for a small cosine
    assert 0.4 - strategy.current == pytest.approx(change, rel=rel) and abs(change) > 1e-5


@pytest.mark.parametrize("solver", ["gauss_newton", "tangent"])
def test_alpha_moves_after_every_so_many_steps(solver: Any) -> None:
    strategy = DynamicGap(schedule="learned", solver=solver, damping=0.01, every=3, upper="train")
    r = run_of(strategy, n_batches=5)
    seen = []
    for _ in range(2):
        r.start_epoch()
        for batch in r.epoch_batches():
            before = strategy.current
            r.step(batch)
            seen.append(strategy.current != before)
        kept = strategy.current
        r.end_epoch()
        assert strategy.current == kept
    assert [i for i, moved in enumerate(seen, 1) if moved] == [3, 6, 9]
    assert strategy.learner.n_updates == 3
    assert strategy.cost["forward_epoch"] == (1 if solver == "tangent" else 0) and strategy.cost["forward"] > 1


def test_alpha_within_an_epoch_is_restored_from_a_checkpoint() -> None:
    straight = DynamicGap(schedule="learned", every=2)
    r = run_of(straight, n_batches=3)
    for _ in range(2):
        r.train_epoch()
        r.end_epoch()
    first = run_of(DynamicGap(schedule="learned", every=2), n_batches=3)
    first.train_epoch()
    first.end_epoch()
    resumed = DynamicGap(schedule="learned", every=2)
    second = Run(
        first.model,
        resumed,
        train=data(3),
        slice=data(1, seed=7),
        training=r.training,
        seed=1,
        state=first.state_dict(),
    )
    second.train_epoch()
    assert resumed.current == straight.current and math.isfinite(straight.current) and straight.current != 0.5


@pytest.mark.parametrize("absent", [False, True])
def test_unimodal_losses_inside_are_those_of_the_control_beside_it(absent: bool) -> None:
    """With the additive form both ways of writing it are one."""
    given = {"schedule": "constant", "form": "additive", "matching": "class", "alpha": 0.7, "temperature": 0.2}
    weights = []
    for strategy in (DynamicGap(unimodal=2.0, **given), Chain(DynamicGap(**given), JointUnimodal(weight=2.0))):
        r = run_of(strategy, n_batches=3)
        for batch in data(3):
            present = torch.arange(2 * N).reshape(N, 2) % 5 > 0 if absent else None
            r.step(dataclasses.replace(batch, present=present))
        weights.append(torch.cat([p.detach().flatten() for p in r.model.parameters()]))
    assert torch.allclose(*weights, atol=1e-12, rtol=0)


def test_the_inner_problem_of_a_learned_alpha_holds_the_unimodal_losses() -> None:
    strategy = DynamicGap(schedule="learned", unimodal=1.5)
    r = run_of(strategy)
    batch = data()[0]
    step = Step(r, batch)
    cls, _ = strategy.loss.of_outputs(step, strategy.loss.outputs(step))
    out = r.model(batch.inputs)
    wanted = F.cross_entropy(out.logits, batch.target)
    wanted = wanted + 1.5 * sum(F.cross_entropy(z, batch.target) for z in out.unimodal.values())
    assert torch.allclose(cls, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("matching", ["infonce", "class", "kl_to_mean", "js"])
@pytest.mark.parametrize("absent", [False, True])
def test_items_that_left_the_loss_are_not_matched(matching: Any, absent: bool) -> None:
    (batch,) = data()
    n, g = len(batch), torch.Generator().manual_seed(5)
    if absent:
        batch = dataclasses.replace(batch, present=torch.rand(n, len(batch.inputs), generator=g) < 0.7)
    keep = torch.rand(n, generator=g) < 0.6
    found = []
    for step in (lambda r: Step(r, batch, keep=keep), lambda r: Step(r, batch.map(lambda t: t[keep]))):
        r = run_of(DynamicGap(schedule="constant", alpha=0.4, matching=matching))
        s = step(r)
        out = r.model(s.batch.inputs, s.batch.present)
        terms = r.strategy.losses(s, out, {"task": s.loss(s.kept(out.logits))})
        found.append({name: term.detach() for name, term in terms.items()})
    assert found[0].keys() == found[1].keys() and float(found[0]["dynamic_gap/match"]) > 0
    for name, term in found[0].items():
        torch.testing.assert_close(term, found[1][name])


def test_one_update_is_bounded() -> None:
    strategy = DynamicGap(schedule="learned", solver="identity", normalize=False, alpha=0.5, eta=1e3, max_change=0.07)
    r = run_of(strategy)
    r.train_epoch()
    r.end_epoch()
    assert abs(strategy.current - 0.5) == pytest.approx(0.07, abs=1e-12)


@pytest.mark.parametrize("one_hot", [0.0, 0.7])
def test_label_fitting_is_cross_entropy_with_mixed_labels(one_hot: float) -> None:
    r = run_of(LabelFitting(one_hot=one_hot))
    batch = data()[0]
    mixed = one_hot * F.one_hot(batch.target, C).double() + (1 - one_hot) / C
    wanted = F.cross_entropy(r.model(batch.inputs).logits, mixed).detach()
    r.step(batch)
    assert torch.allclose(r._logged["loss/task"][0], wanted, atol=1e-12, rtol=0)


# ---------------------------------------------------------------------- what the plan knows
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"dynamic_gap_lb.scope": "pattern:("}, "is not a regular expression"),
        ({"dynamic_gap_lb.scope": "tail"}, "'last' or 'pattern:REGEX', not 'tail'"),
        ({"dynamic_gap_lb.solver": "tangent", "train.clip": 1.0}, "leave out train.clip"),
        ({"dynamic_gap_lb.solver": "tangent", "train.clip": 1.0, "train.micro_batch": 8}, "train.clip and train.micro"),
    ],
)
def test_what_cannot_work_is_known_to_the_plan(
    settings: dict[str, Any], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = [x for k, v in settings.items() for x in ("--set", f"{k}={v}")]
    assert main(["bench", "--method", "dynamic_gap_lb", "--datasets", "mfeat", "--out", str(tmp_path), *given]) == 2
    assert says in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_clipping_hinders_no_other_solver() -> None:
    for solver, clip in (("tangent", None), ("gauss_newton", 1.0)):
        given = {"dynamic_gap_lb.solver": solver} | ({} if clip is None else {"train.clip": clip})
        bench = BenchSpec(method="dynamic_gap_lb", datasets=("mfeat",), seeds=(0,), settings=tuple(given.items()))
        assert any(p.role == "method" for p in make_plan(bench, catalogue()).runs)


def test_a_scope_without_parameters_is_refused_before_training() -> None:
    with pytest.raises(Incompatible, match="holds none of the trainable parameters"):
        run_of(DynamicGap(schedule="learned", scope="pattern:nowhere"))


def test_norms_of_both_gradients_are_recorded_with_every_schedule() -> None:
    for strategy in (DynamicGap(), DynamicGap(schedule="learned"), DynamicGap(schedule="learned", solver="tangent")):
        r = run_of(strategy)
        r.train_epoch()
        r.end_epoch()
        batch = next(iter(r.train()))
        if strategy.schedule == "learned" and strategy.solver != "tangent":  # taken at the end, not at the start
            norms = [float(flat(loss, r.model).norm()) for loss in losses(r.model, batch, strategy.temperature)]
            assert [r._logged[f"dynamic_gap/gradient_{x}"][0] for x in ("cls", "mm")] == pytest.approx(norms, rel=1e-9)
            ratio = r._logged["dynamic_gap/gradient_ratio"][0]
            assert ratio == pytest.approx(norms[1] / norms[0], rel=1e-9)
        assert all(len(r._logged[f"dynamic_gap/gradient_{x}"]) == 1 for x in ("cls", "mm"))

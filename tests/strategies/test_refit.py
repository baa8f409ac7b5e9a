"""Refit: against scikit-learn, in any order of the samples, in several processes, with modalities missing, with any head."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.api import Chain, Outputs, Run, Strategy, Training
from mmzoo.core.model import MultimodalModel
from mmzoo.data.loading.datamodule import Loader
from mmzoo.evaluation.scores import predict
from mmzoo.functional import RidgeClassifier, logistic_regression
from mmzoo.heads.concat import Concat
from mmzoo.heads.gmu import GMU
from mmzoo.heads.separate import Separate
from mmzoo.heads.weight import Weight
from mmzoo.strategies.mla import MLA
from mmzoo.strategies.refit import STRENGTHS, Refit
from mmzoo.testing.harness.ranks import in_processes
from mmzoo.testing.harness.tasks import Task, build_model, build_run, make_task


def problem(n: int, dims: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    target = torch.arange(n) % classes
    x = torch.randn(n, dims, generator=g, dtype=torch.float64)
    x[:, :classes] += F.one_hot(target, classes)[:, :dims]
    return x, target


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(
    st.integers(5, 60), st.integers(3, 12), st.integers(2, 5), st.sampled_from([1e-4, 0.1, 10.0]), st.integers(0, 99)
)
def test_ridge_is_that_of_scikit_learn(n: int, dims: int, classes: int, strength: float, seed: int) -> None:
    from sklearn.linear_model import Ridge

    x, target = problem(n, dims, classes, seed)
    weight, bias = RidgeClassifier(x, target, classes).fit(strength)
    theirs = Ridge(alpha=strength * n).fit(x.numpy(), F.one_hot(target, classes).double().numpy())
    values, expected = F.linear(x, weight, bias), torch.from_numpy(theirs.predict(x.numpy()))
    factor = float((values * expected).sum() / expected.square().sum())
    assert factor * 1.001 >= 0.1 and factor <= 1001  # one factor for all values
    assert torch.allclose(values, factor * expected, atol=1e-6 * factor)


def test_the_factor_of_ridge_is_that_of_least_cross_entropy_when_left_out() -> None:
    """Leave-one-out predictions by fitting n times."""
    x, target = problem(24, 4, 3, 0)
    weight, _ = RidgeClassifier(x, target, 3).fit(0.05)
    left_out = []
    for i in range(24):
        rest = torch.arange(24) != i
        xs, ys = x[rest], F.one_hot(target[rest], 3).double()
        centred = xs - xs.mean(0)
        w = torch.linalg.solve(
            centred.T @ centred + 0.05 * 24 * torch.eye(4, dtype=x.dtype), centred.T @ (ys - ys.mean(0))
        )
        left_out.append((x[i] - xs.mean(0)) @ w + ys.mean(0))
    values = torch.stack(left_out)
    plain = torch.linalg.solve(
        (x - x.mean(0)).T @ (x - x.mean(0)) + 0.05 * 24 * torch.eye(4, dtype=x.dtype),
        (x - x.mean(0)).T @ (F.one_hot(target, 3).double() - 1 / 3),
    ).T
    factor = float((weight * plain).sum() / plain.square().sum())
    losses = {k: float(F.cross_entropy(k * values, target)) for k in (0.97 * factor, factor, 1.03 * factor)}
    assert min(losses, key=losses.__getitem__) == factor


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(st.integers(10, 50), st.integers(2, 8), st.integers(2, 4), st.sampled_from([1e-2, 1.0]), st.integers(0, 99))
def test_cross_entropy_is_at_the_optimum_of_a_convex_problem(
    n: int, dims: int, classes: int, strength: float, seed: int
) -> None:
    """Its gradient vanishes, and scikit-learn's solver finds no lower value."""
    from sklearn.linear_model import LogisticRegression

    x, target = problem(n, max(dims, classes), classes, seed)
    c = 1 / (strength * n)
    weight, bias = logistic_regression(x, target, classes, c=c, max_iter=1000)
    theirs = LogisticRegression(C=c, tol=1e-10, max_iter=5000).fit(x.numpy(), target.numpy())

    def objective(w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.linear(x, w, b), target) + strength / 2 * w.square().sum()

    w, b = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    gradients = torch.autograd.grad(objective(w, b), [w, b])
    assert max(float(g.abs().max()) for g in gradients) < 2e-5
    if classes > 2:  # of two classes scikit-learn fits one vector, which is another penalty
        other = torch.from_numpy(np.array(theirs.coef_)), torch.from_numpy(np.array(theirs.intercept_))
        assert float(objective(weight, bias)) <= float(objective(*other)) + 1e-8


# ---------------------------------------------------------------------------------------------- in a run
def finished(task: Task, strategy: Strategy, share: tuple[int, int] = (0, 1), head: Any = Concat) -> Run:
    """A trained run with the last candidate in place."""
    run = build_run(task, strategy, build_model(task, head=head), share=share, epochs=1)
    run.train_epoch()
    run.end_epoch()
    for _ in run.strategy.finish(run):
        pass
    return run


def logits(run: Run, task: Task) -> torch.Tensor:
    return predict(run.model, run.strategy, [task.batch("test")]).logits


@pytest.mark.parametrize("form", ["ridge", "ce"])
def test_the_classifier_is_fitted_on_the_features_of_all_labelled_samples(form: Any) -> None:
    """Against the same fit by scikit-learn on features that are standardised by hand."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.preprocessing import StandardScaler

    task = make_task(3, dtype=torch.float64)
    run = build_run(task, Refit(form=form, strength=0.1), build_model(task, head=Concat), slice=True, epochs=1)
    run.train_epoch()
    run.end_epoch()
    list(run.strategy.finish(run))
    parts = [task.batch(s) for s in ("train", "slice")]
    features = [torch.cat(list(run.model.eval().encode(b.inputs).values()), 1).detach().numpy() for b in parts]
    x, y = np.concatenate(features), torch.cat([b.target for b in parts]).numpy()
    scaler = StandardScaler().fit(x)
    test = torch.cat(list(run.model.encode(task.batch("test").inputs).values()), 1).detach().numpy()
    if form == "ridge":
        fitted: Any = Ridge(alpha=0.1 * len(x)).fit(scaler.transform(x), np.eye(3)[y])
        expected, got = fitted.predict(scaler.transform(test)), logits(run, task).numpy()
        assert np.allclose(got / got[0, 0], expected / expected[0, 0], atol=1e-6)
    else:
        fitted = LogisticRegression(C=1 / (0.1 * len(x)), tol=1e-10, max_iter=5000).fit(scaler.transform(x), y)
        expected = fitted.predict_log_proba(scaler.transform(test))
        assert np.allclose(logits(run, task).log_softmax(-1).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize("form", ["ridge", "ce"])
def test_the_order_of_the_samples_changes_nothing(form: Any) -> None:
    task = make_task(2, dtype=torch.float64)
    here = finished(task, Refit(form=form, strength=0.1))
    there = build_run(task, Refit(form=form, strength=0.1), here.model, epochs=1)
    order = torch.randperm(14, generator=torch.Generator().manual_seed(1))
    there._train = Loader(
        {m: x[order] for m, x in task.inputs["train"].items()}, task.target["train"][order], order, batch_size=4
    )
    list(there.strategy.finish(there))
    assert torch.allclose(logits(here, task), logits(there, task), atol=1e-6)


def _in_process(form: str, missing: bool) -> dict[str, torch.Tensor]:
    from mmzoo.core import distributed

    task = make_task(2, dtype=torch.float64)
    task = _incomplete(task) if missing else task
    # fitted on the weights before training, which are the same however many processes there are
    run = build_run(task, Refit(form=form, strength=0.1), build_model(task, head=Concat), share=distributed.share())  # type: ignore[arg-type]
    list(run.strategy.finish(run))
    assert isinstance(run.strategy, Refit)
    return run.strategy.fitted


def _work(given: tuple[str, bool]) -> dict[str, torch.Tensor]:
    return _in_process(*given)


def _incomplete(task: Task) -> Task:
    present = {}
    for split, inputs in task.inputs.items():
        n = len(next(iter(inputs.values())))
        there = torch.ones(n, len(inputs), dtype=torch.bool)
        there[: n // 3, 0] = False
        there[-n // 4 :, -1] = False
        present[split] = there
    return Task(task.inputs, task.target, present, task.widths, task.n_classes, task.dtype, task.batch_size)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("form", ["ridge", "ce"])
def test_two_processes_find_what_one_finds(form: str, missing: bool) -> None:
    """14 samples in batches of 5 leave some out of every epoch of two processes, and none out of the fit."""
    alone = _work((form, missing))
    for rank in in_processes(_work, (form, missing)):
        for name, value in alone.items():
            assert torch.allclose(value, rank[name], atol=1e-9), name


def test_a_sample_that_lacks_a_modality_is_told_by_a_column() -> None:
    """With the column the fit does not depend on what stands in place of absent features, zeros or anything constant."""
    task = _incomplete(make_task(2, dtype=torch.float64))
    run = finished(task, Refit(strength=1e-4))
    assert isinstance(run.strategy, Refit)
    assert set(run.strategy.fitted) == {"feature:audio", "feature:image", "present:audio", "present:image", "bias"}
    assert logits(run, task).isfinite().all()
    complete = predict(run.model, run.strategy, [make_task(2, dtype=torch.float64).batch("test")]).logits
    there = task.present["test"]
    assert there is not None
    assert torch.allclose(complete[there.all(1)], logits(run, task)[there.all(1)])


@pytest.mark.parametrize(
    "head",
    [partial(GMU, width=4), Separate, Weight, partial(Weight, level="logit"), partial(Weight, level="gate")],
    ids=["gmu", "separate", "weight", "weight_logit", "weight_gate"],
)
def test_a_head_with_layers_of_its_own_keeps_them(head: Any) -> None:
    """The head's logits are a linear function of what is fitted on: its own last layer is in reach."""
    task = make_task(2, equal=True, dtype=torch.float64)
    model: MultimodalModel = build_model(task, head=head).eval()
    batch = task.batch("train")
    with torch.no_grad():
        out = model(batch.inputs)
    x = torch.cat([out.aux["penultimate"], torch.ones(14, 1, dtype=torch.float64)], 1)
    # more samples than columns, so that an exact fit is no accident
    rows = torch.cat(
        [x] + [model(task.batch(s).inputs).aux["penultimate"].detach().new_ones(0, x.shape[1]) for s in ("test",)]
    )
    found = torch.linalg.lstsq(rows, out.logits, driver="gelsd").solution
    assert torch.allclose(rows @ found, out.logits, atol=1e-8)
    run = finished(task, Refit(), head=head)
    strategy: Any = run.strategy
    assert set(strategy.fitted) == {"penultimate", "bias"}, "the features below the head's layers are not read"
    assert logits(run, task).isfinite().all()


def test_whatever_decided_before_the_refitted_classifier_decides() -> None:
    from mmzoo.heads.shared import Shared

    task = make_task(2, equal=True)
    for chain in (Chain(MLA(), Refit(strength=0.1)), Chain(Refit(strength=0.1), MLA())):
        run = finished(task, chain, head=Shared)
        p = predict(run.model, run.strategy, [task.batch("test")])
        assert torch.allclose(p.scores, p.logits.softmax(-1))


def test_candidates_are_each_strength_and_training_itself_where_asked() -> None:
    task = make_task(2)

    def names(**params: Any) -> list[str]:
        run = build_run(task, Refit(**params), build_model(task, head=Concat))
        return list(run.strategy.finish(run))

    assert names() == [f"ridge {s:g}" for s in STRENGTHS]
    assert names(form="ce", strength=0.5) == ["ce 0.5"]
    assert names(strength=0.5, keep_better=True) == ["as trained", "ridge 0.5"]


def test_until_it_is_fitted_it_changes_nothing() -> None:
    out = Outputs(torch.ones(2, 3), {"a": torch.ones(2, 4)}, {})
    assert Refit().predict(out) is out


def test_training_is_the_same_with_and_without_it() -> None:
    task = make_task(2)
    states: list[Mapping[str, torch.Tensor]] = []
    for strategy in (Strategy(), Refit()):
        run = build_run(
            task, strategy, build_model(task, head=Concat), **Training(epochs=2).as_dict() and {"epochs": 2}
        )
        run.train_epoch()
        run.end_epoch()
        states.append(run.model.state_dict())
    assert all(torch.equal(a, states[1][k]) for k, a in states[0].items())

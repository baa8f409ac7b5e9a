"""What comes after training: a strategy's own `finish`, and that of a part that is chained with it."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mmzoo.core.values import Batch
from mmzoo.evaluation.predictions import Predictions, predict
from mmzoo.strategies.refit import Refit
from mmzoo.testing.checks.strategy import REGULARISED
from mmzoo.testing.harness.cases import StrategyCase
from mmzoo.testing.harness.observing import difference, not_finite, random_state
from mmzoo.testing.harness.report import Skipped, contract, require
from mmzoo.testing.harness.spies import combined
from mmzoo.testing.harness.tasks import Task
from mmzoo.training.loop import Selection, fit
from mmzoo.training.run import Run
from mmzoo.training.strategy import Strategy


@contract("strategy")
def check_finish(case: StrategyCase) -> None:
    """What is put in place after training repeats, comes back with the state, and draws nothing from the global streams;
    and training is the same with and without a part that acts after it."""
    task = case.task()
    if "finish" in case.first.owns:
        _check_own(case, task)
        return
    chain = combined(case.new(), Refit(strength=0.1))
    if chain is None:
        raise Skipped("it cannot be chained")
    _, alone = _fitted(case, task, case.new())
    run, selection = _fitted(case, task, chain)
    trained = selection.as_trained
    require(trained is not None, "a part that acts after training is called", "finish gave no candidate", "pass it on")
    assert trained is not None
    gap = difference(alone.weights, trained.weights)
    require(
        trained.epoch == alone.epoch and gap is None,
        "training does not depend on what comes after it",
        f"epoch {trained.epoch} against {alone.epoch}; {gap}",
        "draw from the run's streams, which are named, and keep no state outside of `state`",
    )
    selection.restore(run)
    _check_finite(predict(run.model, run.strategy, [task.batch("test")]))


def _check_own(case: StrategyCase, task: Task) -> None:
    before = random_state()
    run, selection = _fitted(case, task, case.new())
    gap = difference(before, random_state())
    require(gap is None, "`finish` does not change the global random streams", str(gap), "draw from run.generator(...)")
    require(
        selection.as_trained is not None and bool(selection.candidates),
        "`finish` puts at least one candidate in place",
        "it yielded nothing",
        "yield a name after putting weights or state in place",
    )
    selection.restore(run)
    first = predict(run.model, run.strategy, [task.batch("test")])
    _check_finite(first)
    other, again = _fitted(case, task, case.new())
    again.restore(other)
    repeated = predict(other.model, other.strategy, [task.batch("test")])
    gap = difference({"logits": first.logits}, {"logits": repeated.logits})
    require(
        gap is None and selection.candidate == again.candidate,
        "the same training finishes in the same way",
        f"{selection.candidate} against {again.candidate}; {gap}",
        "draw from run.generator(...), and keep in `state` all that predictions depend on",
    )


def _fitted(case: StrategyCase, task: Task, strategy: Strategy) -> tuple[Run, Selection]:
    """A run trained to its end, with what validation chose."""
    run = case.run(task, strategy, epochs=2, **REGULARISED)

    def validation() -> Iterator[Batch]:
        yield task.batch("holdout")

    return run, fit(run, validation)


def _check_finite(p: Predictions) -> None:
    require(
        not not_finite({"logits": p.logits, "scores": p.scores}) and p.scores.dtype in (torch.float32, torch.float64),
        "predictions after `finish` are finite",
        "they are not",
        "check what was put in place",
    )

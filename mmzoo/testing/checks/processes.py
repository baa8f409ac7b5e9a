"""What a strategy owes to a run over several processes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmzoo.core import distributed
from mmzoo.errors import Incompatible
from mmzoo.evaluation.predictions import predict
from mmzoo.testing.harness.cases import StrategyCase
from mmzoo.testing.harness.observing import difference, weights
from mmzoo.testing.harness.ranks import PROCESSES, RankFailed
from mmzoo.testing.harness.report import CheckFailed, Skipped, contract, require
from mmzoo.testing.harness.tasks import Task, train
from mmzoo.testing.harness.together import in_turn

#: how far apart they may end, in float64 without batch statistics or dropout
APART = 1e-6
CURE = (
    "reduce every score that steers training (run.reduce), take means over samples with step.mean and step.loss, gather where "
    "samples are compared (run.gather), and take gradients from run.backward or run.term_grads"
)


def trained(given: tuple[StrategyCase, bool]) -> dict[str, Any]:
    """What three epochs make of the model, with this process's share of each batch; of items that lack modalities or not."""
    case, incomplete = given
    task = shared_task(case, incomplete)
    run = case.run(task, epochs=3, share=distributed.share())
    train(run, 3)
    rows = predict(run.model, run.strategy, [task.batch("test")])
    return {"weights": weights(run.model), "scores": rows.scores}


def shared_task(case: StrategyCase, incomplete: bool) -> Task:
    """Items whose batches go round between two processes: a single one would also train on what is left.

    incomplete: items lack modalities, so that in some batches none of one process's items has a certain one.
    """
    size = 4 if incomplete else 6
    task = _first(case.task(dtype=torch.float64, batch_size=size), train=12, slice=8 - 8 % size)
    if not incomplete:
        return task
    return replace(task, present={**task.present, **{s: _present(task, s) for s in ("train", "slice")}})


def _first(task: Task, **items: int) -> Task:
    """The task with the first items alone of some splits."""
    inputs = {s: {m: x[: items.get(s)] for m, x in each.items()} for s, each in task.inputs.items()}
    return replace(task, inputs=inputs, target={s: y[: items.get(s)] for s, y in task.target.items()})


def _present(task: Task, split: str) -> Tensor:
    """(n, M) bool: one item has nothing, a quarter has everything, and the others lack one modality, in turn."""
    n, m = len(task.target[split]), len(task.modalities)
    present = torch.ones(n, m, dtype=torch.bool)
    some = torch.arange(3 * n // 4)
    present[some, some % m] = False
    present[-1] = False
    return present


@contract("strategy")
def check_processes(case: StrategyCase) -> None:
    """Two processes with half of each batch end where a single one does that has all of it, with missing modalities
    too."""
    for incomplete in (False, True):
        _check_processes(case, incomplete)


def _check_processes(case: StrategyCase, incomplete: bool) -> None:
    claim = f"{PROCESSES} processes with a share of each batch train as a single one does"
    claim += ", with missing modalities" if incomplete else ""
    try:
        ranks = in_turn(trained, (case, incomplete))
    except Incompatible as refusal:
        raise Skipped(f"refused over several processes: {refusal}") from refusal
    except RankFailed as error:
        raise CheckFailed(claim, str(error), CURE) from error
    apart = difference(ranks[0], ranks[1], APART)
    require(apart is None, "all processes hold the same weights", str(apart), CURE)
    gap = difference(trained((case, incomplete)), ranks[0], APART)
    if gap is not None and case.first.stochastic:
        raise Skipped(
            f"declared stochastic: draws belong to positions in a batch ({gap}); the processes agree, however"
        )
    require(gap is None, claim, str(gap), CURE)

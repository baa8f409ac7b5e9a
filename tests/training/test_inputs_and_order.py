"""The hook `inputs`, and training in an order that a strategy decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from mmzoo.api import BadValue, Chain, Outputs, Run, Step, Strategy, Terms, Window
from mmzoo.testing import build_model, build_run, make_task


class Doubled(Strategy):
    """Doubles every input, and remembers the inputs that the later hooks saw."""

    def __init__(self) -> None:
        self.seen: list[Mapping[str, Any]] = []

    def inputs(self, step: Step, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return {m: 2 * x for m, x in inputs.items()}

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        self.seen.append(step.batch.inputs)
        return terms


class Forgetful(Strategy):
    def inputs(self, step: Step, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return dict(list(inputs.items())[1:])


def started(strategy: Strategy, task: Any = None) -> Run:
    task = make_task(2, dtype=torch.float64) if task is None else task
    return build_run(task, strategy, build_model(task))


def weights(run: Run) -> Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters()])


def test_encoders_and_later_hooks_get_the_new_inputs_and_the_batch_keeps_its_own() -> None:
    task = make_task(2, dtype=torch.float64)
    twice = task.with_train(inputs={m: 2 * x for m, x in task.inputs["train"].items()})
    strategy = Doubled()
    run, expected = started(strategy, task), started(Strategy(), twice)
    batch = next(iter(run.epoch_batches()))
    before = {m: x.clone() for m, x in batch.inputs.items()}
    run.start_epoch()
    run.step(batch)
    assert all(torch.equal(batch.inputs[m], x) and torch.equal(strategy.seen[0][m], 2 * x) for m, x in before.items())
    expected.start_epoch()
    expected.step(next(iter(expected.epoch_batches())))
    assert torch.equal(weights(run), weights(expected))


def test_chains_and_windows_hand_inputs_on() -> None:
    first, second = Doubled(), Doubled()
    run = started(Chain(first, Window(second, 1)))
    for factor in (2, 4):
        run.start_epoch()
        batch = next(iter(run.epoch_batches()))
        run.step(batch)
        run.end_epoch()
        assert all(torch.equal(first.seen[-1][m], factor * x) for m, x in batch.inputs.items())


def test_a_modality_that_is_not_returned_is_named() -> None:
    run = started(Forgetful())
    run.start_epoch()
    with pytest.raises(BadValue, match=r"returned the modalities image; it was given audio, image"):
        run.step(next(iter(run.epoch_batches())))


@pytest.mark.parametrize("ordered", [True, False])
def test_an_ordered_sample_is_seen_as_it_stands(ordered: bool) -> None:
    run = started(Strategy())
    rows = torch.tensor([3, 1, 3, 0, 9, 7, 2, 2])
    run.set_sampling(rows, ordered=ordered)
    seen = torch.cat([b.index for b in run.epoch_batches()])
    assert torch.equal(seen, rows) == ordered
    assert torch.equal(seen.sort().values, rows.sort().values)
    again = started(Strategy())
    state = run.state_dict()
    resumed = Run(again.model, Strategy(), train=run._train, training=run.training, state=state)
    assert torch.equal(torch.cat([b.index for b in resumed.epoch_batches()]), seen)


def test_processes_share_ordered_batches() -> None:
    task = make_task(2)
    rows = torch.arange(13, -1, -1)
    shares = [
        [
            b.index
            for b in task.loader("train").shared(k, 2).sampled(rows, None, ordered=True).batches(torch.Generator())
        ]
        for k in range(2)
    ]
    whole = [b.index for b in task.loader("train").sampled(rows, None, ordered=True).batches(torch.Generator())]
    for a, b, both in zip(*shares, whole):
        assert sorted([*a.tolist(), *b.tolist()]) == sorted(both.tolist())[-2 * len(a) :]

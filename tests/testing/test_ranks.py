"""The contract check over two processes: it passes on what reduces its scores and names what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmzoo.api import Batch, Grads, Incompatible, Outputs, Run, Step, Strategy, Terms
from mmzoo.core import distributed
from mmzoo.core.seeding import stream
from mmzoo.data.loading.datamodule import Loader
from mmzoo.registry import user_classes
from mmzoo.strategies.ogm import OGM
from mmzoo.strategies.pmr import PMR
from mmzoo.testing import check_part, check_strategy
from mmzoo.testing.checks.processes import shared_task
from mmzoo.testing.harness.cases import StrategyCase

ONLY = ["check_processes"]


class OwnScale(Strategy):
    """Scales gradients by a score of this process's items alone."""

    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        score = out.logits.detach().softmax(-1).max()
        for group in grads:
            grads.scale(group, self.shared(step.run, score))

    def shared(self, run: Run, score: Tensor) -> Tensor:
        return score


class CommonScale(OwnScale):
    """Agrees on the score, but on another one than a single process has: the mean of the largest of each."""

    def shared(self, run: Run, score: Tensor) -> Tensor:
        return run.reduce(score)


class Lonely(Strategy):
    """Does not work over several processes, and says so."""

    def setup(self, run: Run) -> None:
        if run.n_processes > 1:
            raise Incompatible("it has one memory for all items")


class Stumbles(Strategy):
    """Raises in one of the processes alone, while the other waits for its gradients."""

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        if step.run.n_processes > 1 and distributed.share()[0] == 1:
            raise ZeroDivisionError("nothing left")
        return terms


def test_reduced_scores_pass_and_own_ones_are_named() -> None:
    assert check_strategy(OGM, only=ONLY).status(*ONLY) == "passed"
    assert check_strategy(PMR, only=ONLY).status(*ONLY) == "passed"
    (own,) = check_strategy(OwnScale, only=ONLY, raise_failures=False)
    assert own.status == "failed"
    assert "all processes hold the same weights" in own.reason
    (common,) = check_strategy(CommonScale, only=ONLY, raise_failures=False)
    assert common.status == "failed"
    assert "as a single one does" in common.reason
    assert "run.reduce" in common.reason


class OwnMean(Strategy):
    """Takes the mean over the items that this process has."""

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        each = step.kept(out.logits).square().sum(1)
        return {**terms, "own/size": self._mean(step, each)}

    def _mean(self, step: Step, each: Tensor) -> Tensor:
        return each.sum() / max(1, len(each))


class CommonMean(OwnMean):
    """Takes it over those of all."""

    def _mean(self, step: Step, each: Tensor) -> Tensor:
        return step.mean(each)


def test_means_over_the_items_that_a_process_has_are_named() -> None:
    assert check_strategy(CommonMean, only=ONLY).status(*ONLY) == "passed"
    (own,) = check_strategy(OwnMean, only=ONLY, raise_failures=False)
    assert own.status == "failed" and "with missing modalities" in own.reason and "step.mean" in own.reason


def test_in_the_check_some_process_lacks_what_the_other_has() -> None:
    task = shared_task(StrategyCase(Strategy), incomplete=True)
    parts = [task.loader("train").shared(number, 2) for number in range(2)]
    epochs = [zip(*(p.batches(stream(0, "order", epoch)) for p in parts), strict=True) for epoch in range(3)]
    seen = [[b.present.any(0) for b in pair if b.present is not None] for pairs in epochs for pair in pairs]
    assert sum(bool((a != b).any()) for a, b in seen) > 2


def test_a_refusal_is_a_reason_to_skip_and_a_crash_is_told() -> None:
    (refused,) = check_strategy(Lonely, only=ONLY)
    assert refused.status == "skipped"
    assert "one memory for all items" in refused.reason
    (crashed,) = check_strategy(Stumbles, only=ONLY, raise_failures=False)
    assert crashed.status == "failed"
    assert "ZeroDivisionError: nothing left" in crashed.reason
    assert check_strategy(Strategy, only=ONLY).status(*ONLY) == "passed"  # the next check is not harmed


def test_a_class_in_a_file_of_ones_own_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from mmzoo.api import Grads, Outputs, Step, Strategy\n"
        "def largest(out): return out.logits.detach().softmax(-1).max()\n"
        "class Mine(Strategy):\n"
        "    def __init__(self, *, reduced: bool = False):\n"
        "        self.reduced = reduced\n"
        "    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:\n"
        "        super().gradients(step, out, grads)\n"
        "        for group in grads: grads.scale(group, largest(out))\n"
    )
    (result,) = check_part("strategy", user_classes.load(str(path), "Mine"), only=ONLY, raise_failures=False)
    assert result.status == "failed"
    assert "same weights" in result.reason


@pytest.mark.parametrize("n_items", [16, 17, 18, 21, 23])
def test_shares_make_up_the_batches_of_a_single_process(n_items: int) -> None:
    x = torch.arange(n_items, dtype=torch.float32)[:, None]
    whole = Loader({"a": x}, torch.zeros(n_items, dtype=torch.int64), torch.arange(n_items), None, batch_size=6)
    parts = [whole.shared(number, 3) for number in range(3)]

    def drawn(loader: Loader) -> list[Batch]:
        return list(loader.batches(torch.Generator().manual_seed(1)))

    ranks = [drawn(p) for p in parts]
    assert {len(p) for p in parts} == {len(r) for r in ranks}
    seen = 0
    for single, *shares in zip(drawn(whole), *ranks, strict=False):
        assert len({len(s) for s in shares}) == 1
        together = torch.stack([s.index for s in shares], 1).flatten()
        assert torch.equal(together, single.index[: len(together)])
        assert len(single.index) - len(together) < 3
        seen += len(together)
    assert parts[0].n_left_out == n_items - seen
    assert whole.n_left_out == 0

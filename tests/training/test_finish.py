"""What comes after the last epoch: who is asked, what competes, and what is kept."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from helpers import data, equal, loader, run, weights

from mmzoo.api import Batch, Chain, Incompatible, Run, Strategy, Window
from mmzoo.training.loop import Selection, fit


class Zeroed(Strategy):
    """Candidates: the head times each factor; `seen` are the epochs of the weights that it was called with."""

    owns = frozenset({"finish"})

    def __init__(self, *, factors: tuple[float, ...] = (0.0, 1.0)) -> None:
        self.factors = factors
        self.seen: list[torch.Tensor] = []

    def finish(self, run: Run) -> Iterator[str]:
        kept = run.model.head.bias.detach().clone()
        self.seen.append(kept)
        for factor in self.factors:
            with torch.no_grad():
                run.model.head.bias.copy_(kept * factor + (1 - factor) * 50.0 * torch.arange(3))
            yield f"times {factor}"


def validation() -> Iterator[Batch]:
    yield Batch(**data(seed=1))


def test_the_best_candidate_on_validation_is_kept_and_the_run_is_left_at_its_last_epoch() -> None:
    plain, expected = run(), None
    expected = fit(plain, validation)
    given = run(Zeroed())
    selection = fit(given, validation)
    assert selection.as_trained is not None
    assert equal(selection.as_trained.weights, expected.weights)
    assert selection.candidate == f"times 1.0, epoch {selection.epoch}"
    assert selection.score >= expected.score
    assert equal(weights(given.model), weights(plain.model))
    selection.restore(given)
    assert equal(weights(given.model), selection.weights)


def test_it_is_called_at_the_chosen_epoch_and_at_the_last() -> None:
    given = run(Zeroed())
    selection = fit(given, validation)
    assert isinstance(given.strategy, Zeroed)
    assert selection.as_trained is not None
    epochs = dict.fromkeys((selection.as_trained.epoch, given.n_epochs - 1))
    assert list(selection.candidates) == [f"times {f}, epoch {e}" for e in epochs for f in (0.0, 1.0)]
    assert len(given.strategy.seen) == len(epochs)


def test_a_worse_candidate_replaces_training_where_training_does_not_compete() -> None:
    selection = fit(run(Zeroed(factors=(0.0,))), validation)
    assert selection.as_trained is not None
    assert selection.candidate.startswith("times 0.0")
    assert selection.score < selection.as_trained.score


def test_without_a_finish_nothing_changes() -> None:
    selection = fit(run(), validation)
    assert (selection.candidate, selection.candidates, selection.as_trained) == ("", {}, None)


def test_a_chain_asks_the_part_that_finishes_and_refuses_two() -> None:
    selection = fit(run(Chain(Strategy(), Zeroed())), validation)
    assert selection.candidates
    with pytest.raises(Incompatible, match="finish"):
        Chain(Zeroed(), Zeroed())


def test_a_window_around_what_acts_after_training_is_refused() -> None:
    with pytest.raises(Incompatible, match="after training"):
        Window(Zeroed(), 0, 1)


def test_everything_labelled_is_collected_once_in_the_order_of_its_number_and_counted() -> None:
    given = run(train=loader(batch_size=7))
    before = given.cost.forward
    found = given.collect(lambda out: {"x": out.features["a"], "logits": out.logits})
    assert found["index"].tolist() == list(range(40))
    assert torch.equal(found["target"], data()["target"])
    assert found["x"].shape == (40, 5) and not found["logits"].requires_grad
    assert given.cost.forward - before == len(loader(batch_size=7))


def test_collecting_leaves_modes_and_buffers_alone() -> None:
    from helpers import model

    m = model(norm=True)
    given = run(m=m)
    m.train()
    before = weights(m)
    given.collect(lambda out: {"x": out.logits})
    assert equal(before, weights(m)) and m.training


def test_a_checkpoint_of_a_selection_still_fits() -> None:
    """Its fields are written and read by name."""
    selection = Selection(**vars(Selection()))
    assert selection.as_trained is None

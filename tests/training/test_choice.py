"""Among which epochs validation chooses."""

from __future__ import annotations

from typing import Any

import pytest
from helpers import loader, run

from mmzoo.api import BadValue, Run, Strategy, Training
from mmzoo.training.loop import fit


class Stops(Strategy):
    """Ends training after an epoch."""

    def __init__(self, last: int) -> None:
        self.last = last

    def epoch_end(self, run: Run, metrics: Any) -> None:
        if run.epoch == self.last:
            run.stop()


@pytest.mark.parametrize(
    ("share", "epochs", "first"), [(0.0, 8, 0), (0.75, 8, 6), (0.75, 3, 2), (0.75, 1, 0), (1.0, 8, 7), (1, 8, 7)]
)
def test_earlier_epochs_are_no_candidates(share: float, epochs: int, first: int) -> None:
    seen: list[int] = []
    trained = run(training=Training(lr=0.01, epochs=epochs).replace(choose_from=share))
    chosen = fit(trained, lambda: loader(seed=3).batches(), on_candidate=seen.append)
    assert seen == list(range(first, epochs)) and first <= chosen.epoch < epochs


def test_a_run_that_stops_before_them_is_scored_as_it_stands() -> None:
    seen: list[int] = []
    trained = run(Stops(2), training=Training(lr=0.01, epochs=8, choose_from=0.75))
    chosen = fit(trained, lambda: loader(seed=3).batches(), on_candidate=seen.append)
    assert seen == [2] and chosen.epoch == 2 and chosen.weights


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan"), "half"])
def test_what_is_no_share_is_refused(share: Any) -> None:
    with pytest.raises(BadValue, match="choose_from"):
        Training().replace(choose_from=share)

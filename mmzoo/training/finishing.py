"""After the last epoch: the choice between what a strategy puts in place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mmzoo.core.precision import without_compiler

if TYPE_CHECKING:
    from mmzoo.training.loop import Selection
    from mmzoo.training.run import Run


def choose_finish(
    run: Run, selection: Selection, scored: Callable[[], Mapping[str, Any]], offer: Callable[..., None]
) -> None:
    """Make `selection` the best of what the strategy's `finish` puts in place; without one nothing changes.

    Candidates start from the chosen epoch and, where that is another one, from the last. The run is left as the last
    epoch left it, and what training alone has chosen is kept as `selection.as_trained`.

    Args:
        scored: gives the scores of the present model on the validation set.
        offer: (selection, epoch, scores, name) offers the present model to a selection.
    """
    if "finish" not in run.strategy.owns:
        return
    trained, last, best = copy.copy(selection), type(selection)(), type(selection)()
    last.offer(run.epoch - 1, 0.0, 0.0, run)
    for start in (trained, last) if trained.epoch != last.epoch else (trained,):
        start.restore(run)
        with without_compiler():
            for name in run.strategy.finish(run):
                scores = scored()
                called = f"{name}, epoch {start.epoch}"
                best.candidates[called] = {k: scores[k] for k in ("acc", "map", "loss")}
                offer(best, start.epoch, scores, called)
    last.restore(run)
    if best.weights:
        vars(selection).update(vars(best), as_trained=trained)

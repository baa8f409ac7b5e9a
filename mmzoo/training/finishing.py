"""After the last epoch: what a model makes of all labelled samples, and the choice between what `finish` puts in place."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmzoo.core import distributed
from mmzoo.core.modes import evaluating
from mmzoo.core.seeding import seeded
from mmzoo.core.values import Outputs, Pass, batch_bounds

if TYPE_CHECKING:
    from mmzoo.training.loop import Selection
    from mmzoo.training.run import Run


def collect(run: Run, read: Callable[[Outputs], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """See `Run.collect`. In several processes each encodes its part of the samples, and none is left out."""
    pieces: list[dict[str, Tensor]] = []
    with evaluating(run.model), seeded(run.seed, "collect", run.global_step):
        for source in run.labelled:
            share = source.part(*distributed.share()) if run.n_processes > 1 else source
            for batch in share.batches():
                for start, end in batch_bounds(len(batch), run.training.micro_batch or len(batch)):
                    piece = batch.map(lambda t, a=start, b=end: t[a:b]).to(run.device)  # type: ignore[misc]
                    out = run.model(piece.inputs, piece.present)
                    pieces.append({"index": piece.index, "target": piece.target, **read(out)})
                run.count_forward(Pass())
    joined = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
    parts = distributed.all_objects({name: t.cpu() for name, t in joined.items()}) if run.n_processes > 1 else [joined]
    whole = {name: torch.cat([part[name] for part in parts]).to(run.device) for name in joined}
    order = whole["index"].argsort(stable=True)
    return {name: t[order] for name, t in whole.items()}


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
        for name in run.strategy.finish(run):
            scores = scored()
            called = f"{name}, epoch {start.epoch}"
            best.candidates[called] = {k: scores[k] for k in ("acc", "map", "loss")}
            offer(best, start.epoch, scores, called)
    last.restore(run)
    if best.weights:
        vars(selection).update(vars(best), as_trained=trained)

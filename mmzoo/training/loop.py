"""The loop over epochs, and the choice of the epoch."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from mmzoo.core.precision import without_compiler
from mmzoo.core.values import Batch
from mmzoo.errors import Diverged, Incompatible
from mmzoo.evaluation.scores import evaluate
from mmzoo.training.run import Run, on_device

_CURE = "A smaller learning rate (--set train.lr=...) or gradient clipping (--set train.clip=1) usually helps."


@dataclass
class Selection:
    """The best epoch so far by a holdout score; ties go to the lower holdout loss, then to the earlier epoch."""

    epoch: int = -1
    score: float = -math.inf
    loss: float = math.inf
    weights: dict[str, Tensor] = field(default_factory=dict)
    strategy: dict[str, Any] = field(default_factory=dict)
    #: of what `Strategy.finish` put in place: the one chosen, the validation scores of all, and what training alone chose
    candidate: str = ""
    candidates: dict[str, dict[str, float]] = field(default_factory=dict)
    as_trained: Selection | None = None

    def offer(self, epoch: int, score: float, loss: float, run: Run, candidate: str = "") -> None:
        if (score, -loss) > (self.score, -self.loss):
            self.epoch, self.score, self.loss, self.candidate = epoch, score, loss, candidate
            self.weights = copy.deepcopy(run.model.state_dict())
            self.strategy = run.strategy.state_dict()

    def restore(self, run: Run) -> None:
        """Put model and strategy back to the chosen epoch: a decision rule may depend on both.

        Modules that a strategy has added since then are taken out again.
        """
        run.model.remove_extra(self.weights)
        run.model.load_state_dict(self.weights)
        run.strategy.load_state_dict(on_device(self.strategy, run.device))  # a checkpoint keeps it on the CPU


def fit(
    run: Run,
    holdout: Callable[[], Iterable[Batch]] | None,
    *,
    metric: str = "acc",
    selection: Selection | None = None,
    on_epoch: Callable[[dict[str, Any], Selection], None] = lambda record, selection: None,
    on_candidate: Callable[[int], None] = lambda epoch: None,
    pooled: bool = False,
    choose: bool = True,
) -> Selection:
    """Train to the end, choosing the epoch on holdout, and let the strategy finish (`Strategy.finish`).

    holdout: gives the holdout batches; the run itself never sees them. None: there is none, and a schedule that watches its loss
    watches that of training. choose: False for the last epoch, whatever holdout says. on_epoch is called after every epoch with its
    record, on_candidate with its number whenever the weights at hand are about to be offered for selection. pooled: the batches
    of holdout are one process's part, and scores are over those of all. A run that was
    stopped before its first epoch is scored as it stands, as epoch -1. Raises Diverged, naming epoch and loss term, at
    the end of an epoch with a value that is not finite.
    """
    selection = Selection() if selection is None else selection

    def offer_to(chosen: Selection, epoch: int, scores: Mapping[str, Any], name: str = "") -> None:
        on_candidate(epoch)
        chosen.offer(epoch, scores[metric], scores["loss"], run, name)

    offer = partial(offer_to, selection)

    def scored() -> dict[str, Any]:
        batches = () if holdout is None else holdout()
        return evaluate(run.model, run.strategy, (b.to(run.device) for b in batches), pooled=pooled)

    while run.epoch < run.n_epochs and not run.stopped:
        epoch = run.epoch
        try:
            run.train_epoch()
        except Incompatible as error:
            # A method that checks what it is handed may notice first that training has blown up.
            if run.finite():
                raise
            raise Diverged(f"epoch {epoch}: a loss is not finite. {_CURE}") from error
        scores = {} if holdout is None else scored()
        # Before the epoch ends: a strategy may put other weights in place then, and those have not been scored.
        if choose:
            offer(epoch, scores)
        watched = scores["loss"] if scores else run.training_loss()
        logged = run.end_epoch(watched)
        for name, value in {**logged, "holdout loss" if scores else "training loss": watched}.items():
            if not math.isfinite(value):
                raise Diverged(f"epoch {epoch}: {name} is {value}. {_CURE}")
        last = run.stopped or run.epoch >= run.n_epochs
        if choose and last and any(name.startswith("edit/") for name in logged):
            offer(epoch, scored())  # what the last epoch's end put in place is a candidate too, in a checkpoint as well
        on_epoch({"epoch": epoch, "train": logged, **({"holdout": scores} if scores else {})}, selection)
    if not choose:
        selection.offer(run.epoch - 1, 0.0, 0.0, run)
    elif not selection.weights:
        offer(run.epoch - 1, scored())
    _choose_finish(run, selection, scored, offer_to)
    return selection


def _choose_finish(
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

"""The loop over epochs, and the selection of the epoch."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from mmzoo.core.precision import without_compiler
from mmzoo.core.values import Batch
from mmzoo.errors import Diverged, Incompatible
from mmzoo.evaluation.scores import evaluate
from mmzoo.training.run import Run
from mmzoo.training.verbs import Phase
from mmzoo.training.weights import on_device

_CURE = "A smaller learning rate (--set train.lr=...) or gradient clipping (--set train.clip=1) usually helps."


@dataclass
class Selection:
    """The best epoch so far by validation score; ties go to the lower validation loss, then to the earlier epoch."""

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
        """Take the present weights if their score is the best so far.

        Args:
            epoch: the epoch, from 0.
            score: its validation score.
            loss: its validation loss.
            run: the run with these weights.
            candidate: name given by `Strategy.finish`; empty for an epoch of training.
        """
        if (score, -loss) > (self.score, -self.loss):
            self.epoch, self.score, self.loss, self.candidate = epoch, score, loss, candidate
            self.weights = copy.deepcopy(run.model.state_dict())
            self.strategy = run.strategy.state_dict()

    def restore(self, run: Run) -> None:
        """Restore model and strategy to the selected epoch: a decision rule may depend on both.

        Modules that a strategy added later are removed.
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
    """Train to the end, select the epoch on validation, and let the strategy finish (`Strategy.finish`).

    The epochs before `Training.choose_from` are no candidates.

    Args:
        run: The run. One that was stopped before its first epoch is scored as it stands, as epoch -1.
        holdout: Gives the validation batches, which the run never sees. None: there are none, and a schedule that watches their loss
            watches that of training.
        metric: The score that selects.
        selection: The selection so far, of a run that resumes.
        on_epoch: Called after every epoch with its record and the selection.
        on_candidate: Called with the epoch whenever the present weights are about to be offered for selection.
        choose: False for the last epoch, whatever validation says.
        pooled: Whether the batches are this process's part, and scores are over those of all processes.

    Raises:
        Diverged: A value is not finite at the end of an epoch; names epoch and loss term.
    """
    selection = Selection() if selection is None else selection

    def offer_to(chosen: Selection, epoch: int, scores: Mapping[str, Any], name: str = "") -> None:
        on_candidate(epoch)
        chosen.offer(epoch, scores[metric], scores["loss"], run, name)

    def scored() -> dict[str, Any]:
        batches = () if holdout is None else holdout()
        return evaluate(run.model, run.strategy, (b.to(run.device) for b in batches), pooled=pooled)

    offer = partial(offer_to, selection)
    while run.epoch < run.n_epochs and not run.stopped:
        with _divergence_named(run):
            run.train_epoch()
        candidate = choose and run.epoch >= run.training.first_choice
        on_epoch(_end_epoch(run, None if holdout is None else scored, offer if candidate else None), selection)
    if not choose:
        selection.offer(run.epoch - 1, 0.0, 0.0, run)
    elif not selection.weights:
        offer(run.epoch - 1, scored())
    _choose_finish(run, selection, scored, offer_to)
    return selection


def _end_epoch(
    run: Run, scored: Callable[[], dict[str, Any]] | None, offer: Callable[[int, Mapping[str, Any]], None] | None
) -> dict[str, Any]:
    """Score a trained epoch, offer its weights and end it. Returns the record of the epoch.

    Args:
        scored: Gives the scores of the present model on the validation set; None where there is none.
        offer: (epoch, scores) offers the present model for selection; None where nothing is selected.
    """
    epoch = run.epoch
    scores = {} if scored is None else scored()
    if offer is not None:
        offer(epoch, scores)  # before the epoch ends: a strategy may then put weights in place that have no scores
    watched = scores["loss"] if scores else run.training_loss()
    logged = run.end_epoch(watched)
    _check_finite(epoch, {**logged, "validation loss" if scores else "training loss": watched})
    edited = run.phase is Phase.ENDED and any(name.startswith("edit/") for name in logged)
    if offer is not None and scored is not None and edited:
        offer(epoch, scored())  # what the last epoch's end put in place is a candidate too, in a checkpoint as well
    return {"epoch": epoch, "train": logged, **({"holdout": scores} if scores else {})}


@contextlib.contextmanager
def _divergence_named(run: Run) -> Iterator[None]:
    """A method that checks what it is handed may notice first that training has diverged: say that it has."""
    try:
        yield
    except Incompatible as error:
        if run.finite():
            raise
        raise Diverged(f"epoch {run.epoch}: a loss is not finite. {_CURE}") from error


def _check_finite(epoch: int, values: Mapping[str, float]) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise Diverged(f"epoch {epoch}: {name} is {value}. {_CURE}")


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

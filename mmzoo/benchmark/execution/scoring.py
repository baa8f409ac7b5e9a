"""The scores of a trained run, as its row has them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from mmzoo.benchmark.execution.artifacts import write_arrays
from mmzoo.benchmark.execution.building import Kit, answers_of
from mmzoo.benchmark.planning.planned import Planned
from mmzoo.benchmark.results.comparable import LATE
from mmzoo.benchmark.results.store import Store
from mmzoo.core.values import Batch
from mmzoo.data.loading.datamodule import DataModule, Loader
from mmzoo.data.loading.floor_samples import floor_samples
from mmzoo.errors import Diverged
from mmzoo.evaluation.floors import linear_floor, words_for
from mmzoo.evaluation.metrics import classification
from mmzoo.evaluation.predictions import EVAL_BATCH, Fitted, Predictions, predict
from mmzoo.evaluation.scores import branch_scores, modality_scores
from mmzoo.registry import Catalogue
from mmzoo.training.loop import Selection
from mmzoo.training.run import Run

#: a training loss is flat where it falls by no more than this share of itself, or by no more than this
FLAT, FLAT_LOSS = 0.05, 0.005


def score(
    run: Run, kit: Kit, selection: Selection, *, batch_size: int
) -> tuple[dict[str, Any], Predictions, DataModule]:
    """Score the last and the selected epoch on the test set, once each, and the validation set where there is one.

    Returns:
        The scores, the test predictions of the selected epoch, and the data set with the labels of the test samples, which are
        loaded after all of these predictions. The run keeps the weights of the selected epoch.
    """
    data = kit.data
    test = kit.loader("test", batch_size=batch_size)
    last = predictions(run, test)
    by_choice = kit.spec.selection != "last"
    if by_choice:
        selection.restore(run)
    # Not the slice: some methods train on it and some do not.
    known = kit.loader("train", batch_size=batch_size)
    fitted = Fitted.on(predictions(run, known), data.n_classes)
    held = predictions(run, kit.loader("holdout", batch_size=batch_size)) if kit.held_out else None
    chosen = predictions(run, test) if by_choice else last
    before = _as_trained(run, selection, test)
    answers = answers_of(kit.catalogue, kit.spec)
    last, chosen = last.answered(answers.target), chosen.answered(answers.target)
    finish = {} if before is None else _finish(selection, before.answered(answers.target))
    metrics = {
        **modality_scores(run.model, run.strategy, chosen, fitted, partial(on_device, test, run.device), data.metric),
        "last": classification(last.scores, last.target, last.logits),
        **({} if held is None else {"holdout": branch_scores(run.model, held, fitted, data.metric)}),
        **finish,
        "selected_epoch": selection.epoch,
        "epochs": run.epoch,
        "main_metric": data.metric,
        "own_logits": run.model.head.how,
        "n_scored": len(chosen.target),
        "n_total": len(data.splits["test"]),
        "n_test_classes": len(chosen.target.unique()),
        "n_seen": len(chosen.seen(chosen.target)),
    }
    return metrics, chosen, answers


def _as_trained(run: Run, selection: Selection, test: Loader) -> Predictions | None:
    """Of a method that acts after training: the predictions of the epoch that training alone would have chosen, without it.
    The run is left as it is."""
    if selection.as_trained is None:
        return None
    selection.as_trained.restore(run)
    before = predictions(run, test)
    selection.restore(run)
    return before


def _finish(selection: Selection, before: Predictions) -> dict[str, Any]:
    """What validation chose among, and the test scores of the method before it acted."""
    assert selection.as_trained is not None
    scores = {**classification(before.scores, before.target, before.logits), "epoch": selection.as_trained.epoch}
    return {"finish": {"chosen": selection.candidate, "validation": selection.candidates, "as_trained": scores}}


def predictions(run: Run, loader: Loader) -> Predictions:
    return predict(run.model, run.strategy, on_device(loader, run.device))


def on_device(loader: Loader, device: torch.device) -> Iterator[Batch]:
    return (batch.to(device) for batch in loader.batches())


def peers_scores(watched: Sequence[Mapping[str, Any]], metric: str, honest: Mapping[str, Any]) -> dict[str, Any]:
    """The epoch with the best test score and its scores, ties to the earliest; flatters: how far its `metric` lies
    above that of the epoch chosen on holdout. watched: the test scores of every epoch."""
    best = max(watched, key=lambda scores: scores[metric])
    scores = {k: v for k, v in best.items() if k != "epoch"}
    return {
        "protocol": "epoch chosen on test",
        "selected_epoch": best["epoch"],
        **scores,
        "flatters": best[metric] - honest[metric],
    }


def ends(history: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The first and the last epoch's value of everything that was logged in training; nothing without any."""
    if not history:
        return {}
    first, last = history[0]["train"], history[-1]["train"]
    return {k: {"first": first[k], "last": last[k]} for k in first if k in last}


def still_improving(history: Sequence[Mapping[str, Any]], chosen: int | None, n_epochs: int) -> list[str]:
    """Why more epochs may have helped a run, in words; nothing where neither the choice of the epoch nor the training loss
    says so. A loss is flat where its mean over the last tenth of the epochs is within FLAT of the tenth before.

    Args:
        history: the records of the epochs.
        chosen: the chosen epoch; None where it is not chosen among all.
        n_epochs: number of epochs.
    """
    tail = math.ceil(n_epochs / 10)
    found = []
    if chosen is not None and chosen >= n_epochs - tail:
        found.append(f"{LATE} ({chosen + 1} of {n_epochs})")
    losses = [sum(v for k, v in record["train"].items() if k.startswith("loss/")) for record in history]
    if len(losses) >= 2 * tail:
        before, last = (math.fsum(part) / tail for part in (losses[-2 * tail : -tail], losses[-tail:]))
        if before - last > FLAT * abs(before) and before - last > FLAT_LOSS:
            found.append(f"the training loss has not flattened ({before:.3g} to {last:.3g} over the last fifth)")
    return found


def check_finite(metrics: Mapping[str, Any], where: str) -> None:
    """Raise Diverged, naming the first score that is not finite."""
    for key, value in metrics.items():
        if isinstance(value, dict):
            check_finite(value, f"{where} {key}")
        elif isinstance(value, float) and not math.isfinite(value):
            raise Diverged(f"{where} {key} is {value}")


def floor_row(planned: Planned, catalogue: Catalogue, store: Store) -> dict[str, Any]:
    """What the row of a floor says, its predictions written. Training samples are those of plain training, the meta set among
    them."""
    spec = planned.spec
    whole = answers_of(catalogue, spec)  # no code of a method runs here
    data = whole if spec.modalities is None else whole.only(spec.modalities)
    train, validation, test = (
        data.loader(*splits, batch_size=EVAL_BATCH) for splits in (("train", "slice"), ("holdout",), ("test",))
    )
    samples = [floor_samples(data, loader) for loader in (train, validation, test)]
    found = linear_floor(*samples, n_classes=data.n_classes, metric=data.metric)
    arrays = {"index": test.index.numpy(), "target": samples[2].target, "scores": found.scores.float().numpy()}
    written = write_arrays(store, spec.run_id, arrays, data)
    return {
        "metrics": {
            **found.test,
            "holdout": dict(found.validation),
            "main_metric": data.metric,
            "n_scored": test.n_items,
            "n_total": len(data.splits["test"]),
            "n_seen": test.n_seen,
        },
        "cost": {"train_items": train.n_seen},
        "hashes": {"split": whole.split_hash, "recipe": whole.recipe_hash, "predictions": written},
        "floor": {
            "strength": found.strength,
            "width": found.width,
            "features": {m: words_for(data.spec(m).kind) for m in data.modalities},
        },
    }

"""The scores of a trained run, as its row has them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from mmzoo.benchmark.execution.building import Kit
from mmzoo.core.values import Batch
from mmzoo.data.loading.datamodule import Loader
from mmzoo.errors import Diverged
from mmzoo.evaluation.metrics import classification
from mmzoo.evaluation.scores import Fitted, Predictions, branch_scores, modality_scores, predict
from mmzoo.training.loop import Selection
from mmzoo.training.run import Run


def score(run: Run, kit: Kit, selection: Selection, *, batch_size: int) -> tuple[dict[str, Any], Predictions]:
    """Test scores of the last and of the chosen epoch, each computed once, on every item; and those of holdout,
    on which anything may be chosen. With the predictions of the chosen epoch, in which the run is left."""
    data = kit.data
    test = kit.loader("test", batch_size=batch_size)
    last = predictions(run, test)
    selection.restore(run)
    # Not the slice: some methods train on it and some do not.
    known = kit.loader("train", batch_size=batch_size)
    fitted = Fitted.on(predictions(run, known), data.n_classes)
    held = predictions(run, kit.loader("holdout", batch_size=batch_size))
    chosen = predictions(run, test)
    return {
        **modality_scores(run.model, run.strategy, chosen, fitted, partial(on_device, test, run.device), data.metric),
        "last": classification(last.scores, last.target, last.logits),
        "holdout": branch_scores(run.model, held, fitted, data.metric),
        "selected_epoch": selection.epoch,
        "epochs": run.epoch,
        "main_metric": data.metric,
        "own_logits": run.model.head.how,
        "n_scored": len(chosen.target),
        "n_total": len(data.splits["test"]),
        "n_test_classes": len(chosen.target.unique()),
        "n_seen": len(chosen.seen(chosen.target)),
    }, chosen


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


def check_finite(metrics: Mapping[str, Any], where: str) -> None:
    """Raise Diverged, naming the first score that is not finite."""
    for key, value in metrics.items():
        if isinstance(value, dict):
            check_finite(value, f"{where} {key}")
        elif isinstance(value, float) and not math.isfinite(value):
            raise Diverged(f"{where} {key} is {value}")

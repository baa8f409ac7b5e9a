"""Scores of trained models whose test samples lack a modality, or have it corrupted: `mmzoo bench --stress`.

Nothing is trained: the model of the chosen epoch is loaded from the kept weights. Its answers on the samples as they are must
be those that the run was scored with, so that a model that was put together differently is noticed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch

from mmzoo.benchmark.execution.building import set_threads
from mmzoo.benchmark.execution.device import check_device
from mmzoo.benchmark.execution.scoring import on_device
from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.results.stress import Record, Row, read_stress, write_stress
from mmzoo.benchmark.trained import Trained, load_run
from mmzoo.core.precision import tf32
from mmzoo.core.values import Batch
from mmzoo.data.loading.datamodule import DataModule, Loader
from mmzoo.errors import CorruptFile, MmzooError
from mmzoo.evaluation.corruptions import CORRUPTIONS, SHARES, Corruption, Scale, corrupted, ranks_of, without
from mmzoo.evaluation.metrics import classification
from mmzoo.evaluation.predictions import EVAL_BATCH, predict
from mmzoo.training.weights import on_device as state_on_device

#: by how much the accuracy on the samples as they are may differ from the row's: another device rounds differently
TOLERANCE = 0.005
Change = Callable[[Batch], Batch]


def stress_runs(
    rows: Sequence[Row],
    store: Store,
    kinds: Sequence[str],
    *,
    device: str = "auto",
    on_run: Callable[[Row, int, int], None] = lambda row, done, of: None,
) -> dict[str, str]:
    """Score the trained runs among some rows under stress, each kind once, and keep the scores beside the rows.

    Args:
        rows: Rows of the store. Those without a trained network are passed over, and those that are scored already.
        store: The results folder, with the weights of the runs.
        kinds: Names of STRESSES.
        device: Where the models run.
        on_run: Called with each row before it is scored, how many are done, and of how many.

    Returns:
        run id -> why it could not be scored.
    """
    device = check_device(device)
    missing = {row["run_id"]: (row, wanted) for row in rows if (wanted := _wanted(row, store, kinds))}
    failed: dict[str, str] = {}
    for done, (run_id, (row, wanted)) in enumerate(missing.items()):
        on_run(row, done, len(missing))
        try:
            found = _curves(load_run(store.folder(run_id), trust=True), wanted, device)
            kept = [r for r in _kept(row, store) if r["stress"] not in wanted]
            write_stress(row, store, [*kept, *found])
        except MmzooError as error:
            failed[run_id] = str(error)
    return failed


def _wanted(row: Row, store: Store, kinds: Sequence[str]) -> list[str]:
    """The kinds that a run is to be scored under and was not yet."""
    if row["status"] != "ok" or row["spec"].get("floor"):
        return []
    there = {r["stress"] for r in _kept(row, store)}
    return [kind for kind in kinds if kind not in there]


def _kept(row: Row, store: Store) -> list[Record]:
    """The curves that are there; a file that cannot be used is made anew."""
    try:
        return read_stress(row, store)
    except CorruptFile:
        return []


def _curves(trained: Trained, kinds: Sequence[str], device: str) -> list[Record]:
    """The scores of a model under some kinds of stress, one record a point. Raises CorruptFile unless it is the row's model."""
    model, row, data = trained.model.to(device), trained.row, trained.data()
    set_threads(model, device)
    trained.strategy.load_state_dict(state_on_device(trained.strategy.state_dict(), torch.device(device)))
    size = min(EVAL_BATCH, row.get("micro_batch") or EVAL_BATCH)
    test = data.loader("test", batch_size=size, device=device)
    with tf32(row["spec"]["training"].get("tf32", False)):
        scored = partial(_scores, trained, test, device)
        intact = scored(lambda batch: batch)
        if intact["acc"] is None or abs(intact["acc"] - row["metrics"]["acc"]) > TOLERANCE:
            raise CorruptFile(
                f"run {row['run_id']}: the loaded model has a test accuracy of {intact['acc']}, and the run {row['metrics']['acc']}: "
                "it is not the model that was scored. Move the folder of the run away and run the same bench again."
            )
        found: list[Record] = []
        for kind in kinds:
            for m in data.modalities:
                points = _missing(m, test) if kind == "missing" else _noise(m, data, size, device)
                for corruption, strength, level, change in points:
                    place = {
                        "stress": kind,
                        "modality": m,
                        "corruption": corruption,
                        "strength": strength,
                        "level": level,
                    }
                    found.append({**place, **(intact if strength == 0 else scored(change))})
    return found


def _scores(trained: Trained, test: Loader, device: str, change: Change) -> Record:
    """acc, macro_f1 and map on changed test samples; None for each where the answers are not finite."""
    batches = (change(batch) for batch in on_device(test, torch.device(device)))
    p = predict(trained.model, trained.strategy, batches)
    scores = classification(p.scores, p.target, p.logits)
    finite = bool(p.scores.isfinite().all())
    return {k: scores[k] if finite and math.isfinite(scores[k]) else None for k in ("acc", "macro_f1", "map")}


Point = tuple[str, int, float, Change]


def _missing(modality: str, test: Loader) -> Iterator[Point]:
    """The points of a modality that is missing: the same samples lack it for every method."""
    ranks, n = ranks_of(test.index, modality), test.n_items
    for strength, share in enumerate(SHARES):
        yield "missing", strength, share, partial(_lacking, modality=modality, ranks=ranks, n=round(share * n))


def _lacking(batch: Batch, *, modality: str, ranks: torch.Tensor, n: int) -> Batch:
    return without(batch, modality, (ranks[batch.index.cpu()] < n).to(batch.index.device))


def _noise(modality: str, data: DataModule, size: int, device: str) -> Iterator[Point]:
    """The points of each corruption that a modality's kind of input has."""
    spec = data.spec(modality)
    scale = None
    if spec.kind != "text":
        scale = Scale.of(data.loader("train", "slice", batch_size=size, device=device).batches(), modality, spec)
    for corruption in CORRUPTIONS[spec.kind]:
        for strength, level in enumerate((0.0, *corruption.levels)):
            yield corruption.name, strength, level, partial(_spoilt, modality, corruption, level, scale)


def _spoilt(modality: str, corruption: Corruption, level: float, scale: Scale | None, batch: Batch) -> Batch:
    return corrupted(batch, modality, corruption, level, scale)

"""The run of a linear floor: the samples that the trained runs see, as features, and its row."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mmzoo.benchmark.execution.artifacts import predictions_bytes
from mmzoo.benchmark.execution.building import data_of
from mmzoo.benchmark.planning.plan import Planned
from mmzoo.benchmark.results.store import Store
from mmzoo.core.values import Batch
from mmzoo.data.loading.datamodule import DataModule, Loader
from mmzoo.evaluation.floors import Block, Samples, features, linear_floor, words_for
from mmzoo.evaluation.scores import EVAL_BATCH
from mmzoo.registry import Catalogue

Row = dict[str, Any]


def floor_row(planned: Planned, catalogue: Catalogue, store: Store) -> Row:
    """What the row of a floor says, its predictions written. Training samples are those of plain training, the meta set among
    them."""
    spec = planned.spec
    whole = data_of(catalogue, spec)
    data = whole if spec.modalities is None else whole.only(spec.modalities)
    train, validation, test = (
        data.loader(*splits, batch_size=EVAL_BATCH) for splits in (("train", "slice"), ("holdout",), ("test",))
    )
    samples = [_samples(data, loader) for loader in (train, validation, test)]
    found = linear_floor(*samples, n_classes=data.n_classes, metric=data.metric)
    arrays = {"index": test.index.numpy(), "target": samples[2].target, "scores": found.scores.float().numpy()}
    store.write_file(spec.run_id, "predictions.npz", predictions_bytes(arrays))
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
        "hashes": {"split": whole.split_hash, "recipe": whole.recipe_hash},
        "floor": {
            "strength": found.strength,
            "width": found.width,
            "features": {m: words_for(data.spec(m).kind) for m in data.modalities},
        },
    }


def _samples(data: DataModule, loader: Loader) -> Samples:
    """All samples of a loader, in its order, as features and texts."""
    batches: list[dict[str, Any]] = []
    target, present = [], []
    for batch in loader.batches():
        batches.append({m: _read(data, m, batch) for m in data.modalities})
        target.append(batch.target)
        present.append(torch.ones(len(batch), len(data.modalities)) if batch.present is None else batch.present)
    seen = torch.cat(present).bool().cpu().numpy()
    blocks = {}
    for i, m in enumerate(data.modalities):
        pieces = [b[m] for b in batches]
        values = np.concatenate(pieces) if isinstance(pieces[0], np.ndarray) else [t for texts in pieces for t in texts]
        blocks[m] = Block(values, seen[:, i])
    return Samples(blocks, torch.cat(target).cpu().numpy())


def _read(data: DataModule, modality: str, batch: Batch) -> np.ndarray | list[str]:
    """One modality of a batch: its features, or its texts. Tokens of a tokenizer that is not here are words by number."""
    x = batch.inputs[modality]
    kind = data.spec(modality).kind
    if kind != "text":
        return features(kind, x)
    if modality in data.readers:
        return data.readers[modality](x)
    return [" ".join(str(i) for i, there in zip(*row) if there) for row in zip(x["ids"].tolist(), x["mask"].tolist())]

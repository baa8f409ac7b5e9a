"""The samples of a loader as features and texts, for linear floors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mmzoo.core.values import Batch
from mmzoo.data.loading.datamodule import DataModule, Loader
from mmzoo.evaluation.floors import Block, Samples, features


def floor_samples(data: DataModule, loader: Loader) -> Samples:
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

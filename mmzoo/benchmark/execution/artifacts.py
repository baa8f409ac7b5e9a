"""What a run leaves behind besides its row: weights, what its strategy remembers, predictions; and hashes of them."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmzoo.benchmark.results.predictions import NAME as PREDICTIONS
from mmzoo.benchmark.results.predictions import digest_of
from mmzoo.benchmark.results.store import STRATEGY_STATE, WEIGHTS, Store
from mmzoo.core.model import MultimodalModel
from mmzoo.core.seeding import stream
from mmzoo.data.loading.datamodule import Loader
from mmzoo.errors import CorruptFile
from mmzoo.evaluation.predictions import Predictions
from mmzoo.training.run import Run


def write_weights(store: Store, run_id: str, run: Run) -> dict[str, str]:
    """Write the weights, in the order that their hash is taken in; and what the strategy remembers, which may decide how it
    predicts. Returns a hash of the latter, as `strategy`, where there is any."""
    from safetensors.torch import save

    tensors = {n: t.detach().cpu().clone().contiguous() for n, t in run.model.state_dict().items()}
    hashes = {}
    if state := run.strategy.state_dict():
        buffer = io.BytesIO()
        torch.save(state, buffer)
        store.write_file(run_id, STRATEGY_STATE, buffer.getvalue())
        hashes["strategy"] = digest_of(buffer.getvalue())
    store.write_file(run_id, WEIGHTS, save(tensors, {"order": json.dumps(list(tensors))}))
    return hashes


def read_weights(path: Path, model: MultimodalModel, row: Mapping[str, Any]) -> None:
    """Fill a model. Raises CorruptFile unless these are all of its weights, with the hash that the row names; OSError
    where there is no file."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = path.read_bytes()
    try:
        model.load_state_dict(load(data))
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise CorruptFile(f"{type(error).__name__}: {error}") from error
    if model_hash(model) != row["hashes"].get("weights"):
        raise CorruptFile("they are not those that the run was scored with")


def write_predictions(store: Store, run_id: str, p: Predictions) -> str:
    """Write the scores of every test item, and each modality's own. Returns a hash of the file."""
    arrays = {"index": p.index, "target": p.target, "scores": p.scores.float()}
    arrays |= {f"unimodal.{m}": z.float() for m, z in p.unimodal.items()}
    return write_arrays(store, run_id, {k: v.cpu().numpy() for k, v in arrays.items()})


def write_arrays(store: Store, run_id: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Write predictions.npz: index, target and scores, and whatever else there is, one row a test sample. Returns its hash."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    store.write_file(run_id, PREDICTIONS, buffer.getvalue())
    return digest_of(buffer.getvalue())


# ---------------------------------------------------------------------------------------------- hashes
def model_hash(model: MultimodalModel) -> str:
    return weights_hash(model.state_dict())


def weights_hash(tensors: Mapping[str, Tensor]) -> str:
    """A short hash of tensors in their order, names included."""
    total = hashlib.sha256()
    for name, tensor in tensors.items():
        total.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]


def order_hash(train: Loader, seed: int) -> str:
    """The items of the first epoch in the order in which they are shown."""
    order = train.order(stream(seed, "order", 0))
    return hashlib.sha256(order.numpy().tobytes()).hexdigest()[:16]

"""What a run leaves behind besides its row: weights, what its strategy remembers, predictions; and hashes of them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
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
from mmzoo.data.fields.rebuilt import rebuilt
from mmzoo.data.fields.text import OWN, Tokens
from mmzoo.data.loading.datamodule import DataModule, Loader
from mmzoo.data.loading.inputs import InputForm
from mmzoo.errors import CorruptFile, MmzooError
from mmzoo.evaluation.predictions import Predictions
from mmzoo.io.files import read_bytes
from mmzoo.io.json_file import checksum, write_sealed
from mmzoo.training.run import Run

#: what the model takes for input, and the folder of the tokenizers that it needs, beside its weights
INPUTS, TOKENIZERS = "inputs.json", "tokenizers"


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


def write_inputs(store: Store, run_id: str, data: DataModule) -> dict[str, str]:
    """Write what the model takes for input, with the tokenizers that it needs, so that it can be used where its data is not.
    Returns a hash of it, as `inputs`."""
    form = data.form.as_dict()
    for m, tokenizer in _tokenizers(data.form).items():
        store.write_file(run_id, f"{TOKENIZERS}/{m}/tokenizer.json", tokenizer.encode())
    with store.guard():
        write_sealed(store.folder(run_id) / INPUTS, form)
    return {"inputs": inputs_hash(form)}


def inputs_hash(form: Mapping[str, Any]) -> str:
    """A short hash of the form of a model's inputs."""
    return checksum(form)[:16]


def _tokenizers(form: InputForm) -> dict[str, str]:
    """modality -> the JSON of its tokenizer, where it is one of a folder or of the hub and can be read here."""
    found: dict[str, str] = {}
    preparation = form.preparation
    for m in form.modalities if preparation is not None else ():
        values = preparation.fields.get(m, {}) if preparation is not None else {}
        if values.get("field") != Tokens.__name__ or values.get("tokenizer") == OWN:
            continue
        folder = preparation.tokenizers.get(m) if preparation is not None else None
        with contextlib.suppress(MmzooError):  # without it the model still takes tokens
            field = rebuilt(values, None if folder is None else Path(folder))
            if field.as_dict()["tokenizer"] == values["tokenizer"] and isinstance(field, Tokens):
                found[m] = field.content()
    return found


def read_weights(path: Path, model: MultimodalModel, row: Mapping[str, Any]) -> None:
    """Fill a model. Raises CorruptFile unless these are all of its weights, with the hash that the row names; OSError
    where there is no file."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = read_bytes(path, sys.maxsize)
    try:
        model.load_state_dict(load(data))
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise CorruptFile(f"{type(error).__name__}: {error}") from error
    if model_hash(model) != row["hashes"].get("weights"):
        raise CorruptFile("they are not those that the run was scored with")


def write_predictions(store: Store, run_id: str, p: Predictions, data: DataModule) -> str:
    """Write the scores of every test item, and each modality's own. Returns a hash of the file."""
    arrays = {"index": p.index, "target": p.target, "scores": p.scores.float()}
    arrays |= {f"unimodal.{m}": z.float() for m, z in p.unimodal.items()}
    return write_arrays(store, run_id, {k: v.cpu().numpy() for k, v in arrays.items()}, data)


def write_arrays(store: Store, run_id: str, arrays: Mapping[str, np.ndarray], data: DataModule) -> str:
    """Write predictions.npz: index, target and scores, and whatever else there is, one row a test sample; and the names of
    these samples and of the classes, where they have some. Returns its hash."""
    names = {
        "ids": [data.ids[i] for i in arrays["index"].tolist()] if data.ids else [],
        "classes": list(data.classes),
    }
    arrays = {**arrays, "names": np.frombuffer(json.dumps(names).encode(), np.uint8)}
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

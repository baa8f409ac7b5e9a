"""The trained model of a run: `mmzoo.load_run`."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmzoo.benchmark.execution.artifacts import weights_hash
from mmzoo.benchmark.execution.building import build_model, build_strategy, load_data
from mmzoo.benchmark.execution.teachers import Row
from mmzoo.benchmark.results.predictions import digest_of
from mmzoo.benchmark.results.store import STRATEGY_STATE, WEIGHTS, Store
from mmzoo.config.identity import check_identity, refuse_code
from mmzoo.config.spec import RunSpec
from mmzoo.core.model import MultimodalModel
from mmzoo.core.modes import evaluating
from mmzoo.core.values import Outputs
from mmzoo.data.loading.datamodule import DataModule
from mmzoo.errors import BadValue, CorruptFile, MmzooError
from mmzoo.io.files import read_bytes
from mmzoo.registry.plugins import catalogue
from mmzoo.training.strategy import Strategy


@dataclass(frozen=True)
class Trained:
    """A run's model at the epoch chosen on holdout, in eval mode, with the strategy that decides how it predicts."""

    model: MultimodalModel
    strategy: Strategy
    row: Row

    def predict(self, inputs: Mapping[str, Any], present: Tensor | None = None) -> Outputs:
        """Outputs for inputs, modality -> (B, ...); `scores` are ranked, by the strategy's decision rule. No graph."""
        with evaluating(self.model):
            return self.strategy.predict(self.model(inputs, present))

    def data(self) -> DataModule:
        """The data set that it was trained on, with its splits."""
        return _run_data(self.row)


def load_run(folder: str | Path, *, trust: bool = False) -> Trained:
    """Load the trained model of a run, from `DIR/runs/<run_id>`.

    Args:
        folder: the folder of the run.
        trust: execute the Python files that the row names (a class of `./mine.py:Mine`). Without it such a run is refused
            before any file is executed: a results folder may come from somebody else. With it the files must have the
            hash that the run was trained with.

    Raises:
        BadValue: the run is not there, has no scores, kept no weights, or names code without `trust`.
        CorruptFile: the weights are not those that were scored.
        MmzooError: code or encoder files were edited since.
    """
    folder = Path(folder)
    row = Store(folder.parent.parent).row(folder.name) if folder.parent.name == "runs" else None
    if row is None:
        raise BadValue(
            f"{folder} is not the folder of a run: name DIR/runs/RUN_ID, where DIR was given to bench as --out."
        )
    if row["status"] != "ok":
        raise BadValue(f"run {folder.name} has no trained model: it is {row['status']}: {row['reason']}.")
    if row["spec"].get("floor"):
        raise BadValue(f"run {folder.name} is a linear floor: it has no network to load.")
    if not (folder / WEIGHTS).is_file():
        raise BadValue(
            f"run {folder.name} kept no weights. The same bench with --keep-weights trains it once more and keeps them."
        )
    refuse_code(row, trust=trust)
    try:
        spec = RunSpec.from_dict(row["spec"])
        check_identity(catalogue(), spec)
        data = _run_data(row)
        model = build_model(catalogue(), spec, data)
        strategy = build_strategy(catalogue(), spec.parts)
        tensors = _tensors(folder / WEIGHTS)
        if weights_hash(tensors) != row["hashes"].get("weights"):
            raise CorruptFile("they are not those that the run was scored with")
        # Modules that a strategy added serve its training; no answer of the model passes through them.
        model.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("extra.")})
        if (folder / STRATEGY_STATE).is_file():
            strategy.load_state_dict(_strategy_state(folder / STRATEGY_STATE, row))
    except MmzooError as error:
        raise type(error)(f"run {folder.name}: {error}") from error
    except Exception as error:  # whatever a file from outside makes torch or safetensors raise
        raise CorruptFile(
            f"run {folder.name}: its weights cannot be used ({type(error).__name__}: {error})."
        ) from error
    return Trained(model.eval(), strategy, row)


def _run_data(row: Row) -> DataModule:
    spec = row["spec"]
    data = load_data(catalogue(), spec["dataset"], json.dumps(spec["data_params"], sort_keys=True))
    return data if spec["modalities"] is None else data.only(spec["modalities"])


def _strategy_state(path: Path, row: Row) -> Any:
    data = read_bytes(path)
    if row["hashes"].get("strategy", digest_of(data)) != digest_of(data):
        raise CorruptFile(f"{path.name} is not the one that the run was scored with")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of weights in the order in which they were hashed."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        order = json.loads((file.metadata() or {}).get("order", "null")) or list(file.keys())
        return {name: file.get_tensor(name) for name in order}

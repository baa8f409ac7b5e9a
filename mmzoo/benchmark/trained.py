"""The trained model of a run: `mmzoo.load_run`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mmzoo.benchmark.applied import Predictions, predict_rows
from mmzoo.benchmark.execution.artifacts import INPUTS, inputs_hash, weights_hash
from mmzoo.benchmark.execution.building import build_model, build_strategy, load_data
from mmzoo.benchmark.execution.teachers import Row
from mmzoo.benchmark.results.predictions import NAME as PREDICTIONS
from mmzoo.benchmark.results.predictions import digest_of, read_predictions
from mmzoo.benchmark.results.store import STRATEGY_STATE, WEIGHTS, Store
from mmzoo.config.identity import check_identity, refuse_code
from mmzoo.config.spec import RunSpec
from mmzoo.core.model import MultimodalModel
from mmzoo.core.modes import evaluating
from mmzoo.core.values import Outputs, map_tensors
from mmzoo.data.loading.complete import completed
from mmzoo.data.loading.datamodule import DataModule
from mmzoo.data.loading.inputs import InputForm
from mmzoo.errors import BadValue, CorruptFile, MmzooError
from mmzoo.io.files import LARGEST, read_bytes
from mmzoo.io.json_file import checksum_fault, read_json
from mmzoo.registry.plugins import catalogue
from mmzoo.training.strategy import Strategy


@dataclass(frozen=True)
class Trained:
    """The model of a run at the selected epoch, in eval mode, with the strategy whose decision rule it uses.

    Args:
        model: the model.
        strategy: the strategy.
        row: the row of the run.
        form: the inputs that the model takes, and the names of its classes.
        folder: the folder of the run.
    """

    model: MultimodalModel
    strategy: Strategy
    row: Row
    form: InputForm
    folder: Path

    def __repr__(self) -> str:
        metrics = self.row["metrics"]
        score = f"{metrics['main_metric']} {100 * metrics[metrics['main_metric']]:.1f} %"
        return f"Trained({self.row['label']} on {self.row['dataset']}, seed {self.row['seed']}, {score}, {str(self.folder)!r})"

    def predict(self, inputs: Mapping[str, Any], present: Tensor | Literal["all"] | None = None) -> Outputs:
        """Predict samples that are prepared as those of the training were, without a graph.

        Inputs are passed to the model as they are: numbers that are standardised already, images that are scaled, texts as
        tokens. For raw numbers, texts and files, as in a table, use `predict_rows`.

        Args:
            inputs: modality -> (B, ...) tensor or array, or for texts a mapping of `ids` and `mask`. None: no sample
                has the modality. A sample of floating-point inputs that is all NaN lacks the modality. The batches of
                `data()` have such inputs.
            present: (B, M) bool, which modalities each sample has, in the order of `form.modalities`; "all": every
                sample has all of them. None: as given by None and NaN in the inputs.

        Returns:
            The outputs; `scores` are the probabilities of the strategy's decision rule.

        Raises:
            BadValue: a modality is missing although no sample is marked as lacking it; or the training data had missing
                modalities, and neither `present` nor the inputs state which are there.
        """
        full, mask = completed(self.form, inputs, present)
        device = next(self.model.parameters()).device
        full = {m: map_tensors(x, lambda t: t.to(device)) for m, x in full.items()}
        with evaluating(self.model):
            return self.strategy.predict(self.model(full, None if mask is None else mask.to(device)))

    def predict_rows(
        self,
        rows: str | Path | Iterable[Mapping[str, Any]],
        *,
        root: str | Path | None = None,
        drop: bool = False,
        jobs: int | None = 0,
    ) -> Predictions:
        """Predict raw rows of a table, preprocessed as in training: what `mmzoo predict` prints.

        Args:
            rows: the path of a CSV table, or a list of mappings of each column to its cell: a text, a path, a number, a list
                of numbers, or None where there is nothing. Columns are named as in the table of the training data.
            root: the folder that paths in cells are relative to. None: that of the table; of mappings, the current one.
            drop: leave out rows that cannot be read.
            jobs: worker processes that decode; 0: none. None: one per core.

        Returns:
            The ids, the class names, and (B, C) probabilities, in the order of the rows.

        Raises:
            BadValue: the model was trained on data made by code, a column is missing, or rows cannot be read and `drop` is
                not given.
        """
        given = Path(rows) if isinstance(rows, str) else rows
        return predict_rows(self, given, root=None if root is None else Path(root), drop=drop, jobs=jobs)

    def data(self) -> DataModule:
        """The data set that it was trained on, with its splits. Raises Unprepared if its store is gone."""
        return _run_data(self.row)


def load_run(folder: str | Path, *, trust: bool = False) -> Trained:
    """Load the trained model of a run, from `DIR/runs/<run_id>`.

    Args:
        folder: the folder of the run.
        trust: execute the Python files that the row names (a class of `./mine.py:Mine`). Without it such a run is
            refused before any file is executed: a results folder may come from another person. The files must have the
            hash that the run was trained with.

    Raises:
        BadValue: the run does not exist, has no scores, kept no weights, or names code without `trust`.
        CorruptFile: the weights are not those that were scored, or the row contradicts the predictions beside it.
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
        raise BadValue(f"run {folder.name} is a linear baseline: it has no network to load.")
    if not (folder / WEIGHTS).is_file():
        raise BadValue(
            f"run {folder.name} kept no weights. The same bench with --keep-weights trains it once more and keeps them."
        )
    refuse_code(row, trust=trust)
    kept = folder / PREDICTIONS
    if kept.is_file() and kept.stat().st_size <= LARGEST:
        read_predictions(row, Store(folder.parent.parent))
    try:
        spec = RunSpec.from_dict(row["spec"])
        check_identity(catalogue(), spec)
        form = _form(folder, row)
        model = build_model(catalogue(), spec, form)
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
    return Trained(model.eval(), strategy, row, form, folder)


def _form(folder: Path, row: Row) -> InputForm:
    """What the model takes: as kept beside the weights; of a run of an earlier version, as its data set says."""
    path = folder / INPUTS
    if not path.exists() and "inputs" not in row["hashes"]:
        return _run_data(row).form
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise CorruptFile(f"{INPUTS} cannot be used: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(found, dict) or checksum_fault(found) or row["hashes"].get("inputs") != inputs_hash(found):
        raise CorruptFile(f"{INPUTS} is not the one that was written beside the weights")
    return InputForm.from_dict(found)


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

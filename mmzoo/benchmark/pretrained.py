"""A trained model as a self-contained folder: `mmzoo.save_pretrained`, `mmzoo.from_pretrained`.

The folder needs neither the results that it came from nor the prepared data. It holds `config.json`,
`model.safetensors`, the tokenizers, and a model card; no file in it is unpickled or executed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mmzoo import __version__
from mmzoo.benchmark.execution.artifacts import TOKENIZERS, weights_hash
from mmzoo.benchmark.execution.building import build_model, build_strategy
from mmzoo.benchmark.reporting.card import model_card
from mmzoo.benchmark.trained import Trained
from mmzoo.config.identity import refuse_code
from mmzoo.config.spec import RunSpec
from mmzoo.data.loading.inputs import InputForm
from mmzoo.errors import BadValue, CorruptFile, MmzooError
from mmzoo.io.files import read_bytes, sync_folder, write_bytes
from mmzoo.io.json_file import checksum_fault, read_json, write_sealed
from mmzoo.io.schema import NUMBER, OBJECT, TEXT, Form, misfit
from mmzoo.registry.plugins import catalogue

CONFIG, MODEL, CARD = "config.json", "model.safetensors", "README.md"
_CONFIG: Form = {
    "schema": NUMBER,
    "mmzoo": TEXT,
    "run": OBJECT,
    "inputs": OBJECT,
    "strategy": OBJECT,
    "weights": TEXT,
}
_STATE = "strategy."  # how the names of tensors begin that the strategy remembers
_TENSOR, _TUPLE = "$tensor", "$tuple"


def save_pretrained(trained: Trained, folder: str | Path, *, license: str = "") -> Path:
    """Write a trained model to a self-contained folder, with a model card.

    Args:
        trained: the return value of `load_run`.
        folder: a folder that does not exist yet, or is empty.
        license: SPDX name of the licence of the weights, for the card; empty: the card asks to fill it in.

    Returns:
        The folder.

    Raises:
        BadValue: the folder is not empty, or the model uses classes from a file of the user.
    """
    from safetensors.torch import save

    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadValue(f"{folder} is there already: name a folder that is not.")
    refuse_code(trained.row, trust=False)
    tensors = {n: t for n, t in trained.model.state_dict().items() if not n.startswith("extra.")}
    remembered: dict[str, Tensor] = {}
    state = _plain(trained.strategy.state_dict(), remembered, _STATE)
    row = trained.row
    config = {
        "schema": 1,
        "mmzoo": __version__,
        "run": {k: row[k] for k in ("run_id", "dataset", "label", "seed", "spec", "metrics")},
        "inputs": trained.form.as_dict(),
        "strategy": {"state": state},
        "weights": weights_hash(dict(sorted({**tensors, **remembered}.items()))),
    }
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        kept = {n: t.detach().cpu().clone().contiguous() for n, t in {**tensors, **remembered}.items()}
        write_bytes(made / MODEL, save(kept))
        write_sealed(made / CONFIG, config)
        write_bytes(made / CARD, model_card(row, trained.form.as_dict(), license).encode())
        if (trained.folder / TOKENIZERS).is_dir():
            for m in trained.form.modalities:
                if (given := trained.folder / TOKENIZERS / m / "tokenizer.json").is_file():
                    write_bytes(made / TOKENIZERS / m / "tokenizer.json", read_bytes(given))
        made.chmod(0o755)
        made.replace(folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return folder


def is_pretrained(folder: str | Path) -> bool:
    """Whether a folder was written by `save_pretrained`."""
    return (Path(folder) / CONFIG).is_file() and (Path(folder) / MODEL).is_file()


def from_pretrained(folder: str | Path) -> Trained:
    """Load a model that `save_pretrained` wrote. No file is unpickled or executed.

    Args:
        folder: the folder.

    Raises:
        BadValue: there is no such folder, or the model uses classes from a file of the user.
        CorruptFile: a file has changed since it was written.
    """
    folder = Path(folder)
    if not is_pretrained(folder):
        raise BadValue(f"{folder} holds no {CONFIG} and {MODEL}: name a folder that save_pretrained wrote.")
    try:
        config = read_json(folder / CONFIG)
        fault = (
            "not a JSON object" if not isinstance(config, dict) else misfit(config, _CONFIG) or checksum_fault(config)
        )
        if fault:
            raise CorruptFile(f"{CONFIG}: {fault}")
        row = config["run"]
        refuse_code(row, trust=False)
        spec, form = RunSpec.from_dict(row["spec"]), InputForm.from_dict(config["inputs"])
        tensors = _tensors(folder / MODEL)
        if weights_hash(dict(sorted(tensors.items()))) != config["weights"]:
            raise CorruptFile(f"{MODEL} is not the one that was written")
        model, strategy = build_model(catalogue(), spec, form), build_strategy(catalogue(), spec.parts)
        model.load_state_dict({n: t for n, t in tensors.items() if not n.startswith(_STATE)})
        if state := _restored(config["strategy"]["state"], tensors):
            strategy.load_state_dict(state)
    except MmzooError as error:
        raise type(error)(f"{folder}: {error}") from error
    except Exception as error:  # whatever a file from outside makes torch or safetensors raise
        raise CorruptFile(f"{folder} cannot be used ({type(error).__name__}: {error}).") from error
    return Trained(model.eval(), strategy, row, form, folder)


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load

    return load(read_bytes(path))


def _plain(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """A state as JSON, its tensors put aside under names."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        return {str(k): _plain(v, tensors, f"{name}{k}.") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        found = [_plain(v, tensors, f"{name}{i}.") for i, v in enumerate(value)]
        return {_TUPLE: found} if isinstance(value, tuple) else found
    return value


def _restored(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {_TENSOR}:
            return tensors[value[_TENSOR]]
        if set(value) == {_TUPLE}:
            return tuple(_restored(v, tensors) for v in value[_TUPLE])
        return {k: _restored(v, tensors) for k, v in value.items()}
    return [_restored(v, tensors) for v in value] if isinstance(value, list) else value

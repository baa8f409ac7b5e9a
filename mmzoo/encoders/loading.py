"""Builds models of the transformers library from files or a configuration."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mmzoo.encoders.backbones import read_tensors
from mmzoo.errors import BadValue, MmzooError, unknown
from mmzoo.io.weights import TYPES, transformers_files


def load(
    kind: str,
    model: str,
    weights: str,
    config: Mapping[str, float] | None,
    *,
    at_least: Mapping[str, int] | None = None,
    exactly: Mapping[str, int] | None = None,
) -> Any:
    """A model of class `kind` of the transformers library.

    `model`, `weights` and `config` are those of `Transformer`; `at_least` and `exactly` are what the input requires of
    a configuration with random weights. Raises BadValue for `config` with given weights, and MmzooError for missing
    files.
    """
    import transformers

    if config and weights != "none":
        raise BadValue(
            f"config changes a model with random weights, and these are {weights}. Set weights to none, too."
        )
    files = transformers_files({"model": model, "weights": weights})
    cls = getattr(transformers, kind)
    try:
        with _quiet(transformers):
            found = _config(transformers, cls, files, model)
            both = getattr(found, "is_encoder_decoder", False)
            if kind == "AutoModel" and both and type(found) in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING:
                cls = transformers.AutoModelForTextEncoding  # of T5 and its like the encoder alone, without the decoder
            if weights == "none":
                for key, value in (at_least or {}).items():
                    setattr(found, key, max(value, getattr(found, key, 0)))
                _change(found, {**(exactly or {}), **(config or {})})
                return _encoder(_bare(cls, found) if kind == "AutoModel" else cls(found))
            given: dict[str, Any] = {"config": found, "dtype": torch.float32, "output_loading_info": True}
            given["trust_remote_code"] = False
            if weights != "pretrained" and not Path(weights).expanduser().is_dir():
                concrete = type(_bare(cls, found)) if kind == "AutoModel" else cls
                built, info = concrete.from_pretrained(None, state_dict=read_tensors(files[-1]), **given)
            else:
                built, info = cls.from_pretrained(files[-1].parent, local_files_only=True, **given)
    except MmzooError:
        raise
    except Exception as error:
        why = (str(error) or type(error).__name__).splitlines()[0]
        raise MmzooError(f"{kind} cannot be made of {model} with weights {weights}: {why}") from error
    missing = sorted(k for k in info["missing_keys"] if not k.startswith("pooler."))
    if missing or info["mismatched_keys"]:
        what = missing[0] if missing else info["mismatched_keys"]
        raise MmzooError(f"the weights {files[-1]} do not fill {kind} of {model}: {len(missing)} missing, e.g. {what}.")
    return _encoder(built)


def _encoder(model: Any) -> Any:
    """The encoder of a model that has a decoder too; any other model as it is."""
    return model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model


def _bare(auto: Any, config: Any) -> Any:
    """A model of a configuration, with random weights."""
    return auto.from_config(config, trust_remote_code=False)


def _config(transformers: Any, cls: Any, files: Sequence[Path], model: str) -> Any:
    """The configuration beside the weights, or that of a bare type as the library has it."""
    auto = transformers.AutoConfig if cls is transformers.AutoModel else cls.config_class
    if files:
        return auto.from_pretrained(files[0].parent, local_files_only=True, trust_remote_code=False)
    return auto.for_model(TYPES.get(model, model)) if cls is transformers.AutoModel else auto()


def _change(config: Any, changes: Mapping[str, float]) -> None:
    """Put values into a configuration. Raises BadValue for a name that it does not have."""
    for key, value in changes.items():
        if not hasattr(config, key):
            raise unknown("value of the model's configuration", key, config.to_dict())
        setattr(config, key, int(value) if float(value).is_integer() else value)


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """No progress bars and no remarks of the library for a block."""
    logging = transformers.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()

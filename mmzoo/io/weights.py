"""Where the weights of a published encoder lie: a local folder or file, the hub's cache, or the hub. No torch at import."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mmzoo.errors import BadValue, MmzooError

#: weights in the order in which they are looked for; none of them is loaded by pickle
NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
#: published models whose configuration is that of their type, as transformers has it: from scratch they need no file
TYPES = {"google-bert/bert-base-uncased": "bert", "openai/clip-vit-base-patch32": "clip"}
#: how long to wait for the hub before calling it unreachable
PATIENCE = 5.0


def is_path(name: str) -> bool:
    """Whether a name is meant as a path: it begins like one, or there is such a folder or file."""
    return name.startswith(("/", "./", "../", "~", ".\\")) or Path(name).expanduser().exists()


def in_folder(folder: Path, names: Sequence[str] = NAMES) -> list[Path]:
    """The first of `names` that a folder has, with the shards where it is an index. Raises BadValue naming both."""
    if not folder.is_dir():
        raise BadValue(f"there is no folder {folder}.")
    for name in names:
        path = folder / name
        if path.is_file():
            if not name.endswith(".index.json"):
                return [path]
            shards = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
            if missing := [s for s in shards if not (folder / s).is_file()]:
                raise BadValue(f"{path} lists {missing[0]}, which is not there: copy all shards beside it.")
            return [path, *(folder / s for s in shards)]
    raise BadValue(f"{folder} holds none of {', '.join(names)}. Name a folder that does, or a file of weights.")


def local(path: str, names: Sequence[str] = NAMES) -> list[Path]:
    """The files of weights that a path stands for: itself, or those in it. Raises BadValue."""
    given = Path(path).expanduser()
    if given.is_dir():
        return in_folder(given, names)
    if not given.is_file():
        raise BadValue(f"there is no file or folder {path}. Name a .safetensors file, or a folder that holds one.")
    return [given]


def hub_file(repo: str, names: Sequence[str], *, option: str) -> Path:
    """The first of `names` of a repository of the hub: from its cache, or downloaded into it.

    option: how a user names a local folder in its place, for the message. Raises MmzooError that says which file of
    which model is missing, where it was looked for, and what to do.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    for name in names:
        found = try_to_load_from_cache(repo, name)
        if isinstance(found, str):
            return Path(found)
    reason = "HF_HUB_OFFLINE forbids downloads" if constants.HF_HUB_OFFLINE else _unreachable(constants.ENDPOINT)
    if reason is None:
        try:
            for name in names:
                try:
                    return Path(hf_hub_download(repo, name))
                except LocalEntryNotFoundError:
                    raise
                except EntryNotFoundError:
                    continue
            reason = f"it has none of {', '.join(names)} there"
        except (HfHubHTTPError, OSError, ValueError) as error:
            reason = f"{type(error).__name__}: {(str(error) or '?').splitlines()[0]}"
    raise MmzooError(
        f"model {repo!r}: {names[0]} is not in {constants.HF_HUB_CACHE}, and it cannot be fetched ({reason}). Copy the model "
        f"to this machine and name its folder ({option}=DIR), or train from scratch (weights=none)."
    )


def _unreachable(endpoint: str) -> str | None:
    """Why the hub cannot be reached, as far as one connection tells; None where it can, or where a proxy is in between."""
    if any(
        os.environ.get(v) for v in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy")
    ):
        return None
    parts = urlsplit(endpoint)
    port = parts.port or (80 if parts.scheme == "http" else 443)
    try:
        socket.create_connection((parts.hostname or "", port), PATIENCE).close()
    except OSError as error:
        return f"{parts.hostname} cannot be reached: {error.strerror or error}"
    return None


# ---------------------------------------------------------------------------------------------- of each family
def timm_files(params: Mapping[str, Any]) -> list[Path]:
    """What decides the initial weights of a timm model: nothing ("none"), the published weights, or a path."""
    weights = params["weights"]
    if weights == "none":
        return []
    if weights != "pretrained":
        return local(weights, ("model.safetensors", "pytorch_model.bin"))
    import timm
    from timm.models import get_pretrained_cfg

    model = params["model"]
    known = get_pretrained_cfg(model) if timm.is_model(model) else None
    if known is None or not known.hf_hub_id:
        raise BadValue(
            f"timm has no published weights for {model!r}: see timm.list_pretrained('{model.split('.')[0]}*')."
        )
    return [hub_file(known.hf_hub_id, ("model.safetensors", "pytorch_model.bin"), option="weights")]


def transformers_files(params: Mapping[str, Any]) -> list[Path]:
    """config.json and weights of a transformers model: of a folder or of the hub. Nothing where a model that
    trains from scratch is a bare type ("bert"), or is made like one."""
    model, weights = params["model"], params["weights"]
    if weights not in ("none", "pretrained"):
        return [*config_files(weights if Path(weights).expanduser().is_dir() else model), *local(weights)]
    if weights == "none":
        return [] if model in TYPES else config_files(model)
    if is_path(model):
        return [*config_files(model), *local(model)]
    config = hub_file(model, ("config.json",), option="model")
    # An index would need its shards too, and no model of one modality here comes in shards from the hub.
    return [config, hub_file(model, ("model.safetensors", "pytorch_model.bin"), option="model")]


def config_files(model: str) -> list[Path]:
    """The config.json of a model; none where it is a bare type of the library. Raises BadValue for a type of its own."""
    if is_path(model):
        (found,) = in_folder(Path(model).expanduser(), ("config.json",))
    elif "/" not in model and _is_type(model):
        return []
    else:
        found = hub_file(model, ("config.json",), option="model")
    _refuse_code(model, found)
    return [found]


def _is_type(name: object) -> bool:
    from transformers import CONFIG_MAPPING

    return isinstance(name, str) and name in CONFIG_MAPPING


def _refuse_code(model: str, path: Path) -> None:
    """Raise BadValue for a configuration that names Python code beside it and no type that the transformers library has."""
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return  # the library says what is wrong with it
    if isinstance(config, dict) and config.get("auto_map") and not _is_type(kind := config.get("model_type")):
        raise BadValue(
            f"model {model!r} needs Python code of its own (auto_map in {path}), which mmzoo never runs; its type {kind!r} is "
            "not in the transformers library. Take a model of a type that the library has, or write an encoder: mmzoo new "
            "encoder."
        )


# ---------------------------------------------------------------------------------------------- hashes
def digest_of(files: Iterable[Path]) -> str:
    """A short hash of the content of files, in their order."""
    total = hashlib.sha256()
    for path in files:
        stat = path.stat()
        total.update(_digest(str(path.resolve()), (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)).encode())
    return total.hexdigest()[:16]


@functools.lru_cache(maxsize=64)
def _digest(path: str, state: tuple[int, int, int]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

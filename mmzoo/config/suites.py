"""Suites: the YAML files that hold what a bench is asked for."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

from mmzoo.config.datasets import register_manifests, resolve_dataset
from mmzoo.config.grammar import ENCODER, TRAIN, divided_key, of_encoder, of_training, parse_seeds
from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.config.spec import BenchSpec, check_selection, check_stresses, field_fault
from mmzoo.errors import BadValue, MmzooError, near_miss, short, unknown
from mmzoo.io.yaml_file import Document, read
from mmzoo.registry import KINDS, Catalogue
from mmzoo.training.config import Training

#: the keys of a suite
KEYS = {f.name for f in dataclasses.fields(BenchSpec)} - {"settings", "track", "processes"} | {"set", "schema"}


def read_suite(path: Path, catalogue: Catalogue) -> dict[str, Any]:
    """The fields of a BenchSpec that a YAML suite gives. Raises BadValue listing all faults with their lines."""
    document = read(path)
    data = document.data
    if not isinstance(data, dict):
        raise BadValue(f"{path} must be a mapping with the keys {', '.join(sorted(KEYS))}.")
    if isinstance(listed := data.get("datasets"), list):
        with contextlib.suppress(MmzooError):  # told below, with its line
            register_manifests(catalogue, [t for t in listed if isinstance(t, str)])
    fields: dict[str, Any] = {}
    for key, value in data.items():
        if key not in KEYS:
            document.fault((key,), f"unknown key.{near_miss(str(key), KEYS)}")
            continue
        try:
            fields |= _suite_field(key, value, catalogue, document)
        except MmzooError as error:
            document.fault((key,), str(error))
    document.raise_faults()
    return fields


def _suite_field(key: str, value: Any, catalogue: Catalogue, document: Document) -> dict[str, Any]:
    if key == "schema":
        if value != 1:
            raise BadValue(f"this version reads schema 1, not {short(value)}")
        return {}
    if key == "set":
        return {"settings": tuple(_suite_settings(value, catalogue, document, ("set",)))}
    if key == "overrides":
        if not isinstance(value, list) or not value:
            raise BadValue("must be a list of mappings, each as in set: [{train.lr: 0.01}, {train.lr: 0.1}]")
        found = [_suite_settings(v, catalogue, document, (key, i)) for i, v in enumerate(value)]
        return {"overrides": tuple(map(tuple, found))}
    if key == "seeds":
        if isinstance(value, list) and value:
            return {"seeds": parse_seeds(",".join(map(str, value)) + ",")}
        return {"seeds": parse_seeds(str(value))}
    if key in ("baselines", "datasets", "heads"):
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise BadValue(f"must be a list of names, not {short(value)}")
        for i, name in enumerate(value):
            try:
                _known(key, name, catalogue)
            except MmzooError as error:
                document.fault((key, i), str(error))
        return {key: tuple(value)}
    if fault := field_fault(key, value):
        raise BadValue(fault)
    if key in ("protocol", "selection"):
        return {"selection": check_selection(value)}
    if key == "stress":
        return {key: check_stresses(value)}
    if key == "method":
        _known(key, value, catalogue)
    if key == "preset":
        presets = {name for entry in catalogue.entries("datasets") for name in entry.extra["training"]}
        if value not in presets:
            raise unknown("training preset", value, presets)
    return {key: value}


def _known(key: str, name: str, catalogue: Catalogue) -> None:
    if key == "heads":
        catalogue.get("heads", name)
    elif key == "datasets":
        resolve_dataset(catalogue, name, Settings(catalogue, ()), stores=False)
    else:
        resolve_method(catalogue, name, Settings(catalogue, ()))


def _suite_settings(
    value: Any, catalogue: Catalogue, document: Document, where: tuple[Any, ...]
) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise BadValue("must map WHAT.KEY to values, e.g. ogm.alpha: 0.3")
    pairs = []
    for key, setting in value.items():
        try:
            Settings(catalogue, [(str(key), setting)])
            _check_setting(catalogue, str(key), setting)
            pairs.append((str(key), setting))
        except MmzooError as error:
            document.fault((*where, key), str(error))
    return pairs


def _check_setting(catalogue: Catalogue, key: str, value: Any) -> None:
    """Type and range of one setting, as far as its name alone decides them."""
    scope, name = divided_key(key)
    if scope == TRAIN or of_training(name):
        Training().replace(**{name.removeprefix(f"{TRAIN}."): value})
        return
    if scope == ENCODER or of_encoder(name):
        _check_encoder_setting(catalogue, name.removeprefix(f"{ENCODER}."), value)
        return
    named = [catalogue.get(kind, scope) for kind in KINDS if catalogue.has(kind, scope)]
    for method in [e for e in named if e.kind == "methods"]:
        named.append(catalogue.get("strategies", method.extra["strategy"], method.package))
    if name == "preset" and (strategies := [e for e in named if e.kind == "strategies"]):
        strategies[-1].preset(value)
        return
    takers = [e for e in named if name in e.accepted]
    if any(e.kind in ("methods", "strategies") for e in named):  # which head these go with is not known yet
        takers += [h for h in catalogue.entries("heads") if name.removeprefix("head.") in h.params]
    if not takers:
        accepted = {p: None for e in named for p in e.accepted}
        raise unknown(f"parameter of {scope}", name, accepted, see=f"See: mmzoo show {scope}")
    errors = []
    for entry in takers:
        try:
            entry.check_params({name if name in entry.params else name.removeprefix("head."): value})
            return
        except MmzooError as error:
            errors.append(error)
    raise errors[0]


def _check_encoder_setting(catalogue: Catalogue, name: str, value: Any) -> None:
    """`MODALITY: NAME` or `MODALITY.KEY: VALUE`, as far as that can be told without the data set."""
    _, _, key = name.partition(".")
    if not key:
        catalogue.get("encoders", str(value))
        return
    known = {k for e in catalogue.entries("encoders") for k in e.accepted}
    if key not in known:
        raise unknown("parameter of any encoder", key, known, see="See: mmzoo list encoders")

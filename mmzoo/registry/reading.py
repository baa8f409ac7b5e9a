"""Entries from registry.yaml files, all faults of a file at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mmzoo
from mmzoo.errors import BadValue, MmzooError, near_miss, short, unknown
from mmzoo.io.yaml_file import Document, Key, read
from mmzoo.registry.entries import KINDS, Entry
from mmzoo.registry.parameters import ENCODER_OPTIONS, TYPES, Param, Search
from mmzoo.registry.schema import COMMON, CONDITIONS, KEYS, NEEDED, is_condition, is_range, shape_fault
from mmzoo.training.config import Training

_PARAM_KEYS = {"type", "default", "range", "choices", "doc", "when", "search", "added_later"}
_SEARCH_KEYS = {"low", "high", "log"}


def read_entries(source: str | Path, package: str | None = None) -> list[Entry]:
    """The entries of a registry.yaml file, or of the one beside an importable package.

    Raises BadValue listing every fault of the file with its line.
    """
    if isinstance(source, Path):
        path, package = source, package or source.parent.name
    else:
        from importlib import resources

        path, package = Path(str(resources.files(source))) / "registry.yaml", package or source
    document = read(path)
    entries = _parse(document, package)
    document.raise_faults()
    return entries


def built_in_path() -> Path:
    """The shipped registry.yaml: in a source tree the one at its top, which is never stale, else the wheel's."""
    package = Path(mmzoo.__file__).resolve().parent
    above = package.parent
    return above / "registry.yaml" if (above / "pyproject.toml").is_file() else package / "registry.yaml"


def _parse(document: Document, package: str) -> list[Entry]:
    data = document.data
    if not isinstance(data, dict):
        document.fault((), f"must be a mapping of the kinds {', '.join(KINDS)}")
        return []
    entries = []
    for kind, named in data.items():
        if kind == "schema":
            if named != 1:
                document.fault((kind,), f"this version reads schema 1, not {short(named)}")
        elif kind not in KINDS:
            document.fault((kind,), f"unknown kind.{near_miss(str(kind), KINDS)} Known: {', '.join(KINDS)}")
        elif not isinstance(named, dict):
            document.fault((kind,), "must map names to entries")
        else:
            entries += [e for name, body in named.items() if (e := _entry(document, kind, name, body, package))]
    return entries


def _entry(document: Document, kind: str, name: Any, body: Any, package: str) -> Entry | None:
    key = (kind, name)
    before = len(document.faults)
    if not (isinstance(name, str) and re.fullmatch(r"[a-z_][a-z0-9_]*", name)):
        document.fault(key, "a name is lower_snake_case")
    if not isinstance(body, dict):
        document.fault(key, "must be a mapping")
        return None
    for missing in sorted(NEEDED[kind] - set(body)):
        document.fault(key, f"{missing} is missing")
    for given, value in body.items():
        if given not in KEYS[kind]:
            document.fault((*key, given), f"unknown key.{near_miss(str(given), KEYS[kind])}")
        elif fault := shape_fault(kind, given, value):
            document.fault((*key, given), fault)
    params = _params(document, (*key, "params"), body.get("params", {}))
    if len(document.faults) == before:
        _check_presets(document, key, body, params)
        if kind == "datasets":
            _check_dataset(document, key, body)
    if len(document.faults) > before:
        return None
    return Entry(
        kind,
        name,
        package,
        body["summary"].strip(),
        body.get("paper"),
        params,
        tuple(body.get("requires", ())),
        body.get("cost", {"forward": 1, "backward": 1} if kind in ("methods", "strategies") else {}),
        body.get("status", "stable"),
        body.get("version", 1),
        tuple(body.get("aliases", ())),
        body.get("fidelity", {}),
        {k: v for k, v in body.items() if k not in COMMON},
        links=body.get("links", {}),
    )


def _check_presets(document: Document, key: Key, body: Mapping[str, Any], params: Mapping[str, Param]) -> None:
    """Note what would otherwise come up only when a bench names one preset or the other."""
    for kind in CONDITIONS:
        conditions = body.get(kind, [])
        for condition in conditions if isinstance(conditions, list) else [conditions]:
            for param in condition:
                if param not in params:
                    document.fault((*key, kind, param), f"no such parameter.{near_miss(str(param), params)}")
    for taken in set(params) & set(ENCODER_OPTIONS) if key[0] == "encoders" else ():
        document.fault((*key, "params", taken), f"{taken} is an option that every encoder has: take another name")
    if "preset" in params:
        document.fault((*key, "params", "preset"), "preset is how a set of parameters is chosen: take another name")
    settled = body.get("without_slice", {})
    for name, given in {**body.get("presets", {}), **({"without_slice": settled} if settled else {})}.items():
        for param, value in given.items() if isinstance(given, dict) else [("", given)]:
            try:
                if param not in params:
                    raise unknown("parameter", str(param), params)
                params[param].check(value)
            except MmzooError as error:
                document.fault((*key, "presets", name, param), str(error))


def _check_dataset(document: Document, key: Key, body: Mapping[str, Any]) -> None:
    if "select" in body and body["select"] not in body.get("params", {}):
        document.fault((*key, "select"), f"must be one of the parameters, not {short(body['select'])}")
    if "default" not in body["training"]:
        document.fault((*key, "training"), "needs a preset named default")
    if body.get("prepared") and "recipe" not in body.get("params", {}):
        document.fault((*key, "params"), "a prepared data set needs a parameter named recipe")
    if reserved := [n for n in ("mini", "real") if body.get("prepared") and n in body.get("presets", {})]:
        document.fault((*key, "presets", reserved[0]), "every prepared data set has this one: take another name")
    for name in body.get("mini", {}):
        if name not in ("twin", "params", "encoders", "training"):
            document.fault((*key, "mini", name), "unknown key. Known: twin, params, encoders, training")
    if not isinstance(body.get("mini", {}).get("twin", ""), str):
        document.fault((*key, "mini", "twin"), f"must be module:Class, not {short(body['mini']['twin'])}")
    for name, changes in {**body["training"], "mini": body.get("mini", {}).get("training", {})}.items():
        try:
            Training().replace(**changes)
        except (MmzooError, TypeError) as error:
            document.fault((*key, "training", name), str(error))
    for kind, choice in body["encoders"].items():
        if not isinstance(choice, dict) or not isinstance(choice.get("name"), str):
            document.fault((*key, "encoders", kind), f"must be a mapping with at least a name, not {short(choice)}")
    for modality, kind in body["modalities"].items():
        if kind not in list(body["encoders"]):
            document.fault((*key, "modalities", modality), f"encoders names none for inputs of kind {short(kind)}")


def _params(document: Document, key: Key, raw: Any) -> dict[str, Param]:
    if not isinstance(raw, dict):
        return {}  # noted by its form already
    params = {}
    for name, body in raw.items():
        here = (*key, name)
        if not isinstance(body, dict) or "type" not in body or "default" not in body:
            document.fault(here, "needs at least type and default")
            continue
        for extra in body:
            if extra not in _PARAM_KEYS:
                document.fault((*here, extra), f"unknown key.{near_miss(str(extra), _PARAM_KEYS)}")
        if faults := [(part, wanted) for part, right, wanted in _param_rules(body, raw) if not right]:
            for part, wanted in faults:
                document.fault((*here, part), f"must be {wanted}, not {short(body[part])}")
            continue
        limits, choices = body.get("range"), body.get("choices")
        param = Param(
            str(name),
            body["type"],
            body["default"],
            body.get("doc", ""),
            (float(limits[0]), float(limits[1])) if limits else None,
            tuple(choices) if choices else None,
            None if "search" not in body else _search(document, (*here, "search"), body),
            body.get("when", {}),
            body.get("added_later", False),
        )
        try:
            params[str(name)] = Param(**{**vars(param), "default": param.check(param.default)})
        except BadValue as error:
            document.fault((*here, "default"), str(error))
    return params


def _param_rules(body: Mapping[str, Any], parameters: Mapping[str, Any]) -> Iterator[tuple[str, bool, str]]:
    """key, whether its value is right, and what it must be, of a parameter among those of its entry"""
    limits, choices = body.get("range"), body.get("choices")
    base = str(body["type"]).removesuffix("?")
    numeric = base in ("float", "int", "ints", "numbers")
    yield "type", base in TYPES, f"one of {', '.join(TYPES)}"
    right = limits is None or (is_range(limits) and numeric)
    yield "range", right, "two numbers, the lower first, and only for numbers"
    yield "choices", choices is None or (isinstance(choices, list) and bool(choices)), "a list of values"
    right = "when" not in body or (is_condition(body["when"]) and set(body["when"]) <= set(parameters))
    yield "when", right, "a mapping of parameters of the entry to lists of values"
    yield "added_later", isinstance(body.get("added_later", False), bool), "true or false"


def _search(document: Document, key: Key, body: Mapping[str, Any]) -> Search | None:
    """The search space of one parameter, which must hold its default; a fault is noted."""
    given = body["search"]
    if body["type"] not in ("float", "int"):
        document.fault(key, f"only numbers can be searched, not {body['type']}")
    elif not isinstance(given, dict) or set(given) - _SEARCH_KEYS or not {"low", "high"} <= set(given):
        document.fault(key, f"must be a mapping with low and high, and perhaps log, not {short(given)}")
    elif not is_range([given["low"], given["high"]]) or not given["low"] <= body["default"] <= given["high"]:
        document.fault(key, f"low and high must be numbers with the default between them, not {short(given)}")
    elif not isinstance(given.get("log", False), bool) or (given.get("log") and given["low"] <= 0):
        document.fault(key, "log must be true or false, and low above zero where it is true")
    else:
        return Search(given["low"], given["high"], given.get("log", False))
    return None

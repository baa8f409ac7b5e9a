"""The form of a manifest: which keys it may have and what they hold. Faults are noted with their lines."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Mapping
from typing import Any

from mmzoo.data.own.reading import DELIMITERS
from mmzoo.errors import BadValue, MmzooError, near_miss, short
from mmzoo.io.yaml_file import Document, Key
from mmzoo.registry import Param
from mmzoo.training.config import FIELDS, Training

#: kind in a manifest -> where its field lies, and what a manifest takes for it unless it says otherwise
KINDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "audio": ("mmzoo.data.fields.audio:Spectrogram", {"rate": 16000, "seconds": 5.0}),
    "video": ("mmzoo.data.fields.video:Frames", {"frames": 8, "size": 112}),
    "flow": ("mmzoo.data.fields.flow:Flow", {"frames": 8, "size": 112}),
    "image": ("mmzoo.data.fields.image:Image", {"size": 128}),
    "text": ("mmzoo.data.fields.text:Tokens", {"length": 64, "least": 1}),
    "vector": ("mmzoo.data.fields.vector:Vector", {}),
    "series": ("mmzoo.data.fields.series:Series", {}),
    "category": ("mmzoo.data.fields.vector:Vector", {"standardise": False}),
}
#: kinds whose content may stand in several columns
SEVERAL = ("vector", "category", "series")
#: what only `fitted` sets, and what the column or columns decide
_NOT_GIVEN = {"vocabulary", "mean", "deviation", "samples", "pair"}
#: what says something of files, so that it means nothing beside `columns`
_OF_FILES = ("column", "width", "channels", "pick", "time")
#: values that may be a number or a word, or a pair of numbers, whatever their default is
_ANY = {"fill", "range", "pick"}
#: keys of a manifest -> what they hold
KEYS: Mapping[str, str] = {
    "name": "text",
    "table": "text",
    "root": "text",
    "delimiter": "text",
    "quotes": "bool",
    "id": "column",
    "label": "column",
    "split": "column",
    "group": "column",
    "classes": "classes",
    "metric": "text",
    "meta_set": "bool",
    "modalities": "mapping",
    "reading": "mapping",
    "encoders": "mapping",
    "training": "mapping",
}
READING = {"frames": "int?", "size": "int?", "crop": "bool", "flip": "bool"}


def check_form(document: Document) -> None:
    """Note every fault of a manifest that shows without its table."""
    data = document.data
    for key in data:
        if key not in KEYS:
            document.fault((key,), f"unknown key.{near_miss(str(key), KEYS)} Known: {', '.join(sorted(KEYS))}")
    for key in ("name", "table", "modalities"):
        if key not in data:
            document.fault((), f"{key} is missing")
    _check_texts(document, data)
    _check_modalities(document, data.get("modalities", {}))
    _check_bench(document, data)


def bodies(document: Document) -> dict[str, dict[str, Any]]:
    """modality -> its body with the short form written out: `columns` is a list of names, patterns and spans as they are
    written, and `several` says whether they were given as such."""
    found = {}
    for m, body in document.data["modalities"].items():
        key = ("modalities", m)
        given = {"kind": body} if isinstance(body, str) else dict(body)
        several = "columns" in given
        names = written(document, (*key, "columns"), given["columns"]) if several else []
        if not several:
            names = [document.written.get((*key, "column"), m)]
            names += [document.written[(*key, "pair")]] if given.get("pair") is not None else []
        categories = written(document, (*key, "categories"), given.get("categories", []))
        found[m] = {**given, "columns": names, "several": several, "categories": categories}
    return found


def written(document: Document, key: Key, value: Any) -> list[str]:
    """A name, or each of a list, as it is written: 0 and no are names of columns too."""
    if isinstance(value, list):
        return [document.written.get((*key, i), str(one)) for i, one in enumerate(value)]
    return [document.written.get(key, str(value))]


def _is_name(value: Any) -> bool:
    """Whether YAML has read one plain word, number or truth value."""
    return isinstance(value, (str, int, float)) and value != ""


def _check_texts(document: Document, data: Mapping[Any, Any]) -> None:
    for key, what in KEYS.items():
        value = data.get(key)
        if key not in data:
            continue
        if what == "text" and not (isinstance(value, str) and value):
            document.fault((key,), f"must be a text, not {short(value)}")
        elif what == "bool" and not isinstance(value, bool):
            document.fault((key,), f"must be true or false, not {short(value)}")
        elif what == "column" and not _is_name(value):
            document.fault((key,), f"must be the name of a column, not {short(value)}")
    if "name" in data and not (isinstance(data["name"], str) and re.fullmatch(r"[a-z_][a-z0-9_]{0,63}", data["name"])):
        document.fault(("name",), f"must be lower_snake_case of at most 64 letters, not {short(data['name'])}")
    if "delimiter" in data and data["delimiter"] not in tuple(DELIMITERS):
        document.fault(("delimiter",), f"must be a comma, semicolon, tab or bar, not {short(data['delimiter'])}")
    if data.get("metric", "acc") not in ("acc", "macro_f1", "map"):
        document.fault(("metric",), f"must be acc, macro_f1 or map, not {short(data['metric'])}")
    classes = data.get("classes", ["a", "b"])
    if not (isinstance(classes, list) and all(map(_is_name, classes))) or len(
        set(written(document, ("classes",), classes))
    ) < max(2, len(classes)):
        document.fault(("classes",), "must be a list of two or more different names")


def _check_modalities(document: Document, modalities: Any) -> None:
    if not isinstance(modalities, dict) or not modalities:
        document.fault(("modalities",), "must map the name of each modality to its kind, or to a mapping with one")
        return
    from mmzoo.core.head import name_fault

    for m, body in modalities.items():
        key = ("modalities", m)
        if not (isinstance(m, str) and re.fullmatch(r"[a-z_][a-z0-9_]{0,63}", m)) or m in ("present", "index"):
            document.fault(key, "the name of a modality is lower_snake_case, and neither present nor index")
            continue
        if (fault := name_fault(m)) is not None:
            document.fault(key, fault)
            continue
        kind = body if isinstance(body, str) else body.get("kind") if isinstance(body, dict) else None
        if not isinstance(kind, str) or kind not in KINDS:
            near = near_miss(str(kind), KINDS)
            document.fault(key, f"kind must be one of {', '.join(KINDS)}, not {short(kind)}.{near}")
        elif isinstance(body, dict):
            _check_body(document, key, kind, body)


def _check_body(document: Document, key: Key, kind: str, body: Mapping[str, Any]) -> None:
    """The keys of a modality that name columns."""
    for k in ("column", "pair"):
        if k in body and not _is_name(body[k]):
            document.fault((*key, k), f"must be the name of a column, not {short(body[k])}")
    if "pair" in body and kind != "text":
        document.fault((*key, "pair"), "is for texts")
    if "columns" in body and not (kind in SEVERAL and _are_names(document, (*key, "columns"), body["columns"])):
        document.fault(
            (*key, "columns"),
            "must be a list of different columns, a pattern such as gene* or a span such as x0..x63, and is for "
            + " and ".join(SEVERAL),
        )
    if "columns" in body and (extra := [k for k in _OF_FILES if k in body]):
        document.fault((*key, "columns"), f"gives the numbers themselves: leave out {' and '.join(extra)}")
    if "categories" in body and not (
        kind == "vector" and _are_names(document, (*key, "categories"), body["categories"]) and "columns" in body
    ):
        document.fault((*key, "categories"), "must be a list of those among the columns of a vector that hold words")


def _are_names(document: Document, key: Key, value: Any) -> bool:
    if not isinstance(value, list):
        return _is_name(value)
    names = written(document, key, value)
    return bool(value) and all(map(_is_name, value)) and len(set(names)) == len(names)


def field_of(document: Document, m: str, body: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The class of a modality's field, and its values; faults are noted."""
    kind = body["kind"]
    where, usual = KINDS[kind]
    module, _, name = where.partition(":")
    cls = getattr(importlib.import_module(module), name)
    defaults = {f.name: f.default for f in dataclasses.fields(cls) if f.name not in _NOT_GIVEN}
    known = {*defaults, *usual, "column", "columns", "kind"} | ({"pair"} if kind == "text" else set())
    known |= {"categories"} if kind == "vector" else set()
    known -= {"fill", "standardise", "width"} if kind == "category" else set()
    given = dict(usual)
    before = len(document.faults)
    for key, value in body.items():
        if key in ("kind", "column", "columns", "pair", "several", "categories"):
            continue
        if key not in known:
            near = near_miss(str(key), known)
            document.fault(
                ("modalities", m, key), f"unknown key of kind {kind}.{near} Known: {', '.join(sorted(known))}"
            )
            continue
        like = defaults.get(key, 5.0)
        if key not in _ANY and (fault := _misfit(value, like)):
            document.fault(("modalities", m, key), f"must be {fault}, not {short(value)}")
            continue
        given[key] = float(value) if isinstance(like, float) and key not in _ANY else value
    if len(document.faults) > before:
        return cls, {}
    return cls, _completed(document, m, cls, given, body)


def _completed(document: Document, m: str, cls: Any, given: dict[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a field as its class takes them."""
    if "seconds" in given:
        given["samples"] = round(given.pop("seconds") * given["rate"])
    if isinstance(given.get("range"), list):
        given["range"] = tuple(given["range"])
    if "pick" in given:
        given["pick"] = tuple(written(document, ("modalities", m, "pick"), given["pick"]))
    if body.get("pair") is not None:
        given["pair"] = True
    measured = {f.name for f in dataclasses.fields(cls)} & {"width", "channels", "length"}
    needed = {name: 1 for name in measured if name not in given}
    with document.faults_at(("modalities", m)):
        cls(**given, **needed)
    return given


def _misfit(value: Any, like: Any) -> str | None:
    """What a value should be but is not, by the field's own default; a field without one wants a whole number."""
    if isinstance(like, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(like, str):
        return None if isinstance(value, str) else "a text"
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1e9
    if isinstance(like, float):
        return None if number else "a number from 0 to 1e9"
    return None if number and isinstance(value, int) else "a whole number from 0 to 1e9"


def _check_bench(document: Document, data: Mapping[Any, Any]) -> None:
    """How a bench reads and trains on it."""
    for key in ("reading", "encoders", "training"):
        if not isinstance(data.get(key, {}), dict):
            document.fault((key,), "must be a mapping")
            return
    for name, value in data.get("reading", {}).items():
        if name not in READING:
            document.fault(
                ("reading", name), f"unknown key.{near_miss(str(name), READING)} Known: {', '.join(READING)}"
            )
            continue
        with document.faults_at(("reading", name)):
            Param(str(name), READING[name], None).check(value)
    for name, choice in data.get("encoders", {}).items():
        if (
            not isinstance(choice, dict)
            or not isinstance(choice.get("name"), str)
            or not isinstance(choice.get("params", {}), dict)
        ):
            document.fault(("encoders", name), f"must be {{name: ENCODER, params: {{...}}}}, not {short(choice)}")
    for name, value in data.get("training", {}).items():
        try:
            if name not in FIELDS:
                raise BadValue(f"unknown key.{near_miss(str(name), FIELDS)} Known: {', '.join(FIELDS)}")
            Training().replace(**{name: value})
        except MmzooError as error:
            document.fault(("training", name), str(error))

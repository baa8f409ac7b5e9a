"""The JSON schema of suites, from which editors complete and check them. No torch.

It is made of the tables that the parser of suites reads: the fields of a bench (`mmzoo.config.spec.FIELDS`), the options of
training, and the parameters of every installed entry. It knows the names and the ranges, not which settings go together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mmzoo.config.grammar import ENCODER, TRAIN
from mmzoo.config.spec import FIELDS, FORMER_SELECTIONS, SELECTIONS, STRESSES
from mmzoo.config.suites import KEYS
from mmzoo.data.own.checks import READING
from mmzoo.registry import Catalogue, Entry, Param
from mmzoo.training import config as training

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_OPTIONS = {"optimizer": training.OPTIMIZERS, "precision": training.PRECISIONS, "schedule": training.SCHEDULES}
_TYPES = {"float": "number", "int": "integer", "bool": "boolean", "str": "string", "scope": "string"}
_ITEMS = {"ints": "integer", "strs": "string"}


def suite_schema(catalogue: Catalogue, described: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The schema of the files that `mmzoo bench --suite` reads.

    Args:
        catalogue: What names and parameters there are.
        described: Key of a suite -> what an editor says of it.
    """
    forms = {key: {**FIELDS[key].json} if key in FIELDS else {} for key in sorted(KEYS)}
    settings = _settings(catalogue)
    forms["schema"] = {"const": 1, "description": "version of this format"}
    forms["set"] = {"$ref": "#/$defs/settings"}
    forms["overrides"] = {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/settings"}}
    forms["seeds"] = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}, forms["seeds"]]}
    forms["method"] = _methods(catalogue)
    forms["baselines"]["items"] = forms["method"]
    forms["heads"]["items"] = {"enum": _names(catalogue, "heads")}
    forms["datasets"]["items"] = _datasets(catalogue)
    forms["stress"]["items"] = {"enum": list(STRESSES)}
    forms["selection"] = forms["protocol"] = {"enum": [*SELECTIONS, *FORMER_SELECTIONS]}
    forms["preset"] = {"enum": sorted({name for e in catalogue.entries("datasets") for name in e.extra["training"]})}
    for key, words in (described or {}).items():
        if key in forms:
            forms[key] = {**forms[key], "description": words}
    return {
        "$schema": DIALECT,
        "title": "mmzoo suite",
        "description": "What `mmzoo bench --suite FILE` runs.",
        "type": "object",
        "properties": forms,
        "additionalProperties": False,
        "$defs": {"settings": settings},
    }


def param_schema(param: Param) -> dict[str, Any]:
    """One parameter: its type, its limits, its choices, and what it is."""
    base, optional = param.type.removesuffix("?"), param.type.endswith("?")
    single: dict[str, Any] = {"type": _ITEMS.get(base, _TYPES.get(base, "number"))}
    if param.choices is not None:
        single = {"enum": list(param.choices)}
    elif param.range is not None:
        single |= {"minimum": param.range[0], "maximum": param.range[1]}
    if base in _ITEMS:
        single = {"type": "array", "items": single}
    elif base == "numbers":
        single = {"type": "object", "additionalProperties": single}
    form = {"anyOf": [single, {"type": "null"}]} if optional else single
    words = {"description": param.doc} if param.doc else {}
    return {**form, **words, "default": param.default}


def _settings(catalogue: Catalogue) -> dict[str, Any]:
    """`WHAT.KEY: VALUE` of everything that is installed; of files and manifests, whose names nobody knows before, the form."""
    known = {f"{TRAIN}.{key}": _training(key) for key in training.FIELDS}
    heads = {key: p for e in catalogue.entries("heads") for key, p in e.params.items()}
    for kind in ("encoders", "heads", "strategies", "methods", "datasets"):
        for entry in catalogue.entries(kind):
            forms = _of_entry(catalogue, entry)
            known |= {f"{name}.{key}": form for name in _names_of(catalogue, entry) for key, form in forms.items()}
    trained = _any([_names(catalogue, kind) for kind in ("methods", "strategies")])
    sets, train = _any([_names(catalogue, "datasets")]), _any([training.FIELDS])
    own = _any([READING, ("recipe", "modalities")])
    options = {key: p for e in catalogue.entries("encoders") for key, p in e.accepted.items()}
    encoder = rf"{ENCODER}\.[^.]+"
    return {
        "type": "object",
        "properties": known,
        "patternProperties": {
            rf"^({sets}\.)?{encoder}$": {"enum": _names(catalogue, "encoders")},
            rf"^({sets}\.)?{encoder}\.{_any([options])}$": {},
            rf"^{trained}\.(head\.)?{_any([heads])}$": {},
            rf"^{sets}\.{TRAIN}\.{train}$": {},
            # data of one's own, and classes in files
            rf"^(?!{sets}\.)\w+\.({TRAIN}\.{train}|{encoder}(\..+)?|{own})$": {},
            r"^.*\.py:[A-Za-z_]\w*\..+$": {},
        },
        "additionalProperties": False,
    }


def _of_entry(catalogue: Catalogue, entry: Entry) -> dict[str, Any]:
    """key -> form, of all that an entry takes; a method takes what its parts do."""
    parts = [p for p in catalogue.parts(entry) if p.kind in ("methods", "strategies", entry.kind)]
    forms = {key: param_schema(p) for part in parts for key, p in part.accepted.items()}
    presets = [name for part in parts if part.kind == "strategies" for name in part.extra.get("presets", {})]
    return {**forms, "preset": {"enum": presets}} if presets else forms


def _training(key: str) -> dict[str, Any]:
    base, _, optional = training.FIELDS[key].partition(" | ")
    form: dict[str, Any] = {"enum": list(_OPTIONS[key])} if key in _OPTIONS else {"type": _TYPES[base]}
    return {"anyOf": [form, {"type": "null"}]} if optional else form


def _methods(catalogue: Catalogue) -> dict[str, Any]:
    """A name, or what is built of names: a chain, windows, a head, a class in a file, PACKAGE/NAME."""
    return {"anyOf": [{"enum": _names(catalogue, "methods", "strategies")}, {"type": "string", "pattern": "[+:@/]"}]}


def _datasets(catalogue: Catalogue) -> dict[str, Any]:
    """A name, one with a preset, one with values (`NAME:PRESET,KEY=VALUE`), or a manifest."""
    named = [(name, e) for e in catalogue.entries("datasets") for name in _names_of(catalogue, e)]
    presets = [f"{name}:{p}" for name, e in named for p in e.extra.get("presets", {}) if p != "default"]
    forms = rf"^{_any([[name for name, _ in named]])}:|\.ya?ml\s*$"
    return {"anyOf": [{"enum": [*(name for name, _ in named), *presets]}, {"type": "string", "pattern": forms}]}


def _names_of(catalogue: Catalogue, entry: Entry) -> list[str]:
    """All names that mean an entry."""
    names = dict.fromkeys([entry.name, *entry.aliases, entry.qualified])
    return [n for n in names if catalogue.has(entry.kind, n) and catalogue.get(entry.kind, n) is entry]


def _names(catalogue: Catalogue, *kinds: str) -> list[str]:
    """The names of all entries of some kinds, those with the package before them left out where a shorter one is there."""
    found = [_names_of(catalogue, e) for kind in kinds for e in catalogue.entries(kind)]
    return sorted({n for names in found for n in names if "/" not in n or len(names) == 1})


def _any(groups: Iterable[Iterable[str]]) -> str:
    """A regular expression for any of some words."""
    return f"({'|'.join(sorted(re.escape(word) for group in groups for word in group))})"

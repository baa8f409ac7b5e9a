"""The catalogue: what exists, read from registry.yaml files. Importing and reading it imports no torch."""

from __future__ import annotations

import importlib
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmzoo.errors import BadValue, MmzooError, UnknownName, near_miss, unknown
from mmzoo.scopes import ACCEPTED, scope_pattern
from mmzoo.training import Training
from mmzoo.yamlfile import Document, Key, read

KINDS = ("methods", "strategies", "heads", "encoders", "datasets", "trackers")
SINGULAR = {"methods": "method", "strategies": "strategy", "heads": "head", "encoders": "encoder",
            "datasets": "data set", "trackers": "tracker"}  # fmt: skip
STATUSES = ("stable", "experimental", "deprecated")
BUILT_IN = "mmzoo"

_TYPES: Mapping[str, tuple[type, ...]] = {
    "float": (int, float), "int": (int,), "bool": (bool,), "str": (str,), "ints": (list, tuple), "strs": (list, tuple),
    "numbers": (Mapping,), "scope": (str,),
}  # fmt: skip
_PARAM_KEYS = {"type", "default", "range", "choices", "doc", "search"}
_SEARCH_KEYS = {"low", "high", "log", "when"}
#: keys that hold conditions on the parameters: what a strategy requires in some of its forms only
CONDITIONS = ("slice_if", "plain_steps_if", "teachers_unless")
_COMMON = {"summary", "paper", "aliases", "status", "version", "fidelity", "params", "requires", "cost"}
_KEYS: Mapping[str, set[str]] = {
    "methods": _COMMON | {"strategy", "head", "args", "head_args", "each_modality"},
    "strategies": _COMMON | {"path", "equation", "owns", "modalities", "presets", "solo", "untuned", *CONDITIONS},
    "heads": _COMMON
    | {"path", "equation", "how", "additive", "equal_dims", "modalities", "evidential", "couples", "mean_gates", "untuned"},
    "encoders": _COMMON | {"path", "input", "files", "example"},
    "datasets": _COMMON
    | {
        "path",
        "modalities",
        "n_classes",
        "metric",
        "presets",
        "training",
        "encoders",
        "licence",
        "select",
        "prepared",
        "mini",
    },
    "trackers": {"summary", "aliases", "status", "version", "path", "install"},
}
_NEEDED: Mapping[str, set[str]] = {
    "methods": {"summary", "strategy", "head"},
    "strategies": {"summary", "path"},
    "heads": {"summary", "path", "how"},
    "encoders": {"summary", "path", "input"},
    "datasets": {"summary", "path", "modalities", "n_classes", "training", "encoders"},
    "trackers": {"summary", "path"},
}


@dataclass(frozen=True)
class Search:
    """Where tuning looks for a parameter: between low and high, evenly or by its logarithm. when: parameter -> values;
    it is searched only where all of them hold, since elsewhere it means nothing."""

    low: float
    high: float
    log: bool = False
    when: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def applies(self, params: Mapping[str, Any]) -> bool:
        return all(params[name] in values for name, values in self.when.items())


@dataclass(frozen=True)
class Param:
    """One parameter: its type, default and accepted values. A type ending in `?` also takes none.

    range and choices hold for the value, or for each item of a list or of `numbers`, a mapping of names to numbers.
    """

    name: str
    type: str
    default: Any
    doc: str = ""
    range: tuple[float, float] | None = None
    choices: tuple[Any, ...] | None = None
    search: Search | None = None

    def check(self, value: Any) -> Any:
        """The value, converted where nothing is lost. Raises BadValue that says what is accepted."""
        base, optional = self.type.removesuffix("?"), self.type.endswith("?")
        if value is None and optional:
            return None
        wrong = isinstance(value, bool) != (base == "bool") or not isinstance(value, _TYPES[base])
        several = base in ("ints", "strs", "numbers")
        items = () if wrong else tuple(value.values() if base == "numbers" else value) if several else (value,)
        wrong = wrong or (base == "numbers" and not all(isinstance(name, str) for name in value))
        if wrong or any(not self._takes(item) for item in items):
            misspelt = "" if self.choices is None else near_miss(str(value), map(str, self.choices))
            raise BadValue(f"{self.name} must be {self.accepts()}, not {value!r}.{misspelt}")
        if base == "numbers":
            return {name: float(item) for name, item in value.items()}
        if base == "scope":
            scope_pattern(value)
        return float(value) if base == "float" else items if several else value

    def _takes(self, item: Any) -> bool:
        """Whether a value, or one item of a list, has the right type and lies within the limits."""
        base = self.type.removesuffix("?")
        if base in ("ints", "strs") and (
            isinstance(item, bool) or not isinstance(item, int if base == "ints" else str)
        ):
            return False
        if base == "numbers" and (isinstance(item, bool) or not isinstance(item, (int, float))):
            return False
        if base in ("float", "numbers") and not abs(item) <= sys.float_info.max:  # NaN, infinite, or a huge whole one
            return False
        if self.range is not None and not self.range[0] <= item <= self.range[1]:
            return False
        return self.choices is None or item in self.choices

    def accepts(self) -> str:
        """In words, what may be given."""
        base = self.type.removesuffix("?")
        words = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "a text",
                 "ints": "a list of whole numbers", "strs": "a list of names",
                 "numbers": "a mapping of names to numbers", "scope": ACCEPTED}[base]  # fmt: skip
        if self.choices is not None:
            listed = ", ".join(map(str, self.choices))
            words = f"{words} among {listed}" if base in ("ints", "strs") else f"one of {listed}"
        elif self.range is not None:
            words += f" from {self.range[0]:.15g} to {self.range[1]:.15g}"
        return words + (" or null" if self.type.endswith("?") else "")


#: what every encoder can be told beside its own parameters; see mmzoo.encoder.Encoder.configure
ENCODER_OPTIONS: Mapping[str, Param] = {
    p.name: p for p in (
        Param("lr_scale", "float", 1.0, "factor on the learning rate of this encoder", (1e-6, 1e6)),
        Param("frozen", "bool", False, "all of it stands still, batch statistics too"),
        Param("frozen_stages", "int", 0, "so do what comes first and as many stages", (0, 1000)),
        Param("checkpoint", "bool", False, "compute stages again in the backward pass, to save memory"),
        Param("channels_last", "bool", False, "weights of convolutions in that memory format"),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One thing that has a name. `extra` holds what only its kind has (path, strategy, head, presets ...)."""

    kind: str
    name: str
    package: str
    summary: str
    paper: Mapping[str, Any] | None
    params: Mapping[str, Param]
    requires: tuple[str, ...]
    cost: Mapping[str, Any]
    status: str
    version: int
    aliases: tuple[str, ...]
    fidelity: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """`kind/name`, with the package in front of the name for what is not built in."""
        return f"{self.kind}/{self.qualified if self.package != BUILT_IN else self.name}"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The kinds of input that an encoder takes."""
        given = self.extra["input"]
        return (given,) if isinstance(given, str) else tuple(given)

    @property
    def accepted(self) -> dict[str, Param]:
        """Its own parameters and, of an encoder, the options that all encoders have."""
        return {**self.params, **(ENCODER_OPTIONS if self.kind == "encoders" else {})}

    @property
    def qualified(self) -> str:
        return f"{self.package}/{self.name}"

    def load(self) -> Any:
        """Import and return what the entry points to. Raises MmzooError naming the entry when that fails."""
        return self._imported("path")

    def files(self, params: Mapping[str, Any]) -> list[Path]:
        """The files from outside that decide what an encoder with these parameters starts from: its `files`, a function of
        them. None where the entry names no such function. Raises what it raises where files are missing."""
        return self._imported("files")(params) if "files" in self.extra else []

    def _imported(self, key: str) -> Any:
        module, _, attribute = self.extra[key].partition(":")
        if module.endswith(".py"):
            from mmzoo import local

            return local.load(module, attribute)
        try:
            return getattr(importlib.import_module(module), attribute)
        except Exception as error:
            raise MmzooError(
                f"{SINGULAR[self.kind]} {self.name!r} of package {self.package} cannot be loaded from "
                f"{self.extra[key]}: {type(error).__name__}: {error}."
                + (f" Install it: {self.extra['install']}" if "install" in self.extra else "")
            ) from error

    def check_params(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """`given` validated against the declared parameters. Raises UnknownName or BadValue naming the entry."""
        checked, known = {}, self.accepted
        for name, value in given.items():
            if name not in known:
                see = f"See: mmzoo show {self.name}"
                raise unknown(f"parameter of {SINGULAR[self.kind]} {self.name}", name, known, see=see)
            try:
                checked[name] = known[name].check(value)
            except BadValue as error:
                raise BadValue(f"{SINGULAR[self.kind]} {self.name}: {error} See: mmzoo show {self.name}") from None
        return checked

    def preset(self, name: Any) -> dict[str, Any]:
        """The parameters that authors use on one data set. Raises UnknownName with the nearest known name."""
        known = self.extra.get("presets", {})
        if not isinstance(name, str) or name not in known:
            see = f"See: mmzoo show {self.name}"
            raise unknown(f"preset of {SINGULAR[self.kind]} {self.name}", str(name), known, see=see)
        return self.check_params(known[name])

    def defaults(self) -> dict[str, Any]:
        return {name: p.default for name, p in self.params.items()}

    def public(self) -> dict[str, Any]:
        """What `mmzoo list --json` says of it."""
        return {
            "name": self.name, "kind": self.kind, "summary": self.summary, "paper": self.paper,
            "requires": list(self.requires), "cost": dict(self.cost), "status": self.status,
            "package": self.package, "aliases": list(self.aliases), "version": self.version,
        }  # fmt: skip


class Catalogue:
    """All entries by kind and name. A name that is taken stays with whoever had it first; the other answers to
    `package/name` (as all do), and `clashes` tells of it."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
        self._also: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}
        self.clashes: list[str] = []
        for entry in entries:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        names, also = self._entries[entry.kind], self._also[entry.kind]
        for name in (entry.name, *entry.aliases):
            holder = names.get(name) or also.get(name)
            if holder is entry:
                continue
            if holder is not None:
                self.clashes.append(
                    f"{SINGULAR[entry.kind]} {name!r} of {entry.package} is taken by {holder.package}; "
                    f"use {entry.qualified}"
                )
            elif name == entry.name:
                names[name] = entry
            else:
                also[name] = entry
        also.setdefault(entry.qualified, entry)

    def __iter__(self) -> Iterator[Entry]:
        for kind in KINDS:
            yield from self.entries(kind)

    def entries(self, kind: str) -> list[Entry]:
        """All entries of a kind by name, those without a bare name of their own last."""
        named = self._entries[kind]
        rest = {e.qualified: e for e in self._also[kind].values() if e not in named.values()}
        return [named[n] for n in sorted(named)] + [rest[n] for n in sorted(rest)]

    def remove(self, entry: Entry) -> None:
        """Forget an entry under all its names."""
        for names in (self._entries[entry.kind], self._also[entry.kind]):
            for name in [n for n, held in names.items() if held is entry]:
                del names[name]

    def has(self, kind: str, name: str) -> bool:
        return name in self._entries[kind] or name in self._also[kind] or _local(kind, name) is not None

    def get(self, kind: str, name: str, package: str = "") -> Entry:
        """The entry of a name, an alias, `package/name`, or FILE.py:CLASS. Raises UnknownName with the nearest known name.

        package: who asks, whose own entries come first. A recipe means the strategy that it ships with, even where
        another package holds the bare name.
        """
        own = self._also[kind].get(f"{package}/{name}")
        entry = own or self._entries[kind].get(name) or self._also[kind].get(name) or _local(kind, name)
        if entry is None and ".py:" in name:
            raise UnknownName(f"{name} is no {SINGULAR[kind]}; the base class decides what a class is.")
        if entry is None:
            known = [*self._entries[kind], *self._also[kind]]
            close = near_miss(name, known)
            raise UnknownName(f"no {SINGULAR[kind]} {name!r}.{close} All that there are: mmzoo list {kind}")
        return entry

    def check(self, entry: Entry) -> None:
        """Raise UnknownName or BadValue when an entry names an entry or a parameter that is not there."""
        extra = entry.extra
        related = [("strategies", extra.get("strategy"), extra.get("args", {})),
                   ("heads", extra.get("head"), extra.get("head_args", {}))]  # fmt: skip
        related += [("encoders", c["name"], c.get("params", {})) for c in extra.get("encoders", {}).values()]
        for kind, name, params in related:
            if name is not None:
                self.get(kind, name, entry.package).check_params(params)

    def name_of(self, entry: Entry) -> str:
        """The shortest name that `get` answers with this entry."""
        return entry.name if self._entries[entry.kind].get(entry.name) is entry else entry.qualified


def _local(kind: str, name: str) -> Entry | None:
    """The entry of a class in a file, which is loaded for that; None where the name means none of this kind."""
    if ".py:" not in name:
        return None
    from mmzoo import local

    return local.entry(kind, name)


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
    package = Path(__file__).resolve().parent
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
                document.fault((kind,), f"this version reads schema 1, not {named!r}")
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
    for missing in sorted(_NEEDED[kind] - set(body)):
        document.fault(key, f"{missing} is missing")
    for given, value in body.items():
        if given not in _KEYS[kind]:
            document.fault((*key, given), f"unknown key.{near_miss(str(given), _KEYS[kind])}")
        elif fault := _shape_fault(kind, given, value):
            document.fault((*key, given), fault)
    params = _params(document, (*key, "params"), body.get("params", {}))
    if len(document.faults) == before:
        _check_presets(document, key, body, params)
        if kind == "datasets":
            _check_dataset(document, key, body)
    if len(document.faults) > before:
        return None
    return Entry(
        kind, name, package, body["summary"].strip(), body.get("paper"), params, tuple(body.get("requires", ())),
        body.get("cost", {"forward": 1, "backward": 1} if kind in ("methods", "strategies") else {}),
        body.get("status", "stable"), body.get("version", 1), tuple(body.get("aliases", ())), body.get("fidelity", {}),
        {k: v for k, v in body.items() if k not in _COMMON},
    )  # fmt: skip


_TEXTS = {"install", "untuned", "strategy", "head", "equation", "metric", "licence", "select"}
_LISTS = {"aliases", "requires", "owns"}
_MAPPINGS = {
    "mini", "params", "fidelity", "args", "head_args", "presets", "training", "encoders", "modalities", "example"
}  # fmt: skip
#: parameters and their values under which something holds of a strategy: it learns from the slice; it follows the
#: steps as they are taken, without clipping and micro-batches
_FLAGS = {"each_modality", "additive", "equal_dims", "solo", "evidential", "couples", "mean_gates", "prepared"}


def _shape_fault(kind: str, key: str, value: Any) -> str | None:
    """What is wrong with the form of one value of an entry."""
    wanted = None
    if key == "summary" and not (
        isinstance(value, str) and 0 < len(value.strip()) <= 110 and len(value.splitlines()) == 1
    ):
        wanted = "one line of at most 110 characters"
    elif key in ("path", "files") and not (isinstance(value, str) and re.fullmatch(r"[\w.]+:\w+", value)):
        wanted = "module:Name"
    elif key == "status" and value not in STATUSES:
        wanted = f"one of {', '.join(STATUSES)}"
    elif key == "how" and value not in ("exact", "slice", "ablated"):
        wanted = "one of exact, slice, ablated"
    elif key in _TEXTS and not isinstance(value, str):
        wanted = "a text"
    elif key in _LISTS and not _is_names(value):
        wanted = "a list of names"
    elif key == "input" and not ((value and isinstance(value, str)) or (_is_names(value) and value)):
        wanted = "a kind of input, or a list of kinds"
    elif key in _FLAGS and not isinstance(value, bool):
        wanted = "true or false"
    elif key in _MAPPINGS and not isinstance(value, dict):
        wanted = "a mapping"
    elif key in ("version", "n_classes") and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        wanted = "a whole number from 1"
    elif key == "cost" and not (isinstance(value, dict) and all(map(_is_number, value.values()))):
        wanted = "a mapping of names to numbers"
    elif key in CONDITIONS and not all(map(_is_condition, value if isinstance(value, list) else [value])):
        wanted = "a mapping of parameters to lists of values, or a list of such mappings"
    elif key == "paper" and not (isinstance(value, dict) and isinstance(value.get("title"), str)):
        wanted = "a mapping with at least a title"
    elif (
        key == "modalities"
        and kind in ("strategies", "heads")
        and not (set(value) <= {"min", "max"} and all(isinstance(v, int) and v >= 1 for v in value.values()))
    ):
        wanted = "whole numbers for min and max"
    return wanted and f"must be {wanted}, not {value!r}"


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _is_condition(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, list) for v in value.values())


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


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
    for name, given in body.get("presets", {}).items():
        for param, value in given.items() if isinstance(given, dict) else [("", given)]:
            try:
                if param not in params:
                    raise unknown("parameter", str(param), params)
                params[param].check(value)
            except MmzooError as error:
                document.fault((*key, "presets", name, param), str(error))


def _check_dataset(document: Document, key: Key, body: Mapping[str, Any]) -> None:
    if "select" in body and body["select"] not in body.get("params", {}):
        document.fault((*key, "select"), f"must be one of the parameters, not {body['select']!r}")
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
        document.fault((*key, "mini", "twin"), f"must be module:Class, not {body['mini']['twin']!r}")
    for name, changes in {**body["training"], "mini": body.get("mini", {}).get("training", {})}.items():
        try:
            Training().replace(**changes)
        except (MmzooError, TypeError) as error:
            document.fault((*key, "training", name), str(error))
    for kind, choice in body["encoders"].items():
        if not isinstance(choice, dict) or not isinstance(choice.get("name"), str):
            document.fault((*key, "encoders", kind), f"must be a mapping with at least a name, not {choice!r}")
    for modality, kind in body["modalities"].items():
        if kind not in list(body["encoders"]):
            document.fault((*key, "modalities", modality), f"encoders names none for inputs of kind {kind!r}")


def _search(document: Document, key: Key, body: Mapping[str, Any], params: Mapping[str, Any]) -> Search | None:
    """The search space of one parameter, which must hold its default; a fault is noted."""
    given = body["search"]
    if body["type"] not in ("float", "int"):
        document.fault(key, f"only numbers can be searched, not {body['type']}")
    elif not isinstance(given, dict) or set(given) - _SEARCH_KEYS or not {"low", "high"} <= set(given):
        document.fault(key, f"must be a mapping with low and high, and perhaps log and when, not {given!r}")
    elif not _is_range([given["low"], given["high"]]) or not given["low"] <= body["default"] <= given["high"]:
        document.fault(key, f"low and high must be numbers with the default between them, not {given!r}")
    elif not isinstance(given.get("log", False), bool) or (given.get("log") and given["low"] <= 0):
        document.fault(key, "log must be true or false, and low above zero where it is true")
    elif "when" in given and not (_is_condition(given["when"]) and set(given["when"]) <= set(params)):
        document.fault(key, f"when must map parameters of the entry to lists of values, not {given['when']!r}")
    else:
        return Search(given["low"], given["high"], given.get("log", False), given.get("when", {}))
    return None


def _is_range(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)) and value[0] <= value[1]


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
        limits, choices = body.get("range"), body.get("choices")
        usable = True
        base = str(body["type"]).removesuffix("?")
        for part, right, wanted in (
            ("type", base in _TYPES, f"one of {', '.join(_TYPES)}"),
            (
                "range",
                limits is None or (_is_range(limits) and base in ("float", "int", "ints", "numbers")),
                "two numbers, the lower first, and only for numbers",
            ),
            ("choices", choices is None or (isinstance(choices, list) and choices), "a list of values"),
        ):
            if not right:
                document.fault((*here, part), f"must be {wanted}, not {body[part]!r}")
                usable = False
        if not usable:
            continue
        param = Param(
            str(name), body["type"], body["default"], body.get("doc", ""),
            (float(limits[0]), float(limits[1])) if limits else None, tuple(choices) if choices else None,
            None if "search" not in body else _search(document, (*here, "search"), body, raw),
        )  # fmt: skip
        try:
            params[str(name)] = Param(**{**vars(param), "default": param.check(param.default)})
        except BadValue as error:
            document.fault((*here, "default"), str(error))
    return params

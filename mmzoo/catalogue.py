"""The catalogue: what exists, read from registry.yaml files. Importing and reading it imports no torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmzoo.errors import BadValue, MmzooError, UnknownName, near_miss, unknown
from mmzoo.yamlfile import Document, read

KINDS = ("methods", "strategies", "heads", "encoders", "datasets")
SINGULAR = {"methods": "method", "strategies": "strategy", "heads": "head", "encoders": "encoder",
            "datasets": "data set"}  # fmt: skip
STATUSES = ("stable", "experimental", "deprecated")
BUILT_IN = "mmzoo"

_TYPES: Mapping[str, tuple[type, ...]] = {
    "float": (int, float), "int": (int,), "bool": (bool,), "str": (str,), "ints": (list, tuple), "strs": (list, tuple),
}  # fmt: skip
_PARAM_KEYS = {"type", "default", "range", "choices", "doc", "search"}
_COMMON = {"summary", "paper", "aliases", "status", "version", "fidelity", "params", "requires", "cost"}
_KEYS: Mapping[str, set[str]] = {
    "methods": _COMMON | {"strategy", "head", "args", "head_args", "each_modality"},
    "strategies": _COMMON | {"path", "equation", "owns", "modalities"},
    "heads": _COMMON | {"path", "equation", "how", "additive", "equal_dims"},
    "encoders": _COMMON | {"path", "input"},
    "datasets": _COMMON | {"path", "modalities", "n_classes", "metric", "presets", "training", "encoders", "licence",
                         "select"},
}
_NEEDED: Mapping[str, set[str]] = {
    "methods": {"summary", "strategy", "head"},
    "strategies": {"summary", "path"},
    "heads": {"summary", "path", "how"},
    "encoders": {"summary", "path", "input"},
    "datasets": {"summary", "path", "modalities", "n_classes", "training", "encoders"},
}


@dataclass(frozen=True)
class Param:
    """One parameter: its type, default and accepted values. A type ending in `?` also takes none."""

    name: str
    type: str
    default: Any
    doc: str = ""
    range: tuple[float, float] | None = None
    choices: tuple[Any, ...] | None = None
    search: Any = None

    def check(self, value: Any) -> Any:
        """The value, converted where nothing is lost. Raises BadValue that says what is accepted."""
        base, optional = self.type.removesuffix("?"), self.type.endswith("?")
        if value is None and optional:
            return None
        wrong = isinstance(value, bool) != (base == "bool") or not isinstance(value, _TYPES[base])
        if not wrong and base in ("ints", "strs"):
            item = int if base == "ints" else str
            wrong = any(not isinstance(v, item) or isinstance(v, bool) for v in value)
        if wrong:
            raise BadValue(f"{self.name} must be {self.accepts()}, not {value!r}.")
        if self.choices is not None and value not in self.choices:
            raise BadValue(
                f"{self.name} must be {self.accepts()}, not {value!r}.{near_miss(str(value), map(str, self.choices))}"
            )
        if self.range is not None and not self.range[0] <= value <= self.range[1]:
            raise BadValue(f"{self.name} must be {self.accepts()}, not {value!r}.")
        return float(value) if base == "float" else tuple(value) if base in ("ints", "strs") else value

    def accepts(self) -> str:
        """In words, what may be given."""
        if self.choices is not None:
            return "one of " + ", ".join(map(str, self.choices))
        words = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "a text",
                 "ints": "whole numbers", "strs": "names"}[self.type.removesuffix("?")]  # fmt: skip
        if self.range is not None:
            words += f" from {self.range[0]:g} to {self.range[1]:g}"
        return words + (" or none" if self.type.endswith("?") else "")


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
    def qualified(self) -> str:
        return f"{self.package}/{self.name}"

    def load(self) -> Any:
        """Import and return what the entry points to. Raises MmzooError naming the entry when that fails."""
        module, _, attribute = self.extra["path"].partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except Exception as error:
            raise MmzooError(
                f"{SINGULAR[self.kind]} {self.name!r} of package {self.package} cannot be loaded from "
                f"{self.extra['path']}: {type(error).__name__}: {error}."
            ) from error

    def check_params(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """`given` validated against the declared parameters. Raises UnknownName or BadValue naming the entry."""
        checked = {}
        for name, value in given.items():
            if name not in self.params:
                raise unknown(f"parameter of {SINGULAR[self.kind]} {self.name}", name, self.params)
            try:
                checked[name] = self.params[name].check(value)
            except BadValue as error:
                raise BadValue(f"{SINGULAR[self.kind]} {self.name}: {error} See: mmzoo show {self.name}") from None
        return checked

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

    def has(self, kind: str, name: str) -> bool:
        return name in self._entries[kind] or name in self._also[kind]

    def get(self, kind: str, name: str) -> Entry:
        """The entry of a name, an alias or `package/name`. Raises UnknownName with the nearest known name."""
        entry = self._entries[kind].get(name) or self._also[kind].get(name)
        if entry is None:
            known = [*self._entries[kind], *self._also[kind]]
            raise UnknownName(
                f"no {SINGULAR[kind]} {name!r}.{near_miss(name, known)} "
                f"{len(self._entries[kind])} are known: mmzoo list {kind}."
            )
        return entry


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
    if not (isinstance(name, str) and name.isidentifier() and name == name.lower()):
        document.fault(key, "a name is lower_snake_case")
    if not isinstance(body, dict):
        document.fault(key, "must be a mapping")
        return None
    for unknown_key in set(body) - _KEYS[kind]:
        document.fault((*key, unknown_key), f"unknown key.{near_miss(str(unknown_key), _KEYS[kind])}")
    for missing in sorted(_NEEDED[kind] - set(body)):
        document.fault(key, f"{missing} is missing")
    path = body.get("path")
    if path is not None and (not isinstance(path, str) or path.count(":") != 1):
        document.fault((*key, "path"), f"must read module:Name, not {path!r}")
    status = body.get("status", "stable")
    if status not in STATUSES:
        document.fault((*key, "status"), f"must be one of {', '.join(STATUSES)}, not {status!r}")
    summary = body.get("summary", "")
    if not isinstance(summary, str) or "\n" in summary.strip() or len(summary) > 110:
        document.fault((*key, "summary"), "must be one line of at most 110 characters")
    params = _params(document, (*key, "params"), body.get("params", {}))
    if len(document.faults) > before:
        return None
    return Entry(
        kind, name, package, summary.strip(), body.get("paper"), params, tuple(body.get("requires", ())),
        body.get("cost", {"forward": 1, "backward": 1} if kind in ("methods", "strategies") else {}), status,
        int(body.get("version", 1)), tuple(body.get("aliases", ())), body.get("fidelity", {}),
        {k: v for k, v in body.items() if k not in _COMMON},
    )  # fmt: skip


def _params(document: Document, key: tuple[Any, ...], raw: Any) -> dict[str, Param]:
    if not isinstance(raw, dict):
        document.fault(key, "must map names to parameters")
        return {}
    params = {}
    for name, body in raw.items():
        here = (*key, name)
        if not isinstance(body, dict) or "type" not in body or "default" not in body:
            document.fault(here, "needs at least type and default")
            continue
        for extra in set(body) - _PARAM_KEYS:
            document.fault((*here, extra), f"unknown key.{near_miss(str(extra), _PARAM_KEYS)}")
        if str(body["type"]).removesuffix("?") not in _TYPES:
            document.fault((*here, "type"), f"must be one of {', '.join(_TYPES)}, not {body['type']!r}")
            continue
        limits, choices = body.get("range"), body.get("choices")
        param = Param(
            str(name), body["type"], body["default"], body.get("doc", ""),
            tuple(map(float, limits)) if limits else None, tuple(choices) if choices else None, body.get("search"),
        )  # fmt: skip
        try:
            params[str(name)] = Param(**{**vars(param), "default": param.check(param.default)})
        except BadValue as error:
            document.fault((*here, "default"), str(error))
    return params

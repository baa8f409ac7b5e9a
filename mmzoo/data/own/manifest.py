"""A user's own data: one YAML manifest and one table. A Source like any other. No torch, no numpy at import.

    name: clips                      # lower_snake_case; tables and the store are called so
    table: items.csv                 # one row an item; paths in it are relative to the manifest's folder, or to `root`
    modalities:
      audio: audio                   # short for {kind: audio, column: audio}
      scene: {kind: video, column: clip, frames: 8, size: 112}
      words: {kind: text, column: title, pair: subtitle}
      sensors: {kind: vector, columns: [x, y, z]}      # or {kind: vector, column: features} with paths of .npy files

mmzoo/docs/own_data.md has the rest.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mmzoo.data.own.defaults import rows_of, sized
from mmzoo.data.own.table import Table, Wanted, npy_width
from mmzoo.data.sources.field import Field
from mmzoo.data.sources.source import Listing, Recipe, Source
from mmzoo.errors import BadValue, MmzooError, near_miss
from mmzoo.io.weights import is_path
from mmzoo.io.yaml_file import Document, read
from mmzoo.registry import Catalogue, Entry, Param
from mmzoo.training.config import FIELDS, Training

#: kind in a manifest -> where its field lies, and what a manifest takes for it unless it says otherwise
KINDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "audio": ("mmzoo.data.fields.audio:Spectrogram", {"rate": 16000, "seconds": 5.0}),
    "video": ("mmzoo.data.fields.video:Frames", {"frames": 8, "size": 112}),
    "flow": ("mmzoo.data.fields.flow:Flow", {"frames": 8, "size": 112}),
    "image": ("mmzoo.data.fields.image:Image", {"size": 128}),
    "text": ("mmzoo.data.fields.text:Tokens", {"length": 64}),
    "vector": ("mmzoo.data.fields.vector:Vector", {}),
}
#: what only `fitted` sets, and what the column or columns decide
_NOT_GIVEN = {"vocabulary", "mean", "deviation", "samples", "pair"}
_KEYS = {
    "name",
    "table",
    "root",
    "delimiter",
    "id",
    "label",
    "split",
    "group",
    "classes",
    "metric",
    "modalities",
    "reading",
    "encoders",
    "training",
}
_READING = {"frames": "int?", "size": "int?", "crop": "bool", "flip": "bool"}


class Own(Source):
    """What a manifest describes. root: the folder that all paths must stay in."""

    root: Path
    layout = "a YAML manifest and a table (mmzoo/docs/own_data.md)"

    def __init__(self, path: Path, document: Document) -> None:
        self.path = path
        data = document.data
        self.name: str = data["name"]  # type: ignore[misc]
        self.root = (path.parent / data.get("root", ".")).absolute()
        self.place = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:8]
        self.table = Table((path.parent / data["table"]).absolute(), data.get("delimiter"))
        self._data = data
        self._columns(document)
        self._fields_given = {m: _given(document, m, body) for m, body in self._modalities.items()}
        self.table_form = self._table_form()
        document.raise_faults()
        said = "the column " + str(self.wanted.split) if self.wanted.split else "a hash of each row"
        grouped = f", groups of the column {self.wanted.group} kept together" if self.wanted.group else ""
        self.splits = {"table" if self.wanted.split else "hash": said + grouped}  # type: ignore[misc]

    @property
    def _modalities(self) -> dict[str, dict[str, Any]]:
        """modality -> its body, the short form written out"""
        return {
            m: {"kind": body, "column": m} if isinstance(body, str) else {"column": m, **body}
            for m, body in self._data["modalities"].items()
        }

    def _columns(self, document: Document) -> None:
        """See that every column that is named is there."""
        header = self.table.header
        media: dict[str, tuple[str, tuple[str, ...]]] = {}
        for m, body in self._modalities.items():
            several = body.get("columns")
            columns = tuple(several) if several else (body["column"], *((body["pair"],) if body.get("pair") else ()))
            media[m] = (body["kind"], columns)
            for column in columns:
                if column not in header:
                    document.fault(
                        ("modalities", m),
                        f"{self.table.path.name} has no column {column!r}.{near_miss(column, header)} "
                        f"It has {', '.join(header)}",
                    )
        chosen: dict[str, str | None] = {}
        for key in ("id", "label", "split", "group"):
            column = self._data.get(key)
            if column is None and (key in header or key == "label"):
                column = key
            chosen[key] = column
            if column is not None and column not in header:
                document.fault(
                    (key,),
                    f"{self.table.path.name} has no column {column!r}.{near_miss(column, header)} It has "
                    f"{', '.join(header)}",
                )
        document.raise_faults()
        self.wanted = Wanted(media=media, classes=tuple(self._data.get("classes", ())), **chosen)  # type: ignore[arg-type]

    def _table_form(self) -> dict[str, Any]:
        given = {m: values.get("tokenizer") for m, (_, values) in self._fields_given.items()}
        return {
            "columns": {m: list(columns) for m, (_, columns) in self.wanted.media.items()},
            "id": self.wanted.id,
            "delimiter": self._data.get("delimiter"),
            "tokenizers": {
                m: str(Path(name).expanduser().absolute()) for m, name in given.items() if name and is_path(str(name))
            },
        }

    def recipes(self) -> Mapping[str, Recipe]:  # type: ignore[override]
        return {"own": Recipe("own", self._fields, doc=f"as {self.path.name} says")}

    @cached_property
    def _fields(self) -> dict[str, Field]:
        found = {}
        for m, (cls, given) in self._fields_given.items():
            kind, columns = self.wanted.media[m]
            if kind == "vector":
                several = bool(self._modalities[m].get("columns"))
                width = len(columns) if several else given.get("width") or npy_width(self.table, columns[0], self.root)
                given = {**given, "width": width}
            found[m] = cls(**given)
        return found

    def list(self, root: Path, *, split: str, splits_dir: Path | None = None, **options: Any) -> Listing:
        items, classes, faults = self.table.items(self.wanted, self.root)
        if len(classes) < 2:
            raise BadValue(
                f"{self.table.path}: {len(classes)} classes among {len(items)} usable rows; two are needed."
                + "".join(f"\n  {f.where}: {f.message}" for f in faults[:10])
            )
        return Listing(items, classes, faults, self.splits[split], [self.path, self.table.path])


@dataclass(frozen=True)
class OwnEntry(Entry):
    """A manifest's place among data sets, for as long as a command runs."""

    source: Any = field(default=None, compare=False)

    def load(self) -> Any:
        return self.source


def own_entry(path: Path, catalogue: Catalogue) -> OwnEntry:
    """A manifest as a data set of the catalogue. Raises BadValue with every fault of the manifest and its line."""
    source = read_manifest(path)
    if catalogue.has("datasets", source.name) and catalogue.get("datasets", source.name).package != "own":
        raise BadValue(f"{path}: name: there is a data set {source.name!r} already. Choose another name.")
    data = source._data
    kinds = {m: f.kind for m, f in source.recipes()["own"].fields.items()}
    given = {"encoders": data.get("encoders", {}), "training": data.get("training", {})}
    for what, choice in given["encoders"].items():
        encoder = catalogue.get("encoders", choice["name"])
        try:
            encoder.check_params(choice.get("params", {}))
        except MmzooError as error:
            raise BadValue(f"{path}: encoders.{what}: {error}") from None
    reading = data.get("reading", {})
    params = {
        "recipe": Param("recipe", "str", "own", choices=("own",)),
        "modalities": Param("modalities", "strs", tuple(kinds), "which of its modalities", choices=tuple(kinds)),
    }
    for name, kind in _READING.items():
        params[name] = Param(name, kind, reading.get(name, False if kind == "bool" else None))
    extra = {
        "prepared": True,
        "modalities": kinds,
        "select": "modalities",
        "metric": data.get("metric", "acc"),
        "given": given,
        "n_classes": 0,
    }
    entry = OwnEntry(
        "datasets",
        source.name,
        "own",
        f"your own data, {path}",
        None,
        params,
        (),
        {},
        "stable",
        1,
        (),
        {},
        extra,
        source,
    )
    return sized(entry, rows_of(source.table.path))


def read_manifest(path: Path) -> Own:
    """The source that a manifest describes. Raises BadValue with every fault of the manifest and its line."""
    document = read(path)
    data = document.data
    if not isinstance(data, dict):
        raise BadValue(f"{path} must be a mapping with at least name, table and modalities.")
    for key in data:
        if key not in _KEYS:
            document.fault((key,), f"unknown key.{near_miss(str(key), _KEYS)} Known: {', '.join(sorted(_KEYS))}")
    for key in ("name", "table", "modalities"):
        if key not in data:
            document.fault((), f"{key} is missing")
    _check_texts(document, data)
    _check_modalities(document, data.get("modalities", {}))
    _check_bench(document, data)
    document.raise_faults()
    return Own(path, document)


def _check_texts(document: Document, data: Mapping[Any, Any]) -> None:
    for key in ("table", "root", "id", "label", "split", "group", "delimiter", "metric"):
        if key in data and not (isinstance(data[key], str) and data[key]):
            document.fault((key,), f"must be a text, not {data[key]!r}")
    if "name" in data and not (isinstance(data["name"], str) and re.fullmatch(r"[a-z_][a-z0-9_]{0,63}", data["name"])):
        document.fault(("name",), f"must be lower_snake_case of at most 64 letters, not {data['name']!r}")
    if "delimiter" in data and data["delimiter"] not in (",", ";", "\t", "|"):
        document.fault(("delimiter",), f"must be a comma, semicolon, tab or bar, not {data['delimiter']!r}")
    if data.get("metric", "acc") not in ("acc", "macro_f1", "map"):
        document.fault(("metric",), f"must be acc, macro_f1 or map, not {data['metric']!r}")
    classes = data.get("classes", ["a", "b"])
    if not (
        isinstance(classes, list)
        and len(classes) > 1
        and len({str(c) for c in classes}) == len(classes)
        and all(isinstance(c, (str, int)) for c in classes)
    ):
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
            document.fault(key, f"kind must be one of {', '.join(KINDS)}, not {kind!r}.{near_miss(str(kind), KINDS)}")
            continue
        if isinstance(body, str):
            continue
        texts = [k for k in ("column", "pair") if k in body and not (isinstance(body[k], str) and body[k])]
        for k in texts:
            document.fault((*key, k), f"must be the name of a column, not {body[k]!r}")
        if "pair" in body and kind != "text":
            document.fault((*key, "pair"), "is for texts")
        several = body.get("columns")
        if several is not None and (
            kind != "vector"
            or not isinstance(several, list)
            or not several
            or len({str(c) for c in several}) < len(several)
            or not all(isinstance(c, str) for c in several)
        ):
            document.fault((*key, "columns"), "must be a list of different columns, and is for vectors")
        if several is not None and ("column" in body or "width" in body):
            document.fault((*key, "columns"), "gives the numbers themselves: leave out column and width")


def _given(document: Document, m: str, body: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The class of a modality's field, and its values; faults are noted."""
    import importlib

    where, usual = KINDS[body["kind"]]
    module, _, name = where.partition(":")
    cls = getattr(importlib.import_module(module), name)
    defaults = {f.name: f.default for f in dataclasses.fields(cls) if f.name not in _NOT_GIVEN}
    known = {*defaults, *usual, "column", "columns", "kind", *(("pair",) if body["kind"] == "text" else ())}
    given = dict(usual)
    before = len(document.faults)
    for key, value in body.items():
        if key not in known:
            document.fault(
                ("modalities", m, key),
                f"unknown key of kind {body['kind']}.{near_miss(str(key), known)} Known: {', '.join(sorted(known))}",
            )
        elif key not in ("kind", "column", "columns", "pair"):
            like = defaults.get(key, 5.0)
            if fault := _misfit(value, like):
                document.fault(("modalities", m, key), f"must be {fault}, not {value!r}")
            given[key] = float(value) if isinstance(like, float) and not fault else value
    if len(document.faults) > before:
        return cls, {}
    if "seconds" in given:
        given["samples"] = round(given.pop("seconds") * given["rate"])
    if body.get("pair"):
        given["pair"] = True
    try:
        cls(**given, **({"width": 1} if body["kind"] == "vector" and "width" not in given else {}))
    except BadValue as error:
        document.fault(("modalities", m), str(error))
    return cls, given


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
        if name not in _READING:
            document.fault(
                ("reading", name), f"unknown key.{near_miss(str(name), _READING)} Known: {', '.join(_READING)}"
            )
            continue
        try:
            Param(str(name), _READING[name], None).check(value)
        except BadValue as error:
            document.fault(("reading", name), str(error))
    for name, choice in data.get("encoders", {}).items():
        if (
            not isinstance(choice, dict)
            or not isinstance(choice.get("name"), str)
            or not isinstance(choice.get("params", {}), dict)
        ):
            document.fault(("encoders", name), f"must be {{name: ENCODER, params: {{...}}}}, not {choice!r}")
    for name, value in data.get("training", {}).items():
        try:
            if name not in FIELDS:
                raise BadValue(f"unknown key.{near_miss(str(name), FIELDS)} Known: {', '.join(FIELDS)}")
            Training().replace(**{name: value})
        except MmzooError as error:
            document.fault(("training", name), str(error))

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

import copy
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mmzoo.data.own import cells
from mmzoo.data.own.checks import READING, bodies, check_form, field_of, written
from mmzoo.data.own.columns import Columns, note_columns, refuse_outside
from mmzoo.data.own.defaults import sized
from mmzoo.data.own.reading import Rows
from mmzoo.data.own.table import Table, Wanted, first_size, first_width, levels
from mmzoo.data.sources.field import Field
from mmzoo.data.sources.source import Item, Listing, Recipe, Source, Text
from mmzoo.errors import BadValue, MmzooError, short
from mmzoo.io.regular import read_regular
from mmzoo.io.weights import is_path
from mmzoo.io.yaml_file import LARGEST, Document, read
from mmzoo.registry import Catalogue, Entry, Param

#: how many manifests are kept as they were read
KEPT = 8
#: path of a manifest -> its content, and what it describes
_READ: dict[Path, tuple[bytes, Own]] = {}


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
        self._data = data
        refuse_outside(document, path)
        self._bodies = bodies(document)
        self.rows = Rows(
            (path.parent / data["table"]).absolute(),
            data.get("delimiter"),
            quotes=data.get("quotes", True),
            likely=self._named(document),
        )
        self._fields_given = {m: field_of(document, m, body) for m, body in self._bodies.items()}
        self._columns(document)
        self.table_form = self._table_form()
        document.raise_faults()
        hashed = (
            f"a hash of {f'the column {self.wanted.id}' if self.wanted.id else 'each row'} and the name {data['name']}"
        )
        said = f"the column {self.wanted.split}" if self.wanted.split else hashed
        grouped = f", groups of the column {self.wanted.group} kept together" if self.wanted.group else ""
        self.splits = {"table" if self.wanted.split else "hash": said + grouped}  # type: ignore[misc]

    def _named(self, document: Document) -> set[str]:
        """All columns that the manifest names, among patterns and spans."""
        named = {c for body in self._bodies.values() for c in (*body["columns"], *body.get("categories", ()))}
        return named | {document.written.get((key,), key) for key in ("id", "label", "split", "group")}

    def _columns(self, document: Document) -> None:
        """See that every column that is named is there, and take what words they hold."""
        columns = Columns(self.rows, self._named(document))
        chosen: dict[str, str | None] = {}
        for key in ("id", "label", "split", "group"):
            column = document.written.get((key,))
            if column is None and (key in self.rows.places or key == "label"):
                column = key
            chosen[key] = column
            if column is not None:
                with document.faults_at((key,)):
                    columns.one(column)
        wanted: dict[str, cells.Wanted] = {}
        for m, body in self._bodies.items():
            others = [c for c in chosen.values() if c is not None]
            if columns.noted(
                document, ("modalities", m), [*body["columns"], *body["categories"]], body["several"], others
            ):
                continue
            with document.faults_at(("modalities", m)):
                wanted[m] = self._modality(body, columns, others)
        document.raise_faults()
        classes = tuple(written(document, ("classes",), self._data.get("classes", [])))
        self.wanted = Wanted(media=wanted, classes=classes, **chosen)  # type: ignore[arg-type]

    def _modality(self, body: Mapping[str, Any], columns: Columns, others: Sequence[str]) -> cells.Wanted:
        kind = body["kind"]
        alone = [columns.one(c) for c in body["columns"]] if not body["several"] else []
        found = alone or columns.several(body["columns"], others)
        words = columns.several(body.get("categories", ()), others) if kind != "category" else found
        if lacking := [c for c in words if c not in found]:
            raise BadValue(f"categories: {short(lacking[0])} is none of its columns")
        return cells.Wanted(
            "vector" if kind == "category" else kind,
            tuple(found),
            {c: levels(self.rows, c) for c in words},
            body.get("fill") is not None,
        )

    def _table_form(self) -> dict[str, Any]:
        given = {m: values.get("tokenizer") for m, (_, values) in self._fields_given.items()}
        media = self.wanted.media
        return {
            "columns": {m: list(w.columns) for m, w in media.items()},
            "id": self.wanted.id,
            "delimiter": self._data.get("delimiter"),
            "tokenizers": {
                m: str(Path(name).expanduser().absolute()) for m, name in given.items() if name and is_path(str(name))
            },
            "quotes": self.rows.quotes,
            "levels": {m: {c: list(found) for c, found in w.levels.items()} for m, w in media.items() if w.levels},
        }

    @cached_property
    def sides(self) -> Mapping[str, int]:
        """Side -> samples, as the column of the split says; nothing without one."""
        if self.wanted.split is None:
            return {}
        return Table(self.rows, self.wanted, self.root).sides()

    def recipes(self) -> Mapping[str, Recipe]:  # type: ignore[override]
        options = {} if self._data.get("meta_set", True) else {"meta_set": False}
        return {"own": Recipe("own", self._fields, options, f"as {self.path.name} says")}

    @cached_property
    def _fields(self) -> dict[str, Field]:
        found = {}
        for m, (cls, given) in self._fields_given.items():
            wanted = self.wanted.media[m]
            if wanted.kind == "vector":
                alone = len(wanted.columns) == 1 and not wanted.levels
                width = (
                    given.get("width") or first_width(self.rows, wanted.columns[0], self.root)
                    if alone
                    else wanted.width
                )
                given = {**given, "width": width}
            if wanted.kind == "series":
                given = {**self._size(wanted, given), **given}
            found[m] = cls(**given)
        return found

    def _size(self, wanted: cells.Wanted, given: Mapping[str, Any]) -> dict[str, int]:
        """Channels and steps of a series: what the manifest does not give is that of the first rows."""
        if len(wanted.columns) > 1:
            channels, length = 1, len(wanted.columns)
        elif "channels" in given and "length" in given:
            return {}
        else:
            time, pick = given.get("time"), given.get("pick", ())
            channels, length = first_size(self.rows, wanted.columns[0], self.root, time, pick)
        if given.get("rate") and given.get("from_rate"):
            length = math.ceil(length * given["rate"] / given["from_rate"])
        return {"channels": channels, "length": length}

    def list(self, root: Path, *, split: str, splits_dir: Path | None = None, **options: Any) -> Listing:
        items, classes, faults = Table(self.rows, self.wanted, self.root).items()
        if len(classes) < 2:
            raise BadValue(
                f"{self.rows.path}: {len(classes)} classes among {len(items)} usable rows; two are needed."
                + "".join(f"\n  {f.where}: {f.message}" for f in faults[:10])
            )
        return Listing(items, classes, faults, self.splits[split], [self.path, self.rows.path])

    def doubts(self, items: Sequence[Item]) -> Sequence[str]:
        """Columns of texts that name files."""
        found = []
        for m, wanted in self.wanted.media.items():
            texts = [text for i in items if isinstance(text := i.media.get(m), Text)]
            if wanted.kind == "text" and (named := cells.file_named([t.text for t in texts], self.root)):
                found.append(
                    f"{m} is of kind text, but cells of the column {wanted.columns[0]} are paths of files, such as "
                    f"{short(named)}: only their names are read. Kind image, audio, video or series reads the files"
                )
        return found


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
    for name, kind in READING.items():
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
    return sized(entry, source.rows.about, source.sides)


def read_manifest(path: Path) -> Own:
    """The source that a manifest describes. Raises BadValue with every fault of the manifest and its line.

    One command asks for it many times: while neither the manifest nor its table has changed, neither is parsed again.
    """
    content = read_regular(path, "the file", LARGEST)
    if (known := _READ.get(path.absolute())) is not None and known[0] == content and known[1].rows.current():
        again = copy.copy(known[1])
        again.__dict__.pop("_fields", None)  # widths of other files may have changed
        return again
    document = read(path)
    if not isinstance(document.data, dict):
        raise BadValue(f"{path} must be a mapping with at least name, table and modalities.")
    check_form(document)
    if document.faults:
        note_columns(document, path)
    document.raise_faults()
    found = Own(path, document)
    if len(_READ) >= KEPT:
        _READ.clear()
    _READ[path.absolute()] = content, found
    return found

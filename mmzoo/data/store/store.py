"""A prepared data set on disk: plain `.npy` arrays, an index, and meta.json, all or nothing. No torch, no numpy at import.

meta.json                  what it is: recipe, classes, splits, faults, library versions, and the hash of each other file
index.csv                  one line an item: id, label, where, row, and for each split the item's side and group
<modality>[.<part>].npy    one row an item
present.npy                (rows, modalities) bool, where some item lacks some modality
prepared.json              when and from where; not part of the content
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmzoo.data.store.home import store_folders
from mmzoo.data.store.meta import meta_fault, seal_fault
from mmzoo.errors import CorruptFile, unknown
from mmzoo.io.files import read_bytes, write_json
from mmzoo.io.json_file import unsealed
from mmzoo.io.schema import FLAG, TEXT, Form, each, items, misfit, optional, or_null

if TYPE_CHECKING:
    import numpy as np

META, INDEX, PRESENT, PREPARED = "meta.json", "index.csv", "present.npy", "prepared.json"
#: how the columns of a split are called in index.csv, and what stands there for an item that the split does not use
SPLIT, GROUP, UNUSED = "split:", "group:", "-"
SIDES = ("train", "holdout", "test", "", UNUSED)
_TABLE: Form = {
    "columns": each(items(TEXT)),
    "id": or_null(TEXT),
    "delimiter": or_null(TEXT),
    "tokenizers": each(TEXT),
    "quotes": optional(FLAG),
    "levels": optional(each(each(items(TEXT)))),
}


def array_name(modality: str, part: str = "") -> str:
    return f"{modality}.{part}.npy" if part else f"{modality}.npy"


@dataclass(frozen=True)
class Row:
    """One item of a store. row: its row in the arrays. sides: split -> train, holdout, test, "" (a hash decides) or "-" (not
    used). groups: split -> what that split keeps together, or ""."""

    id: str
    label: int
    where: str
    row: int
    sides: Mapping[str, str]
    groups: Mapping[str, str]


class DataStore:
    """An opened store. Opening reads meta.json alone; the arrays are mapped, never read whole.

    Raises CorruptFile, naming the file and the next step, for whatever is not as it was written. A file is hashed when its
    size and time differ from those noted at the last check, so that a change is always found and opening stays quick.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta = _read_meta(folder)

    def __repr__(self) -> str:
        return f"DataStore({str(self.folder)!r}, {self.meta['items']} items, {', '.join(self.modalities)})"

    def __len__(self) -> int:
        return int(self.meta["items"])

    @property
    def name(self) -> str:
        return str(self.meta["dataset"])

    @property
    def mini(self) -> bool:
        return bool(self.meta["mini"])

    @property
    def mark(self) -> str:
        """What follows the name of a generated set: `(mini)`, or `(mini, PRESET)`; empty for real data."""
        facts = self.meta.get("mini_facts")
        preset = facts.get("preset", "default") if isinstance(facts, dict) else "default"
        return "" if not self.mini else "(mini)" if preset == "default" else f"(mini, {preset})"

    @property
    def recipe_hash(self) -> str:
        return str(self.meta["recipe"]["hash"])

    @property
    def content(self) -> str:
        """A hash of everything that is stored."""
        return str(self.meta["content"])

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(m for m, _ in self.meta["recipe"]["fields"])

    @property
    def kinds(self) -> dict[str, str]:
        """modality -> vector, image, spectrogram, video or text"""
        return {m: self.meta["modalities"][m]["kind"] for m in self.modalities}

    @property
    def bayes(self) -> dict[str, float]:
        """Modalities, joined by "+" -> their Bayes accuracy, as the marker of generated data declares it; else nothing.

        A store may lack some modalities that were generated, or have them in another order.
        """
        facts = self.meta.get("mini_facts")
        told = facts.get("bayes") if isinstance(facts, dict) else None
        told = told if isinstance(told, dict) else {}
        found = {
            frozenset(name.split("+")): float(p)
            for name, p in told.items()
            if isinstance(p, (int, float)) and 0 <= p <= 1
        }
        subsets = (s for n in range(len(self.modalities)) for s in itertools.combinations(self.modalities, n + 1))
        return {"+".join(s): found[frozenset(s)] for s in subsets if frozenset(s) in found}

    def parts(self, modality: str) -> dict[str, tuple[tuple[int, ...], str]]:
        """part -> shape of one item and dtype"""
        arrays = self.meta["modalities"][modality]["arrays"]
        return {part: (tuple(a["shape"]), a["dtype"]) for part, a in arrays.items()}

    def field(self, modality: str) -> dict[str, Any]:
        """The values of the field that made the arrays of a modality."""
        return dict(dict(self.meta["recipe"]["fields"])[modality])

    def fitted(self, modality: str) -> dict[str, Any]:
        """The same with what was learned from the training samples: a vocabulary, a mean."""
        return dict(self.meta["modalities"][modality].get("fitted") or self.field(modality))

    @cached_property
    def table(self) -> dict[str, Any]:
        """How the table was read that it was made from: `columns` by modality, column of the `id`, `delimiter`,
        `quotes`, `levels`, words of columns by modality, and `tokenizers`, folders by modality. Empty where nothing is
        noted. No part of the content."""
        usual: dict[str, Any] = {
            "columns": {},
            "id": None,
            "delimiter": None,
            "tokenizers": {},
            "quotes": True,
            "levels": {},
        }
        try:
            noted = json.loads(read_bytes(self.folder / PREPARED))["table"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return usual
        return usual if misfit(noted, _TABLE) else {k: noted.get(k, v) for k, v in usual.items()}

    @cached_property
    def index(self) -> Sequence[Row]:
        self.check_file(INDEX)
        try:
            return list(_rows(self.folder / INDEX, self.meta))
        except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError) as error:
            raise _corrupt(self.folder, INDEX, f"{type(error).__name__}: {error}") from None

    def array(self, modality: str, part: str = "") -> np.ndarray:
        """(rows, *shape), mapped read-only."""
        shape, dtype = self.parts(modality)[part]
        return self._map(array_name(modality, part), (int(self.meta["rows"]), *shape), dtype)

    def present(self) -> np.ndarray | None:
        """(rows, modalities) bool, or None where every item has every modality."""
        if PRESENT not in self.meta["files"]:
            return None
        return self._map(PRESENT, (int(self.meta["rows"]), len(self.modalities)), "bool")

    def facts(self, modality: str) -> dict[str, Any]:
        """What an encoder has to know of a modality besides the form of its arrays."""
        return dict(self.meta["modalities"][modality].get("facts") or {})

    def split_name(self, wanted: str | None) -> str:
        """A split of this store, by default its first. Raises UnknownName with why it is not here."""
        if wanted is None:
            return str(next(iter(self.meta["splits"])))
        if wanted not in self.meta["splits"]:
            why = self.meta.get("unavailable", {}).get(wanted, "")
            raise unknown(f"split of the prepared {self.name}", wanted, self.meta["splits"], see=why)
        return wanted

    def verify(self, on_bytes: Any = lambda n: None) -> None:
        """Hash every file. Raises CorruptFile for the first that differs."""
        for name in self.meta["files"]:
            self._hashed(name, on_bytes)
        self.note_stamps()

    # ------------------------------------------------------------------ files
    def _map(self, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        import numpy as np

        self.check_file(name)
        try:
            mapped: np.ndarray = np.load(self.folder / name, mmap_mode="r", allow_pickle=False)
            same = mapped.shape == shape and mapped.dtype == np.dtype(dtype)
        except (OSError, ValueError, EOFError, SyntaxError, TypeError) as error:
            raise _corrupt(self.folder, name, str(error)) from None
        if not same:
            found = f"it holds {mapped.dtype} {mapped.shape}, while {META} says {dtype} {shape}"
            raise _corrupt(self.folder, name, found)
        return mapped

    def check_file(self, name: str) -> None:
        """Hash a file unless it is as it was at the last check, by size and time."""
        if name not in self.meta["files"]:
            raise _corrupt(self.folder, name, f"{META} does not list it")
        if self._stamps.get(name) != _stamp(self.folder / name):
            self._hashed(name)
            self._stamps[name] = _stamp(self.folder / name)
            self.note_stamps()

    def _hashed(self, name: str, on_bytes: Any = lambda n: None) -> None:
        wanted = self.meta["files"][name]
        path = self.folder / name
        try:
            size = path.stat().st_size
            if size != wanted["bytes"]:
                raise _corrupt(self.folder, name, f"it has {size} bytes, not {wanted['bytes']}")
            if sha256_of(path, on_bytes) != wanted["sha256"]:
                raise _corrupt(self.folder, name, "its content is not what was stored")
        except OSError as error:
            raise _corrupt(self.folder, name, error.strerror or str(error)) from None

    @cached_property
    def _stamps(self) -> dict[str, Any]:
        try:
            found = json.loads(read_bytes(self.folder / PREPARED))["stamps"]
            return dict(found) if isinstance(found, dict) else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return {}

    def note_stamps(self) -> None:
        """Remember that the files are as they should be. A folder that cannot be written to is hashed every time."""
        self._note("stamps", {name: _stamp(self.folder / name) for name in self.meta["files"]})

    def note_table(self, table: Mapping[str, Any] | None) -> None:
        """Remember how the table is read, see `table`; None: it was made from none."""
        if table is not None and table != self.table:
            self._note("table", table)
            del self.table

    def _note(self, key: str, value: Any) -> None:
        try:
            noted = json.loads(read_bytes(self.folder / PREPARED))
        except (OSError, ValueError, RecursionError):
            noted = {}
        with contextlib.suppress(OSError):
            write_json(self.folder / PREPARED, {**(noted if isinstance(noted, dict) else {}), key: value})


def find_stores(name: str, *, mini: bool = False) -> Iterator[DataStore]:
    """The stores of a data set that can be opened, and only those."""
    for folder in store_folders(name, mini=mini):
        try:
            yield DataStore(folder)
        except CorruptFile:
            continue


def sha256_of(path: Path, on_bytes: Any = lambda n: None) -> str:
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            total.update(block)
            on_bytes(len(block))
    return total.hexdigest()


def index_bytes(rows: Sequence[Row], splits: Sequence[str]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_columns(splits))
    for r in rows:
        of_splits = [value for s in splits for value in (r.sides[s], r.groups[s])]
        writer.writerow([r.id, r.label, r.where, r.row, *of_splits])
    return text.getvalue().encode("utf-8")


def _columns(splits: Iterable[str]) -> list[str]:
    return ["id", "label", "where", "row", *(prefix + s for s in splits for prefix in (SPLIT, GROUP))]


def _stamp(path: Path) -> list[int]:
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]


def _rows(path: Path, meta: Mapping[str, Any]) -> Iterator[Row]:
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        if reader.fieldnames != _columns(meta["splits"]):
            raise ValueError(f"its columns are {reader.fieldnames}, not {_columns(meta['splits'])}")
        seen = 0
        for line in reader:
            label, row = int(line["label"]), int(line["row"])
            sides = {s: line[SPLIT + s] for s in meta["splits"]}
            if not (
                0 <= label < len(meta["classes"]) and 0 <= row < meta["rows"] and set(sides.values()) <= set(SIDES)
            ):
                raise ValueError(f"line {reader.line_num} has a value out of range")
            yield Row(line["id"], label, line["where"], row, sides, {s: line[GROUP + s] for s in meta["splits"]})
            seen += 1
        if seen != meta["items"]:
            raise ValueError(f"it has {seen} items, not {meta['items']}")


def _read_meta(folder: Path) -> dict[str, Any]:
    try:
        meta = json.loads(read_bytes(folder / META))
    except FileNotFoundError:
        raise CorruptFile(f"there is no prepared data in {folder}: {META} is missing.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _corrupt(folder, META, f"{type(error).__name__}: {error}") from None
    if fault := meta_fault(meta) or seal_fault(meta):
        raise _corrupt(folder, META, fault)
    return unsealed(meta)


def _corrupt(folder: Path, name: str, why: str) -> CorruptFile:
    return CorruptFile(
        f"{folder / name} cannot be used: {why}. Remove the folder {folder} and prepare the data again: mmzoo data prepare"
    )

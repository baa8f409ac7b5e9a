"""Rows taken apart into the numbers of each and the shapes that many of them share. No torch at import.

A shape is a part of a row with holes in place of what differs from run to run. It is there once, whatever the number of rows: a row
that is put together again has its keys, its texts and the parts of its spec in common with all others.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from sys import intern
from typing import Any, Literal, get_args

#: how much of a row is wanted. scores: what the first tables, lists and plans read; tables: also each modality, the last epoch and the
#: record of training; all: also `metrics.holdout`, which chooses an epoch, and which no table or chart has. A linear floor is always whole
Parts = Literal["scores", "tables", "all"]
_LATER = (frozenset(("modalities", "shapley", "last", "gap", "distance")), frozenset(("holdout",)))
_RECORD = "record"
#: holes of a shape: for a float, for anything else. A list of one value holds that value, and a dict the same key by key.
_FLOAT, _OTHER = None, True
#: parts that are equal in all runs of a configuration, but for the seed
_FIXED = ("spec", "environment", "cost")
#: parts with texts of their own in each run
_OWN = ("run_id", "reason", "timing", "hashes", "teachers")
_TEXT = json.JSONEncoder(separators=(",", ":"))


@dataclass(frozen=True)
class Packed:
    """A row taken apart.

    Args:
        shapes: The keys of the shapes of its parts, in the order of `Parts`.
        floats: All floats of the row, part by part, 8 bytes each.
        others: What else differs from run to run, as JSON.
    """

    shapes: str
    floats: bytes
    others: str


class Packer:
    """Takes rows apart, and puts them together again. Rows of one packer have equal parts in common: they are to be read only."""

    def __init__(self) -> None:
        self._shapes: dict[str, Any] = {}
        self._seen: dict[str, Any] = {}
        #: shapes that were not there before, as JSON by key
        self.new: dict[str, str] = {}

    def pack(self, row: Mapping[str, Any]) -> Packed:
        """Take a row of a store apart. Raises RecursionError for one that is nested too deeply."""
        floats, others = list[float](), list[Any]()
        keys = [self._key(_shape(part, floats, others)) for part in _parts(row)]
        return Packed(" ".join(keys), struct.pack(f"<{len(floats)}d", *floats), _TEXT.encode(others))

    def unpack(self, packed: Packed, parts: Parts = "all") -> dict[str, Any]:
        """The row that was packed, or parts of it. Raises KeyError for a shape that is not known."""
        floats = iter(struct.unpack(f"<{len(packed.floats) // 8}d", packed.floats)).__next__
        others = iter(json.loads(packed.others)).__next__
        first, *later = packed.shapes.split()[: get_args(Parts).index(parts) + 1]
        row: dict[str, Any] = _filled(self._shapes[first], floats, others)
        for key in later:
            more = _filled(self._shapes[key], floats, others)
            row["metrics"] |= more.pop("metrics")
            row |= more
        return row

    def unknown(self, packed: Packed) -> list[str]:
        """The keys of the shapes that must be learnt before the row is unpacked."""
        return [key for key in packed.shapes.split() if key not in self._shapes]

    def learn(self, key: str, text: str) -> None:
        """Take a shape that was kept. Raises ValueError where the text is not that of the key."""
        if key_of(text) != key:
            raise ValueError("not the shape of its key")
        self._shapes[key] = self._shared(json.loads(text))

    def _key(self, shape: Any) -> str:
        text = _TEXT.encode(shape)
        key = key_of(text)
        if key not in self._shapes:
            self._shapes[key] = self._shared(shape)
            self.new[key] = text
        return key

    def _shared(self, shape: Any) -> Any:
        """A shape of which the keys and values are one object with equal ones of other shapes."""
        if type(shape) is dict:
            return {intern(k): self._shared(v) for k, v in shape.items()}
        return [self._once(shape[0])] if type(shape) is list else shape

    def _once(self, value: Any) -> Any:
        if type(value) is dict:
            value = {intern(k): self._once(v) for k, v in value.items()}
        return self._seen.setdefault(repr(value), value)


def key_of(text: str) -> str:
    """The key of a shape, by its JSON."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _parts(row: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """The parts of a row, in the order of `Parts`."""
    if row["spec"].get("floor"):
        return [row]
    metrics, found = row["metrics"], []
    for names in _LATER:
        found.append({"metrics": {k: v for k, v in metrics.items() if k in names}})
        metrics = {k: v for k, v in metrics.items() if k not in names}
    if _RECORD in row:
        found[0][_RECORD] = row[_RECORD]
    return [{k: metrics if k == "metrics" else v for k, v in row.items() if k != _RECORD}, *found]


def _shape(part: Mapping[str, Any], floats: list[float], others: list[Any]) -> Any:
    """The shape of a part of a row; what differs from run to run is put into `floats` and `others`."""
    shape: dict[str, Any] = {}
    for name, value in part.items():
        if name not in _FIXED:
            shape |= _holes({name: value}, floats, others, texts=name in _OWN)
        elif "seed" in value:
            others.append(value["seed"])
            shape[name] = {k: _OTHER if k == "seed" else [v] for k, v in value.items()}
        else:
            shape[name] = [value]
    return shape


def _holes(values: Mapping[str, Any], floats: list[float], others: list[Any], *, texts: bool) -> dict[str, Any]:
    """The same of a dict within a part. texts: whether its texts differ from run to run."""
    shape: dict[str, Any] = {}
    for key, value in values.items():
        kind = type(value)
        if kind is float:
            floats.append(value)
            shape[key] = _FLOAT
        elif kind is dict:
            shape[key] = _holes(value, floats, others, texts=texts)
        elif kind is int or (kind is str and texts) or (kind is list and not all(type(v) is str for v in value)):
            others.append(value)
            shape[key] = _OTHER
        else:
            shape[key] = [value]
    return shape


def _filled(shape: Any, floats: Callable[[], float], others: Callable[[], Any]) -> Any:
    """What a shape was made of, from the values in their order. Rows are read by the ten thousand: a call a dict, none a value."""
    return {
        k: floats()
        if s is _FLOAT
        else others()
        if s is _OTHER
        else _filled(s, floats, others)
        if type(s) is dict
        else s[0]
        for k, s in shape.items()
    }

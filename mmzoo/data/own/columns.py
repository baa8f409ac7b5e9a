"""Which columns of a table a manifest names: one by one, by pattern, or from one to another. No torch, no numpy."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from mmzoo.data.own.checks import written
from mmzoo.data.own.reading import DELIMITERS, Rows
from mmzoo.errors import BadValue, MmzooError, near_miss, short
from mmzoo.io.yaml_file import Document, Key

#: columns in a message, and faults of an entry, before the rest is only counted or left
NAMED = 20


class Columns:
    """The columns of a table by their names. named: what a manifest names, as it is written, which is no other's slip."""

    def __init__(self, rows: Rows, named: Collection[str] = ()) -> None:
        self._rows, self._named = rows, named
        self.header, self.places, self.twice = rows.header, rows.places, rows.twice
        self.table = rows.path.name

    def one(self, name: str) -> str:
        """A column by its name. Raises BadValue where it is not there, or there twice."""
        if name in self.twice:
            raise BadValue(f"{self.table} has the column {name!r} more than once. Give each a name of its own.")
        if name not in self.places:
            raise BadValue(
                f"{self.table} has no column {short(name)}.{near_miss(name, self._free)} It has {self.listed()}. {self._rows.parted()}"
            )
        return name

    def several(self, given: Sequence[str], without: Collection[str]) -> list[str]:
        """The columns of a list of names, patterns (`gene*`) and spans (`x0..x63`), in order and each once.

        Args:
            without: Columns that no pattern or span means: those of the label, the id, the split and the group.

        Raises:
            BadValue: One is not there, or nothing fits a pattern.
        """
        found: dict[str, None] = {}
        for text in given:
            found.update(dict.fromkeys(self._meant(text, without)))
        return list(found)

    def noted(
        self, document: Document, key: Key, given: Sequence[str], several: bool, without: Collection[str]
    ) -> bool:
        """Note each name of an entry that means no column. several: whether patterns and spans are meant as such. Returns whether
        there is one."""
        before = len(document.faults)
        for text in dict.fromkeys(given):
            if len(document.faults) - before >= NAMED:
                break
            with document.faults_at(key):
                if several:
                    self._meant(text, without)
                else:
                    self.one(text)
        return len(document.faults) > before

    def _meant(self, text: str, without: Collection[str]) -> list[str]:
        if text in self.places:
            return [self.one(text)]
        first, dots, last = text.partition("..")
        if dots and first and last:
            a, b = self.places[self.one(first.strip())], self.places[self.one(last.strip())]
            if a > b:
                raise BadValue(f"{short(text)}: {first} stands after {last} in {self.table}")
            return [self.one(c) for c in self.header[a : b + 1] if c and c not in without]
        if "*" in text or "?" in text:
            fits = re.compile(fnmatch.translate(text)).match
            named = [self.one(c) for c in self.places if fits(c) and c not in without]
            if named:
                return named
            raise BadValue(
                f"no column of {self.table} fits the pattern {short(text)}. It has {self.listed()}. {self._rows.parted()}"
            )
        return [self.one(text)]

    @cached_property
    def _free(self) -> list[str]:
        """The columns that no entry of the manifest means."""
        alone = frozenset(self._named)
        wide = [text for text in alone if text not in self.places and (".." in text or "*" in text or "?" in text)]
        return [c for c in self.places if c and c not in alone and not any(_means(t, c, self.places) for t in wide)]

    def listed(self) -> str:
        """The columns in a message."""
        names = [short(name)[1:-1] for name in list(self.places)[:NAMED]]
        more = f" and {len(self.places) - NAMED} more" if len(self.places) > NAMED else ""
        return ", ".join(names) + more


def refuse_outside(document: Document, path: Path) -> None:
    """A table lies where the manifest or the root is, as media do: a manifest may come from somebody else. Raises BadValue."""
    data = document.data
    allowed = (path.parent.resolve(), (path.parent / data.get("root", ".")).absolute().resolve())
    try:
        table = (path.parent / data["table"]).resolve()
    except (OSError, ValueError, RuntimeError):  # a NUL, or links in a circle: reading says so
        return
    if not any(table.is_relative_to(folder) for folder in allowed):
        document.fault(("table",), f"leads out of {allowed[-1]}: put the table beside the manifest, or set root")
        document.raise_faults()


def note_columns(document: Document, path: Path) -> None:
    """Report missing columns too when the manifest has other faults, so that the user sees all of them at once."""
    data = document.data
    if not all(isinstance(data.get(key, "."), str) for key in ("table", "root")) or "table" not in data:
        return
    refuse_outside(document, path)
    entries = dict(_entries(document))
    named = [text for names, _ in entries.values() for text in names]
    mark = data.get("delimiter")
    try:
        rows = Rows(
            (path.parent / data["table"]).absolute(),
            mark if mark in tuple(DELIMITERS) else None,
            quotes=data.get("quotes") is not False,
            likely=named,
        )
        columns = Columns(rows, named)
    except MmzooError:  # told once the form is right
        return
    for key, (names, several) in entries.items():
        columns.noted(document, key, names, several, ())


def _entries(document: Document) -> Iterator[tuple[Key, tuple[list[str], bool]]]:
    """Entry -> the columns that it names, as far as its form is sound, and whether patterns and spans are meant as such."""
    data = document.data
    for part in ("id", "label", "split", "group"):
        if part in data and _is_text(data[part]):
            yield (part,), ([document.written.get((part,), str(data[part]))], False)
    modalities = data.get("modalities")
    for m, body in modalities.items() if isinstance(modalities, dict) else ():
        key = ("modalities", m)
        if not isinstance(body, dict) or "columns" not in body:
            own = body.get("column", m) if isinstance(body, dict) else m
            names = [document.written.get((*key, "column"), str(own))] if _is_text(own) else []
            pair = body.get("pair") if isinstance(body, dict) else None
            yield key, (names + ([str(pair)] if _is_text(pair) else []), False)
            continue
        lists = [(k, body[k]) for k in ("columns", "categories") if k in body]
        sound = [(k, v) for k, v in lists if all(map(_is_text, v if isinstance(v, list) else [v]))]
        yield key, ([name for k, v in sound for name in written(document, (*key, k), v)], True)


def _is_text(value: object) -> bool:
    return isinstance(value, (str, int, float)) and value != ""


def _means(text: str, column: str, places: Mapping[str, int]) -> bool:
    """Whether a pattern or a span means a column. A span of which an end is missing, as x0 in `x0..x9`, means the columns with
    numbers between."""
    first, dots, last = (part.strip() for part in text.partition(".."))
    if not (dots and first and last):
        return fnmatch.fnmatchcase(column, text)
    if first in places and last in places:
        return places[first] <= places[column] <= places[last]
    a, b, here = (re.fullmatch(r"(.*?)(\d{1,9})", name) for name in (first, last, column))
    if a is None or b is None or here is None or len({a[1], b[1], here[1]}) > 1:
        return column in (first, last)
    return int(a[2]) <= int(here[2]) <= int(b[2])

"""Which columns of a table a manifest names: one by one, by pattern, or from one to another. No torch, no numpy."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Sequence

from mmzoo.data.own.reading import Rows
from mmzoo.errors import BadValue, near_miss, short

#: columns in a message before the rest is only counted
NAMED = 20


class Columns:
    """The columns of a table by their names."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.header, self.places, self.twice = rows.header, rows.places, rows.twice
        self.table = rows.path.name

    def one(self, name: str) -> str:
        """A column by its name. Raises BadValue where it is not there, or there twice."""
        if name in self.twice:
            raise BadValue(f"{self.table} has the column {name!r} more than once. Give each a name of its own.")
        if name not in self.places:
            raise BadValue(
                f"{self.table} has no column {short(name)}.{near_miss(name, self.places)} It has {self.listed()}. {self._rows.parted()}"
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

    def listed(self) -> str:
        """The columns in a message."""
        names = [short(name)[1:-1] for name in list(self.places)[:NAMED]]
        more = f" and {len(self.places) - NAMED} more" if len(self.places) > NAMED else ""
        return ", ".join(names) + more

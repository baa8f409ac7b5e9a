"""All entries, found by kind and name."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from mmzoo.errors import UnknownName
from mmzoo.registry.elsewhere import hint
from mmzoo.registry.entries import KINDS, SINGULAR, Entry


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
            close = hint(kind, name, [*self._entries[kind], *self._also[kind]])
            raise UnknownName(f"no {SINGULAR[kind]} {name!r}.{close} List all: mmzoo list {kind}")
        return entry

    def check(self, entry: Entry) -> None:
        """Raise UnknownName or BadValue when an entry names an entry or a parameter that is not there."""
        extra = entry.extra
        related = [
            ("strategies", extra.get("strategy"), extra.get("args", {})),
            ("heads", extra.get("head"), extra.get("head_args", {})),
        ]
        related += [("strategies", name, params) for name, params in extra.get("then", {}).items()]
        related += [("encoders", c["name"], c.get("params", {})) for c in extra.get("encoders", {}).values()]
        for kind, name, params in related:
            if name is not None:
                self.get(kind, name, entry.package).check_params(params)

    def parts(self, entry: Entry) -> list[Entry]:
        """The entry itself and, of a method, its strategy, its head, and the strategies that act after training."""
        if entry.kind != "methods":
            return [entry]
        return [
            entry,
            self.get("strategies", entry.extra["strategy"], entry.package),
            self.get("heads", entry.extra["head"], entry.package),
            *(self.get("strategies", name, entry.package) for name in entry.extra.get("then", {})),
        ]

    def family(self, entry: Entry) -> str | None:
        """What a method acts on: its own word or that of its strategy; heads are architecture."""
        found = (e.extra.get("family", "architecture" if e.kind == "heads" else None) for e in self.parts(entry))
        return next((str(family) for family in found if family), None)

    def links(self, entry: Entry) -> dict[str, str]:
        """Where paper and code are: its own addresses, else those of its strategy, else those of its head."""
        return next((dict(e.links) for e in self.parts(entry) if e.links), {})

    def name_of(self, entry: Entry) -> str:
        """The shortest name that `get` answers with this entry."""
        return entry.name if self._entries[entry.kind].get(entry.name) is entry else entry.qualified


def _local(kind: str, name: str) -> Entry | None:
    """The entry of a class in a file, which is loaded for that; None where the name means none of this kind."""
    if ".py:" not in name:
        return None
    from mmzoo.registry import user_classes

    return user_classes.entry(kind, name)

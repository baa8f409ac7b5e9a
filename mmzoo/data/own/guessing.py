"""A first manifest for a table, guessed from its header and cells. No torch, no numpy at import."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from mmzoo.data.own import cells
from mmzoo.data.own.reading import Rows
from mmzoo.data.own.roles import Roles, comments, roles
from mmzoo.data.own.seen_columns import Column
from mmzoo.errors import BadValue

#: rows that are looked at
LOOKED_AT = 500
#: columns of numbers side by side that may well be steps in time
_LIKE_STEPS = 20
#: words that YAML reads as something else
_OTHERWISE = frozenset(("null", "true", "false", "yes", "no", "on", "off", "y", "n"))


def guessed(table: Path) -> str:
    """A commented manifest for a table, as YAML. Raises BadValue where the table cannot be read, or nothing tells the label."""
    rows = Rows(table)
    some = list(itertools.islice(rows, LOOKED_AT))
    if not some:
        raise BadValue(f"{table} has no rows below its header.")
    columns = []
    for name, at in rows.places.items():
        found = [row.cells[at] if at < len(row.cells) else "" for row in some]
        columns.append(Column(name, [c for c in found if not cells.missing(c)], len(some), table.parent, found))
    parts = roles(columns, table.name)
    without = parts.left_out()
    rest = [c for c in columns if c.name not in without]
    lines = [
        f"# guessed from the first {len(some):,} rows of {table.name}: correct what is wrong, then",
        "# mmzoo data check THIS_FILE",
        f"name: {_identifier(table.name.split('.')[0])}",
        f"table: {_written(table.name)}",
        *_parts(parts, columns),
    ]
    return "\n".join([*lines, "modalities:", *_modalities(rest), *_passed_over(rest, parts), ""])


def _parts(found: Roles, columns: Sequence[Column]) -> Iterator[str]:
    """The parts with what a reader should look at; the classes of the label as a comment."""
    said = comments(found, {c.name: _written(c.name) for c in columns})
    for part in ("id", "split", "group"):
        if part in found.parts:
            yield f"{part}: {_written(found.parts[part])}"
            yield from said.get(part, [])
    name = found.parts["label"]
    if name != "label":  # a column of that name needs no word
        yield f"label: {_written(name)}"
    classes = Counter(next(c for c in columns if c.name == name).values)
    shown = ", ".join(f"{_written(value)} {n}" for value, n in classes.most_common(8))
    yield f"# classes: {shown}{' ...' if len(classes) > 8 else ''}"
    yield from said.get("label", [])


def _modalities(columns: Sequence[Column]) -> Iterator[str]:
    taken: set[str] = set()

    def named(text: str) -> str:
        name = base = _identifier(text)
        number = 2
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        taken.add(name)
        return name

    numbers = [c for c in columns if c.kind == "number"]
    for prefix, several in _grouped(numbers).items():
        fill = ", fill: mean" if any(c.lacks for c in several) else ""
        yield f"  {named(prefix)}: {{kind: vector, columns: [{', '.join(_spans(several, columns))}]{fill}}}"
        if len(several) >= _LIKE_STEPS:
            yield "  # are these columns steps in time? then kind: series"
    if words := [c for c in columns if c.kind == "word"]:
        yield f"  {named('categories')}: {{kind: category, columns: [{', '.join(_written(c.name) for c in words)}]}}"
    for c in columns:
        if c.kind in ("text", "image", "audio", "video", "vector", "series"):
            yield f"  {named(c.name)}: {{kind: {c.kind}, column: {_written(c.name)}}}"
    if len(taken) == 1:
        yield "  # one modality only: give two or more, such as columns that were measured by different instruments"
    if not taken:
        yield "  {}  # no column looks like content: name them by hand"


def _grouped(columns: Sequence[Column]) -> dict[str, list[Column]]:
    """Columns of numbers by what their names begin with, where that parts all of them in groups; else together."""
    groups: dict[str, list[Column]] = {}
    for c in columns:
        groups.setdefault(re.split(r"[\d_.\s-]", c.name, maxsplit=1)[0] or "numbers", []).append(c)
    parted = 2 <= len(groups) <= 8 and all(len(g) > 1 for g in groups.values())
    return groups if parted else {"numbers": list(columns)} if columns else {}


def _spans(some: Sequence[Column], columns: Sequence[Column]) -> Iterator[str]:
    """The names of columns, three or more that stand side by side as a span."""
    order = {c.name: i for i, c in enumerate(columns)}
    for _, run in itertools.groupby(enumerate(some), lambda pair: order[pair[1].name] - pair[0]):
        names = [c.name for _, c in run]
        plain = all(".." not in n for n in (names[0], names[-1]))
        yield from [_written(f"{names[0]}..{names[-1]}")] if len(names) > 2 and plain else map(_written, names)


def _passed_over(columns: Sequence[Column], parts: Roles) -> Iterator[str]:
    """A comment on what is left out."""
    for why, left in parts.taken.items():
        if left:
            names = [_written(name) for name in left]
            yield f"# left out, {why}: {', '.join(names[:20])}{' ...' if len(names) > 20 else ''}"
    for kind, why in (("id", "a different name in every row"), ("empty", "no content")):
        if names := [_written(c.name) for c in columns if c.kind == kind]:
            yield f"# left out, {why}: {', '.join(names[:20])}{' ...' if len(names) > 20 else ''}"


def _written(name: str) -> str:
    """A name as YAML reads it back: plain where it can be."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*(\.\.[A-Za-z_][A-Za-z0-9_]*)?|[A-Za-z_][\w-]*\.(csv|tsv|txt)", name)
    return name if plain and name.lower() not in _OTHERWISE else json.dumps(name, ensure_ascii=False)


def _identifier(text: str) -> str:
    from mmzoo.core.head import name_fault

    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:60] or "data"
    name = name if name[0].isalpha() else f"x_{name}"
    return f"{name}_x" if name in ("present", "index") or name_fault(name) else name

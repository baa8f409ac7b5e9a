"""Which column of a table is the label, the id, the split or the group, by names first and cells second. No torch, no numpy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mmzoo.data.own import cells
from mmzoo.data.own.seen_columns import MOST_WORDS, ROWS_A_WORD, Column
from mmzoo.data.own.table import SIDES
from mmzoo.errors import BadValue, near_miss, short

#: how a column is called that has a part of its own, the clearest name first
_NAMES: Mapping[str, tuple[str, ...]] = {
    "label": (
        *("label", "labels", "class", "classes", "target", "targets", "category", "emotion", "sentiment", "outcome"),
        *("diagnosis", "species", "genre", "intent", "topic", "activity", "gesture", "y"),
    ),
    "split": ("split", "splits", "fold", "folds", "subset", "partition", "set"),
    "id": ("id", "uid", "uuid", "key", "item", "sample", "index", "row"),
    "group": (
        *("group", "speaker", "subject", "participant", "patient", "person", "actor", "session", "recording"),
        *("dialogue", "dialog", "conversation", "household", "user", "owner", "author"),
    ),
}
#: names of columns that are the id where each row has another one, after those of `id`
_OF_ROWS = ("participant", "subject", "patient", "person", "session", "recording", "file", "filename", "name", "clip")
#: words that change nothing about what a column is called after: the label in `true_label`, the group in `speaker_id`
_BESIDE = frozenset(
    ("id", "ids", "name", "no", "nr", "num", "number", "code", "idx", "true", "gold", "final", "column")
)
#: groups that a split by groups needs
LEAST_GROUPS = 4
#: a column of numbers may be the label with at most so many different ones in at least so many rows
_MOST_NUMBERS, _LEAST_ROWS = 10, 40
#: columns in a comment
_SHOWN = 8


@dataclass
class Roles:
    """Parts and their columns. taken: what is no content, with the reason. sure: whether a name says which is the label;
    others: columns that could be the label as well; split_odd: a value of the split that none of the sides is called; id_odd: whether
    rows share an id."""

    parts: dict[str, str]
    taken: dict[str, list[str]] = field(default_factory=dict)
    sure: bool = True
    others: tuple[str, ...] = ()
    split_odd: str = ""
    id_odd: bool = False

    def left_out(self) -> set[str]:
        """Columns that hold no content."""
        return {*self.parts.values(), *(name for names in self.taken.values() for name in names)}


def roles(columns: Sequence[Column], table: str) -> Roles:
    """The parts of a table. Raises BadValue where nothing tells which column is the label."""
    splits = [c for c in columns if _called(c.name, "split")]
    split = next((c for c in splits if _is_split(c)), None)
    ids, groups = list(_ids(columns)), list(_groups(columns, splits))
    named = [c for c in _by_name(columns, "label") if _may_be_label(c)]
    apart = {"id", "group", *(c.name for c in (*splits, *ids, *groups))}
    few = [c for c in columns if _is_few(c) and c.name not in apart and c not in named]
    label = named[0] if named else few[-1] if few else None
    if not named and any(c.name.lower() == "label" for c in columns):
        raise BadValue(_unclear(columns, table))
    if label is None:
        numbers = [c for c in columns if _is_few_numbers(c) and c.name not in apart]
        if not numbers:
            raise BadValue(_unclear(columns, table))
        label, few = numbers[-1], numbers
    parts = {"label": label.name}
    if ids and ids[0] is not label:
        parts["id"] = ids[0].name
    if split is not None:
        parts["split"] = split.name
    found = Roles(parts, sure=bool(named))
    for name in ("id", "group"):  # what a manifest reads as such wherever it is there
        if name not in parts and any(c.name == name and c is not label for c in columns):
            parts[name] = name
    _place_groups(found, [c for c in groups if c.name not in parts.values()])
    found.taken["another division of the rows"] = [c.name for c in splits if c.name not in parts.values()]
    without = found.left_out()
    coded = [c for c in columns if c.name not in without and (c in named or _is_few(c) or _is_few_numbers(c))]
    found.taken["tells the label by itself"] = [c.name for c in coded if _tells(c, label)]
    found.others = tuple(c.name for c in (*named, *few) if c is not label)
    odd = [v for v in split.values if v.lower() not in SIDES] if split is not None else []
    found.split_odd = odd[0] if odd else ""
    found.id_odd = any(c.name == parts.get("id") and len(set(c.values)) < c.rows for c in columns)
    return found


def comments(found: Roles, written: Mapping[str, str]) -> dict[str, list[str]]:
    """Part -> lines on what a reader of the manifest should look at. written: columns as YAML has them."""
    said: dict[str, list[str]] = {}
    others = ", ".join(written[name] for name in found.others[:_SHOWN])
    others += " ..." if len(found.others) > _SHOWN else ""
    if not found.sure:
        said["label"] = [f"# CHECK the label: no name tells it.{f' It may also be: {others}' if others else ''}"]
    elif others:
        said["label"] = [f"# check the label: it may also be: {others}"]
    if found.split_odd:
        near = near_miss(found.split_odd, SIDES)
        said["split"] = [f"# the split holds {short(found.split_odd)}, which is none of train, val, test.{near}"]
    if found.id_odd:
        said["id"] = [
            "# CHECK the id: not every row has another one. If it names persons, rename the column and give it as group"
        ]
    return said


# ---------------------------------------------------------------------------------------------- by name
def _words(name: str) -> list[str]:
    """The words of a name in lower case: of `SpeakerID_2` speaker, id, 2."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return [w for w in re.split(r"[^a-z0-9]+", apart.lower()) if w]


def _rank(name: str, names: Sequence[str]) -> int | None:
    """Place of a column among names: as it is written, else by its one word beside those that change nothing."""
    if name.lower() in names:
        return names.index(name.lower())
    words = [w for w in _words(name) if w not in _BESIDE and not w.isdigit()]
    places = [names.index(w) for w in words if w in names]
    return len(names) + min(places) if places and len(places) == len(words) else None


def _by_name(columns: Sequence[Column], part: str, names: Sequence[str] = ()) -> list[Column]:
    """Columns that are called like a part, the clearest name first."""
    ranks = {c.name: _rank(c.name, names or _NAMES[part]) for c in columns}
    return sorted((c for c in columns if ranks[c.name] is not None), key=lambda c: ranks[c.name] or 0)


def _called(name: str, part: str) -> bool:
    return _rank(name, _NAMES[part]) is not None


def _ids(columns: Sequence[Column]) -> Iterator[Column]:
    """Columns with another cell in every row that are called so."""
    alone = [c for c in columns if len(set(c.values)) == c.rows]
    exact = [
        c for c in alone if c.name.lower() in _NAMES["id"][:3] or _words(c.name)[-1:] in (["id"], ["uid"], ["uuid"])
    ]
    names = (*_NAMES["id"], *_OF_ROWS)
    named = [c for c in _by_name(alone, "id", names) if c.kind == "id" or _are_whole(c)]
    yield from dict.fromkeys(
        c for c in (*_by_name(exact, "id"), *exact, *named) if c.kind not in ("image", "audio", "video", "series")
    )


def _groups(columns: Sequence[Column], splits: Sequence[Column]) -> Iterator[Column]:
    """Columns that say what rows belong together."""
    for c in _by_name(columns, "group"):
        one_word = c.kind == "word" or (c.kind == "text" and all(len(v.split()) <= 2 for v in c.values))
        if c not in splits and 2 <= len(set(c.values)) < len(c.values) and (one_word or _are_whole(c)):
            yield c


def _place_groups(found: Roles, groups: Sequence[Column]) -> None:
    enough = [c for c in groups if c.name.lower() == "group" or len(set(c.values)) >= LEAST_GROUPS]
    if enough and "group" not in found.parts:
        found.parts["group"] = enough[0].name
    rest = [c.name for c in groups if c.name != found.parts.get("group")]
    found.taken["says which rows belong together"] = rest


# ---------------------------------------------------------------------------------------------- by cells
def _are_whole(c: Column) -> bool:
    return bool(c.values) and all((x := cells.as_number(v)) is not None and x == round(x) for v in c.values)


def _is_split(c: Column) -> bool:
    """Whether most cells say on which side a row is. A column `split` is read as such whatever it holds."""
    of_sides = sum(v.lower() in SIDES for v in c.values)
    return bool(c.values) and (c.name == "split" or 2 * of_sides > len(c.values))


def _may_be_label(c: Column) -> bool:
    """Whether a column that is called like a label can be one."""
    different = len(set(c.values))
    if not 2 <= different < c.rows:
        return False
    return c.name.lower() in _NAMES["label"][:6] or _is_few(c) or _is_few_numbers(c) or 2 * different <= c.rows


def _is_few(c: Column) -> bool:
    return c.kind == "word" and len(set(c.values)) > 1


def _is_few_numbers(c: Column) -> bool:
    return c.kind == "number" and 2 <= len(set(c.values)) <= _MOST_NUMBERS and len(c.values) >= _LEAST_ROWS


def _tells(c: Column, label: Column) -> bool:
    """Whether each value of a column goes with one label only, in rows enough that it is no chance."""
    if c.name == label.name or c.cells is None or label.cells is None:
        return False
    goes_with: dict[str, str] = {}
    for a, b in zip(c.cells, label.cells):
        if not cells.missing(a) and not cells.missing(b) and goes_with.setdefault(a, b) != b:
            return False
    few = len(goes_with) <= MOST_WORDS and len(goes_with) * ROWS_A_WORD <= len(c.values)
    return few and {*goes_with.values()} == {*label.values}


def _unclear(columns: Sequence[Column], table: str) -> str:
    """In words, why no column can be taken for the label, and what to do."""
    called = next((c for c in columns if c.name.lower() in _NAMES["label"]), None)
    if called is not None and len(set(called.values)) < 2:
        only = f"only the class {short(called.values[0])}" if called.values else "no class"
        return (
            f"the column {called.name} of {table} holds {only} in what was looked at, the first {called.rows:,} "
            f"row{'' if called.rows == 1 else 's'}. A label has two classes or more: add samples of the others, or mix the rows."
        )
    if called is not None:
        return (
            f"the column {called.name} of {table} has another value in every row, so it cannot be the label. With several "
            "samples of each class, run this again; or write the manifest by hand: mmzoo/docs/own_data.md has an example."
        )
    return (
        f"it is unclear which column of {table} is the label ({', '.join(c.name for c in columns[:20])}). Call it label, "
        "or write the manifest by hand: mmzoo/docs/own_data.md has an example."
    )

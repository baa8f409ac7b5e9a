"""What a data set in its published layout consists of: items, where their media lie, and what is wrong. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mmzoo.data.sources.field import Field
from mmzoo.errors import undefined

#: kind of a fault -> what it means; reports count by kind
FAULTS = {
    "annotation": "a line of an annotation file that does not follow its form",
    "collision": "two samples with one id",
    "duplicate": "media identical to those of another sample, byte for byte",
    "mislabelled": "a label that two places of the data set give differently",
    "missing": "a file that is not there",
    "lfs_pointer": "a Git LFS pointer in place of the file",
    "outside": "a path that leads out of the data's folder",
    "empty": "a file without content",
    "silent": "a recording without sound",
    "short": "fewer frames or samples than asked for",
    "broken": "a file that cannot be decoded",
    "value": "a value that is not finite or has the wrong width",
    "range": "values that do not fit the range they are stored in, so that content is lost",
    "untrained": "a class without a training sample",
}


@dataclass(frozen=True, slots=True)
class File:
    """A media file, or a stretch of it: [start, end) in frames of the file, None for its beginning or end."""

    path: Path
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True, slots=True)
class Files:
    """Several files that make up one input in this order, e.g. the frames of a clip."""

    paths: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """A text, or a pair of texts."""

    text: str
    pair: str | None = None


@dataclass(frozen=True, slots=True)
class Values:
    """A vector of numbers, given as they stand in a table."""

    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Faulty:
    """A modality whose content the annotations give wrongly. The sample is there all the same, so that a policy can keep it
    without this modality. kind, message: as of a Fault."""

    kind: str
    message: str


Media = File | Files | Text | Values | Faulty


@dataclass(frozen=True, slots=True)
class Item:
    """One item as its publisher lists it.

    id: unique in the data set and independent of where it lies on disk; a hashed split depends on nothing else. split: "train",
    "holdout" or "test" where the publisher (or the split list in use) says so, None where a hash of the id decides.
    group: what must not be on two sides of a hashed split (a speaker, a tweet). media: modality -> where its content is; a
    modality that is missing here is absent. where: the file and line that the item came from, for messages.
    """

    id: str
    label: int
    media: Mapping[str, Media]
    split: str | None = None
    group: str | None = None
    where: str = ""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something wrong with one item, or with a line that gives none. kind: a key of FAULTS. message: what was found and
    what to do, without the item's name. modality: None where it is about the item as a whole."""

    kind: str
    message: str
    item: str | None = None
    modality: str | None = None
    where: str = ""


@dataclass(frozen=True)
class Listing:
    """What the annotation files of a data set say.

    split_source: in words, where the splits come from (for meta.json and every report). sources: the annotation files read.
    """

    items: Sequence[Item]
    classes: Sequence[str]
    faults: Sequence[Fault] = ()
    split_source: str = "a hash of each sample's id"
    sources: Sequence[Path] = ()


@dataclass(frozen=True)
class Recipe:
    """One named way to turn published files into stored arrays.

    fields: modality -> how it is read. options: what the listing is asked for (e.g. `{"text": "pair"}`), part of the recipe's
    hash like the fields. doc: who does it so, in a sentence.
    """

    name: str
    fields: Mapping[str, Field]
    options: Mapping[str, Any] = field(default_factory=dict)
    doc: str = ""

    def as_dict(self) -> dict[str, Any]:
        """All that decides which bytes are stored; the order of modalities is part of it, name and doc are not."""
        fields = [[m, f.as_dict()] for m, f in self.fields.items()]
        found: dict[str, Any] = json.loads(json.dumps({"fields": fields, "options": dict(self.options)}))
        return found

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:16]


class Source:
    """A data set in its published layout; one subclass a data set.

    layout: how the folder looks, for `mmzoo data show` and for messages. obtain: where a user gets it, and under which
    licence. recipes: name -> recipe. splits: name -> what it is; the first is the default. root: where the files lie, of a
    data set that knows it itself (a user's own, one that a package ships); such a one is prepared without being asked for.
    place: what parts the stores of several sources of one name, part of a folder's name; empty where a name means one thing.
    table_form: of one that is made from a table, how it is read: see `DataStore.table`.
    """

    name: ClassVar[str]
    root: Path | None = None
    place: str = ""
    table_form: Mapping[str, Any] | None = None
    layout: ClassVar[str] = ""
    obtain: ClassVar[str] = ""
    splits: ClassVar[Mapping[str, str]] = {"hash": "a hash of each sample's id decides, stratified by class"}

    @classmethod
    def recipes(cls) -> Mapping[str, Recipe]:
        """All recipes, the default first."""
        raise undefined(cls, "recipes")

    def doubts(self, items: Sequence[Item]) -> Sequence[str]:
        """What of the listed items is probably read in another way than is meant, a line each."""
        return ()

    def list(self, root: Path, *, split: str, splits_dir: Path | None = None, **options: Any) -> Listing:
        """The items below `root`. split: a key of `splits`. splits_dir: where split lists lie if not in `root`.

        Reads annotation files only, never media, and never fails on a faulty line: that is a Fault. Raises BadValue, naming
        the path and the next step, where `root` is not this data set at all or the split lists are not there.
        """
        raise undefined(self, "list")

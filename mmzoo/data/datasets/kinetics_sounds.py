"""Kinetics-Sounds: clips of ten seconds from 31 classes of Kinetics-400 that can be seen and heard."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mmzoo.data.fields.audio import Filterbank, Spectrogram
from mmzoo.data.fields.video import Frames, listed
from mmzoo.data.sources import textfiles
from mmzoo.data.sources.source import File, Item, Listing, Media, Recipe, Source
from mmzoo.errors import BadValue

#: the index is the label in OGM-GE's lists
CLASSES = (
    "blowing nose",
    "blowing out candles",
    "bowling",
    "chopping wood",
    "dribbling basketball",
    "laughing",
    "mowing lawn",
    "playing accordion",
    "playing bagpipes",
    "playing bass guitar",
    "playing clarinet",
    "playing drums",
    "playing guitar",
    "playing harmonica",
    "playing keyboard",
    "playing organ",
    "playing piano",
    "playing saxophone",
    "playing trombone",
    "playing trumpet",
    "playing violin",
    "playing xylophone",
    "ripping paper",
    "shoveling snow",
    "shuffling cards",
    "singing",
    "stomping grapes",
    "tap dancing",
    "tapping guitar",
    "tapping pen",
    "tickling",
)
LABEL = {name: i for i, name in enumerate(CLASSES)}
#: an id of YouTube's has 11 characters, `_` and `-` among them; start and end in seconds follow, padded or not
NAME = re.compile(r"(?P<video>[A-Za-z0-9_-]{11})(?:_(?P<start>\d{1,6}))?(?:_\d{1,6})?")
VIDEOS, SOUNDS = (".mp4", ".mkv", ".webm", ".avi", ".flv", ".mov"), (".wav", ".flac")
#: how far below the root media are looked for
DEPTH = 4
PLACES = ("", "annotations", "splits", "data", "data/KineticSound")


class KineticsSounds(Source):
    """Items are clips, named `<youtube id>_<start in six digits>` whatever a list or a file calls them."""

    name = "kinetics_sounds"
    layout = (
        "anywhere below the folder <youtube id>_<start>_<end>.mp4 as the Kinetics mirrors name them (also without end or times, "
        "padded or not; what lies in a folder replacement/ comes first), or <id>.wav beside folders of frames named <id>; "
        "split lists my_train.txt and my_test.txt there, in annotations/, splits/ or data/, or in --splits DIR"
    )
    obtain = (
        "Kinetics-400 by github.com/cvdfoundation/kinetics-dataset (annotations CC BY 4.0; the videos belong to their uploaders, "
        "and 5-10 % are gone); the split lists from data/KineticSound of github.com/GeWu-Lab/OGM-GE_CVPR2022"
    )
    splits: ClassVar = {
        "ogm": "OGM-GE's lists: 14,799 train and 2,597 test clips; the test comes from the test list of Kinetics-400",
        "mla": "my_train_ks.txt and my_test_ks.txt as MLA's code reads them (`<name>.mp4 <class>`); not published",
        "njust": "annotations/train.csv and test.csv as AMSS and BSS read them (label,youtube_id), labels by class name",
        "k400": "the csv files of Kinetics-400: its train list is train, its validation list test, as AdaMML has it",
        "hash": "a hash of each id decides, over all clips of OGM-GE's lists or of the csv files; no published numbers to compare with",
    }

    @classmethod
    def recipes(cls) -> Mapping[str, Recipe]:
        return {r.name: r for r in _recipes()}

    def list(self, root: Path, *, split: str, splits_dir: Path | None = None) -> Listing:  # type: ignore[override]
        textfiles.folder(root)
        folders = [splits_dir] if splits_dir is not None else [root / p for p in PLACES]
        found = _hashed(folders, root) if split == "hash" else _published(FORMS[split], folders, root)
        media = _Media(root, {row.video for row in found.rows})
        for r in found.rows:
            found.items.append(Item(r.id, r.label, media.of(r), None if split == "hash" else r.side, r.video, r.where))
        return found.listing(CLASSES, found.words)


@dataclass(frozen=True)
class _Row:
    video: str
    start: int | None
    label: int
    side: str
    where: str

    @property
    def id(self) -> str:
        return self.video if self.start is None else f"{self.video}_{self.start:06d}"


@dataclass
class _Found(textfiles.Reading):
    """words: where the split comes from."""

    words: str = ""
    rows: list[_Row] = field(default_factory=list)


#: what one line of a list says: place, name of the clip, label (None for no class of the 31), and the line as it is shown
Told = tuple[str, str, int | None, str]


@dataclass(frozen=True)
class _Form:
    """How somebody writes split lists. words: of whom they are. files: side -> what the list may be called. rows: reads one
    file. wanted: what a line is like. fits: whether the first line of a csv file is the one of this form."""

    words: str
    whose: str
    files: Mapping[str, Sequence[str]]
    rows: Callable[[Path], Iterable[Told]]
    wanted: str
    fits: Callable[[Sequence[str]], bool] | None = None

    def find(self, folders: Sequence[Path], side: str, root: Path) -> Path:
        """The list of one side. Raises BadValue that says where to get it."""
        for path in (folder / name for folder in folders for name in self.files[side]):
            if path.is_file() and (self.fits is None or self.fits(_header(path))):
                return path
        raise BadValue(
            f"Kinetics-Sounds: {self.whose} list {' or '.join(self.files[side])} is neither in {root} nor in --splits DIR. "
            "OGM-GE's lists are in data/KineticSound of github.com/GeWu-Lab/OGM-GE_CVPR2022; the csv files come with Kinetics-400."
        )


def _published(form: _Form, folders: Sequence[Path], root: Path) -> _Found:
    """The clips of a pair of lists."""
    found = _Found(words=form.words)
    for side in form.files:
        path = form.find(folders, side, root)
        found.sources.append(path)
        for where, name, label, line in form.rows(path):
            match = NAME.fullmatch(name)
            if match is None or label is None:
                found.annotation(f"{textfiles.shortened(line)} is not like {form.wanted}", where)
            else:
                start = None if match["start"] is None else int(match["start"])
                found.rows.append(_Row(match["video"], start, label, side, where))
    return found


def _hashed(folders: Sequence[Path], root: Path) -> _Found:
    """The clips of OGM-GE's lists, else of Kinetics-400's."""
    try:
        found = _published(FORMS["ogm"], folders, root)
    except BadValue as error:
        try:
            found = _published(FORMS["k400"], folders, root)
        except BadValue:
            raise error from None
    found.words = "a hash of each clip's id (mmzoo's own)"
    return found


def _ogm(path: Path) -> Iterator[Told]:
    """`<id>,10,<label>`; ids of train have start and end, those of test the start alone."""
    for where, line in textfiles.rows_of(path):
        name, _, rest = line.partition(",")
        label = rest.rpartition(",")[2].strip()
        valid = label.isascii() and label.isdigit() and int(label[:9]) < len(CLASSES) and rest.count(",") == 1
        yield where, name.strip(), int(label) if valid else None, line


def _mla(path: Path) -> Iterator[Told]:
    """`<name>.mp4 <class name>`."""
    for where, line in textfiles.rows_of(path):
        name, _, label = line.strip().partition(" ")
        yield where, name.removesuffix(".mp4"), LABEL.get(label.strip().lower()), line


def _njust(path: Path) -> Iterator[Told]:
    """csv with the columns label and youtube_id. The class is found by its name, not by its first appearance in the file."""
    for where, cells in _table(path):
        label = LABEL.get(cells.get("label", "").strip().lower())
        yield where, cells.get("youtube_id", ""), label, str(list(cells.values()))


def _k400(path: Path) -> Iterator[Told]:
    """The annotation files of Kinetics-400, of whose 400 classes 31 are taken."""
    for where, cells in _table(path):
        label = LABEL.get(cells.get("label", "").strip().lower())
        if label is not None:
            name = f"{cells.get('youtube_id', '')}_{cells.get('time_start', '').strip()}"
            yield where, name, label, str(list(cells.values()))


FORMS = {
    "ogm": _Form(
        "OGM-GE's published lists (my_train.txt and my_test.txt)",
        "OGM-GE's",
        {"train": ["my_train.txt"], "test": ["my_test.txt"]},
        _ogm,
        "-00nar1nEPc_000033_000043,10,13",
    ),
    "mla": _Form(
        "lists in MLA's form (my_train_ks.txt and my_test_ks.txt)",
        "MLA's",
        {"train": ["my_train_ks.txt"], "test": ["my_test_ks.txt"]},
        _mla,
        "-00nar1nEPc.mp4 playing harmonica",
    ),
    "njust": _Form(
        "lists in the form of AMSS and BSS (train.csv and test.csv)",
        "AMSS's",
        {"train": ["train.csv"], "test": ["test.csv"]},
        _njust,
        "a class of the 31 and an id",
        lambda header: header == ["label", "youtube_id"],
    ),
    "k400": _Form(
        "the lists of Kinetics-400: train, and validation as test",
        "Kinetics-400's",
        {
            "train": ["kinetics-400_train.csv", "kinetics_train.csv", "train.csv"],
            "test": ["kinetics-400_val.csv", "kinetics_val.csv", "validate.csv", "val.csv"],
        },
        _k400,
        "label,youtube_id,time_start,time_end,split",
        lambda header: "time_start" in header,
    ),
}


def _header(path: Path) -> list[str]:
    try:
        first = next(iter(textfiles.lines_of(path)), "")
    except BadValue:
        return []
    return [cell.strip() for cell in first.split(",")]


def _table(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Place and cells by column, of each row. A row of another width lacks its last cells."""
    header = _header(path)
    for where, line in textfiles.rows_of(path, header=True):
        try:
            cells = next(csv.reader([line], strict=False), [])
        except csv.Error:
            cells = []
        yield where, dict(zip(header, cells))


class _Media:
    """Where the clips of some ids lie: files and folders below the root, found by their names in one walk."""

    def __init__(self, root: Path, wanted: set[str]) -> None:
        self.root, self.wanted = root, wanted
        #: (id, start or None) -> where
        self.videos: dict[tuple[str, int | None], Path] = {}
        self.sounds: dict[tuple[str, int | None], Path] = {}
        self.frames: dict[tuple[str, int | None], Path] = {}
        self._walk(str(root), 0)

    def _walk(self, folder: str, depth: int) -> None:
        try:
            entries = sorted(os.scandir(folder), key=lambda e: e.name)
        except OSError:
            return
        deeper = []
        for entry in entries:
            stem, suffix = os.path.splitext(entry.name)
            if entry.is_dir():
                key = self._key(entry.name)
                if key is not None:
                    self.frames.setdefault(key, Path(entry.path))
                elif depth < DEPTH and not entry.name.startswith("."):
                    deeper.append(entry)
            elif (key := self._key(stem)) is not None and suffix.lower() in VIDEOS + SOUNDS:
                (self.videos if suffix.lower() in VIDEOS else self.sounds).setdefault(key, Path(entry.path))
        for entry in sorted(deeper, key=lambda e: (e.name != "replacement", e.name)):
            if not entry.is_symlink():  # a link can lead in a circle, or out
                self._walk(entry.path, depth + 1)

    def _key(self, name: str) -> tuple[str, int | None] | None:
        match = NAME.fullmatch(name)
        if match is None or match["video"] not in self.wanted:
            return None
        return match["video"], None if match["start"] is None else int(match["start"])

    def of(self, row: _Row) -> Mapping[str, Media]:
        video, frames, sound = (self._found(known, row) for known in (self.videos, self.frames, self.sounds))
        usual = self.root / row.side / (row.id + ".mp4")
        seen = File(video) if video else listed(frames) if frames else File(usual)
        return {"audio": File(sound or video or usual), "video": seen}

    def _found(self, known: Mapping[tuple[str, int | None], Path], row: _Row) -> Path | None:
        exact = known.get((row.video, row.start)) or known.get((row.video, None))
        if exact is None and row.start is None:
            exact = next((path for (video, _), path in known.items() if video == row.video), None)
        return exact


def _recipes() -> Iterator[Recipe]:
    tenths = Spectrogram(rate=16_000, samples=160_000, n_fft=512, hop=159)
    starts = Frames(3, 224, fit="stretch", pick="starts", every="second", few="repeat")
    first = Frames(3, 224, fit="stretch", pick="first", every="second", few="repeat")
    yield Recipe(
        "default",
        {"audio": Spectrogram(samples=160_000, standardise=True), "video": Frames(10, 256)},
        doc="mmzoo's own: 10 s, 257x1004, each map less its mean over its deviation; 10 frames from 10 equal parts of the clip",
    )
    yield Recipe(
        "paper",
        {"audio": tenths, "video": Frames(10, 256, fit="stretch")},
        doc="what the dynamic-gap paper states: 257x1004, and 10 frames of which 3 are used (frames: 3); the rest is ours",
    )
    yield Recipe(
        "ogm",
        {"audio": Filterbank(), "video": starts},
        doc="OGM-GE's files: Kaldi filterbanks of 128x1024, normalised; the first of each third of one frame a second",
    )
    yield Recipe(
        "bss",
        {"audio": Spectrogram(rate=35_400, samples=354_000, n_fft=512, hop=353, center=True), "video": first},
        doc="BSS and AMSS (the group of the dynamic-gap paper): 10 s at 35,400 Hz, 257x1003; the first three frames",
    )
    yield Recipe(
        "mla",
        {"audio": Filterbank(mean=0.0, deviation=0.5), "video": starts},
        doc="MLA's scripts: Kaldi filterbanks as they are; the first of each third of one frame a second",
    )
    yield Recipe(
        "mini",
        {"audio": Spectrogram(samples=8_000, n_fft=128, hop=512, standardise=True), "video": Frames(3, 16)},
        doc="for the synthetic set: half a second and small frames, which a CPU trains on in seconds",
    )

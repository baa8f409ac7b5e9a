"""CREMA-D: 7,442 clips of 91 actors who say twelve sentences with six emotions; sound and picture."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mmzoo.data.fields.audio import Spectrogram
from mmzoo.data.fields.video import Frames, listed
from mmzoo.data.sources import textfiles
from mmzoo.data.sources.source import Fault, File, Item, Listing, Media, Recipe, Source
from mmzoo.errors import BadValue

#: in the order of every peer's code: the index is the label
CLASSES = {"NEU": "neutral", "HAP": "happy", "SAD": "sad", "FEA": "fear", "DIS": "disgust", "ANG": "anger"}
CODES = tuple(CLASSES)
#: MLA's lists spell the emotions out
WORDS = {"neutral": "NEU", "happy": "HAP", "sad": "SAD", "fear": "FEA", "disgust": "DIS", "anger": "ANG"}
CLIP = re.compile(r"(?P<actor>\d{4})_[A-Z]{3}_(?P<code>[A-Z]{3})_[A-Z]{2}")
#: first actor of the holdout and of the test of the split by speakers
HOLDOUT_ACTOR, TEST_ACTOR = 1074, 1083
#: what the publisher says of single clips and no reader can see
KNOWN = {
    "1064_IEO_DIS_MD": "the published video of this clip lasts a minute and shows all emotions, not disgust alone",
}
LISTS = {
    "ogm": (("train.csv", "test.csv"), "OGM-GE's", "data/CREMAD of github.com/GeWu-Lab/OGM-GE_CVPR2022 (MIT)"),
    "mla": (
        ("my_train_cre.txt", "my_test_cre.txt"),
        "MLA's",
        "data/ of github.com/Cecile-hi/Multimodal-Learning-with-Alternating-Unimodal-Adaptation",
    ),
}


class CremaD(Source):
    """Items are clips. Sound comes from AudioWAV only: old copies of 28 videos have no track."""

    name = "cremad"
    layout = (
        "AudioWAV/<clip>.wav and VideoFlash/<clip>.flv as in the repository (or VideoMP4/<clip>.mp4, or frames in "
        "Image-01-FPS/<clip>/), SentenceFilenames.csv; split lists train.csv and test.csv there, in annotations/, splits/ or "
        "splits_ogm/, or in --splits DIR"
    )
    obtain = (
        "github.com/CheyneyComputerScience/CREMA-D (git lfs pull; 7.6 GB; ODbL 1.0, contents DbCL 1.0); the split lists that the "
        "field uses from data/CREMAD of github.com/GeWu-Lab/OGM-GE_CVPR2022"
    )
    splits: ClassVar = {
        "ogm": "OGM-GE's lists, 6,698 train and 744 test clips; random, all 91 actors are on both sides",
        "mla": "MLA's lists, also 6,698 and 744, of which only 71 test clips are OGM-GE's: not comparable with ogm",
        "speaker": "by actors: 1001-1073 train, 1074-1082 validation, 1083-1091 test; not comparable with published numbers",
        "hash": "a hash of each clip's name decides, by actors; not comparable with published numbers",
    }

    @classmethod
    def recipes(cls) -> Mapping[str, Recipe]:
        return {r.name: r for r in (*_recipes(), *_released())}

    def list(self, root: Path, *, split: str, splits_dir: Path | None = None) -> Listing:  # type: ignore[override]
        textfiles.folder(root)
        if split in LISTS:
            found = _from_lists(root, split, splits_dir)
        else:
            found = _from_names(root, splits_dir, by_actor=split == "speaker")
        media = _Media(root)
        for clip, label, side, group, where in found.rows:
            found.items.append(Item(clip, label, media.of(clip), side, group, where))
            if clip in KNOWN:
                found.faults.append(Fault("mislabelled", KNOWN[clip], clip, "video"))
        return found.listing(tuple(CLASSES.values()), found.words)


@dataclass
class _Found(textfiles.Reading):
    """rows: clip, label, side, group, where. words: where the split comes from."""

    words: str = ""
    rows: list[tuple[str, int, str | None, str | None, str]] = field(default_factory=list)


def _folders(root: Path, splits_dir: Path | None) -> list[Path]:
    if splits_dir is not None:
        return [splits_dir]
    return [root, *(root / f for f in ("annotations", "splits", "splits_ogm", "splits_mla", "data/CREMAD", "data"))]


def _from_lists(root: Path, split: str, splits_dir: Path | None) -> _Found:
    """The clips of a pair of published lists. No groups: their test holds the same actors as their train."""
    names, whose, origin = LISTS[split]
    found = _Found(words=f"{whose} published lists ({' and '.join(names)})")
    for side, name in zip(("train", "test"), names):
        path = textfiles.first_file(_folders(root, splits_dir), [name])
        if path is None:
            raise BadValue(
                f"{whose} split list {name} is neither in {root} nor in --splits DIR. Get it from {origin}. The splits speaker and "
                "hash need no such list (bench --set cremad.split=speaker), but have no published numbers to compare with."
            )
        found.sources.append(path)
        for where, line in textfiles.rows_of(path):
            _row(found, line, split, side, where)
    return found


def _row(found: _Found, line: str, split: str, side: str, where: str) -> None:
    """`1001_IEO_NEU_XX,NEU` or `1085_IWL_SAD_XX.flv Sad`. Where they differ, the clip's name counts, and it is reported."""
    clip, _, told = line.partition("," if split == "ogm" else " ")
    clip, told = clip.strip().removesuffix(".flv"), told.strip()
    match = CLIP.fullmatch(clip)
    code = told if split == "ogm" else WORDS.get(told.lower(), told)
    if match is None or match["code"] not in CLASSES or code not in CLASSES:
        wanted = "1001_IEO_NEU_XX,NEU" if split == "ogm" else "1085_IWL_SAD_XX.flv Sad"
        found.annotation(f"{textfiles.shortened(line)} is not like {wanted}", where)
        return
    if code != match["code"]:
        message = f"the list says {code}, the clip's name {match['code']}; the name is used"
        found.faults.append(Fault("mislabelled", message, clip, None, where))
    found.rows.append((clip, CODES.index(match["code"]), side, None, where))


def _from_names(root: Path, splits_dir: Path | None, *, by_actor: bool) -> _Found:
    """All clips that the data set names, with the actor as group."""
    words = (
        "actors: 1001-1073 train, 1074-1082 holdout, 1083-1091 test"
        if by_actor
        else "a hash of each clip's name, by actors"
    )
    found = _Found(words=words + " (mmzoo's own)")
    for clip, where in _all_clips(root, splits_dir, found):
        match = CLIP.fullmatch(clip)
        if match is None or match["code"] not in CLASSES:
            found.annotation(f"{textfiles.shortened(clip)} is not like 1001_IEO_NEU_XX", where)
            continue
        actor = int(match["actor"])
        side = "test" if actor >= TEST_ACTOR else "holdout" if actor >= HOLDOUT_ACTOR else "train"
        found.rows.append((clip, CODES.index(match["code"]), side if by_actor else None, match["actor"], where))
    return found


def _all_clips(root: Path, splits_dir: Path | None, found: _Found) -> Iterator[tuple[str, str]]:
    """The names of all clips, from SentenceFilenames.csv, else from the lists, else from the folder of recordings."""
    if (path := root / "SentenceFilenames.csv").is_file():
        found.sources.append(path)
        for where, line in textfiles.rows_of(path, header=True):
            yield line.rpartition(",")[2].strip().strip('"'), where
        return
    lists = [p for name in LISTS["ogm"][0] if (p := textfiles.first_file(_folders(root, splits_dir), [name]))]
    if len(lists) == 2:
        for path in lists:
            found.sources.append(path)
            for where, line in textfiles.rows_of(path):
                yield line.partition(",")[0].strip(), where
        return
    names = sorted(n.removesuffix(".wav") for n in textfiles.names_in(root / "AudioWAV") if n.endswith(".wav"))
    if not names:
        raise BadValue(f"{root} holds neither SentenceFilenames.csv nor AudioWAV/*.wav, which name the clips.")
    found.sources.append(root / "AudioWAV")
    yield from ((name, f"AudioWAV/{name}.wav") for name in names)


class _Media:
    """Where the recordings and videos lie; folders are listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        places = (("VideoFlash", ".flv"), ("VideoMP4", ".mp4"))
        self.videos = [(root / f, suffix, textfiles.names_in(root / f)) for f, suffix in places]
        self.frames = root / "Image-01-FPS"
        self.clips = textfiles.names_in(self.frames)

    def of(self, clip: str) -> Mapping[str, Media]:
        return {"audio": File(self.root / "AudioWAV" / f"{clip}.wav"), "video": self._video(clip)}

    def _video(self, clip: str) -> Media:
        for where, suffix, names in self.videos:
            if clip + suffix in names:
                return File(where / (clip + suffix))
        if clip in self.clips:
            return listed(self.frames / clip)
        return File(self.root / "VideoFlash" / f"{clip}.flv")


def _recipes() -> Iterator[Recipe]:
    """mmzoo's own recipes, and what the dynamic-gap paper states."""
    paper = Spectrogram(rate=16_000, samples=48_000, n_fft=512, hop=159)
    yield Recipe(
        "default",
        {"audio": Spectrogram(samples=48_000, standardise=True), "video": Frames(10, 256)},
        doc="mmzoo's own: 3 s, 257x299, each map less its mean over its deviation; 10 frames from 10 equal parts of the clip",
    )
    yield Recipe(
        "paper",
        {"audio": paper, "video": Frames(10, 256, fit="stretch")},
        doc="what the dynamic-gap paper states: 257x299, and 10 frames of which 3 are used (frames: 3); the rest is ours",
    )
    yield Recipe(
        "mini",
        {"audio": Spectrogram(samples=8_000, n_fft=128, hop=512, standardise=True), "video": Frames(3, 16)},
        doc="for the synthetic set: half a second and small frames, which a CPU trains on in seconds",
    )


def _released() -> Iterator[Recipe]:
    """What the code of papers reads."""
    ogm = Spectrogram(rate=22_050, samples=66_150, n_fft=512, hop=353, center=True)
    pmr = Spectrogram(rate=22_050, samples=160_000, n_fft=512, hop=159, spectrum="density", standardise=True)
    one = Frames(1, 224, fit="stretch", pick="first", every="second", few="repeat")
    three = Frames(3, 224, fit="stretch", pick="first", every="second", few="repeat")
    yield Recipe(
        "ogm",
        {"audio": ogm, "video": one},
        doc="OGM-GE's loader, also AMSS's and AGM's sound: 3 s at 22,050 Hz, 257x188; the first of one frame a second",
    )
    yield Recipe(
        "bss", {"audio": ogm, "video": three}, doc="BSS's loader: OGM-GE's sound, the first three of one frame a second"
    )
    yield Recipe(
        "lfm_release",
        {"audio": Spectrogram(rate=22_050, samples=441_000, n_fft=512, hop=353, center=True), "video": one},
        doc="the code released with the dynamic-gap paper: the clip repeated to 20 s, 257x1250; one frame",
    )
    yield Recipe(
        "pmr",
        {"audio": pmr, "video": three},
        doc="PMR's script: 160,000 samples at 22,050 Hz (librosa.load's own rate, 7.3 s), scipy's density, 257x1004",
    )
    yield Recipe(
        "pmr_299",
        {"audio": Spectrogram(rate=22_050, samples=48_000, spectrum="density", standardise=True), "video": three},
        doc="the folder that PMR's loader reads, Audio-299, as its script would make it: 257x299",
    )
    yield Recipe(
        "mla",
        {
            "audio": Spectrogram(samples=80_000, n_fft=256, hop=128, center=True),
            "video": Frames(3, 224, fit="stretch", pick="starts", every="second", few="repeat"),
        },
        doc="MLA's script: 129x626 of 5 s (the first, where MLA draws a start), and the first frame of each third",
    )

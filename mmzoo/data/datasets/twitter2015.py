"""Twitter2015 (Yu and Jiang 2019): the sentiment of a tweet and its picture towards one target named in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mmzoo.data.fields.image import Image
from mmzoo.data.fields.text import Tokens
from mmzoo.data.sources import textfiles
from mmzoo.data.sources.source import Fault, File, Item, Listing, Media, Recipe, Source, Text
from mmzoo.errors import BadValue

CLASSES = ("negative", "neutral", "positive")
FILES = {"train": "train", "holdout": "dev", "test": "test"}
#: what stands for the target in a row's text
TARGET = "$T$"
PICTURE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,100}")
PLACES = ("", "twitter2015", "absa_data/twitter2015")


class Twitter2015(Source):
    """Items are pairs of a tweet and a target, named `<file>-<row>`; a picture with all its targets is a group.

    text: "pair" gives the tweet with the target put back, and the target as the second text; "replace" the first alone;
    "raw" the published text with `$T$` in it. Without the target, a tweet with two targets of different sentiment is one
    input with two labels.
    """

    name = "twitter2015"
    layout = "train.tsv, dev.tsv, test.tsv (or .txt), there or in twitter2015/, and twitter2015_images/<name>.jpg"
    obtain = (
        "absa_data/twitter2015 of github.com/jefferyYu/TomBERT, pictures by its link (no licence is stated; tweets are under the "
        "terms of X: research use)"
    )
    splits: ClassVar = {"published": "the authors' train, dev (validation) and test files"}

    @classmethod
    def recipes(cls) -> Mapping[str, Recipe]:
        return {r.name: r for r in _recipes()}

    def list(  # type: ignore[override]
        self, root: Path, *, split: str = "published", splits_dir: Path | None = None, text: str = "pair"
    ) -> Listing:
        textfiles.folder(root)
        if text not in ("pair", "replace", "raw"):
            raise BadValue(f"text must be pair, replace or raw, not {text!r}.")
        places = [splits_dir] if splits_dir is not None else [root / p for p in PLACES]
        pictures = next(
            (d for p in PLACES if (d := root / p / "twitter2015_images").is_dir()), root / "twitter2015_images"
        )
        reading = textfiles.Reading()
        for side, stem in FILES.items():
            path = textfiles.first_file(places, [f"{stem}.tsv", f"{stem}.txt"])
            if path is None:
                raise BadValue(
                    f"there is no {stem}.tsv or {stem}.txt in {places[0]}. Layout: {self.layout}. Source: {self.obtain}"
                )
            reading.sources.append(path)
            rows = read_tsv(path) if path.suffix == ".tsv" else read_txt(path)
            other = path.with_suffix(".txt")
            second = dict(read_txt(other)) if path.suffix == ".tsv" and other.is_file() else {}
            for n, row in rows:
                name, where = f"{stem}-{n}", f"{path.name}, row {n}"
                if isinstance(row, str):
                    reading.annotation(row, where)
                    continue
                beside = second.get(n)
                if (
                    isinstance(beside, Row)
                    and (beside.text, beside.picture) == (row.text, row.picture)
                    and beside.label != row.label
                ):
                    message = f"{path.name} says {CLASSES[row.label]}, {other.name} {CLASSES[beside.label]}; the first is used"
                    reading.faults.append(Fault("mislabelled", message, name, None, where))
                media: dict[str, Media] = {"image": File(pictures / row.picture), "text": row.shown(text)}
                reading.items.append(Item(name, row.label, media, side, row.picture, where))
        return reading.listing(CLASSES, "the authors' files")


@dataclass(frozen=True)
class Row:
    label: int
    picture: str
    text: str
    target: str

    def shown(self, how: str) -> Text:
        whole = self.text.replace(TARGET, self.target)
        return Text(self.text) if how == "raw" else Text(whole, self.target if how == "pair" else None)


def read_tsv(path: Path) -> Iterator[tuple[int, Row | str]]:
    """Row number (from 1) and row, or in words what is wrong with it. The header is not read: two of its columns have one
    name, and in test.tsv the one of the labels is missing. Quotes are letters like any other."""
    for n, line in enumerate(textfiles.lines_of(path)[1:], 1):
        if line.strip():
            cells = line.split("\t")
            yield (
                n,
                _row(cells[1:], ("0", "1", "2"), line)
                if len(cells) == 5
                else f"{len(cells)} columns where 5 are: {textfiles.shortened(line)}",
            )


def read_txt(path: Path) -> Iterator[tuple[int, Row | str]]:
    """The same of the older form: four lines a row, text, target, polarity (-1, 0, 1), picture."""
    lines = textfiles.lines_of(path)
    for n, at in enumerate(range(0, len(lines), 4), 1):
        text, target, label, picture = (*lines[at : at + 4], "", "", "")[:4]
        yield n, _row([label, picture, text, target], ("-1", "0", "1"), f"{text} ...")


def _row(cells: list[str], labels: tuple[str, ...], line: str) -> Row | str:
    label, picture, text, target = (cell.strip() for cell in cells)
    if label not in labels:
        return f"the label is one of {', '.join(labels)}, not {textfiles.shortened(label)}"
    if not PICTURE.fullmatch(picture):
        return f"{textfiles.shortened(picture)} is no name of a picture such as 1860693.jpg"
    if text.count(TARGET) != 1 or not target:
        return f"a row names one target and has one {TARGET} in its text: {textfiles.shortened(line)}"
    return Row(labels.index(label), picture, text, target)


def _recipes() -> Iterator[Recipe]:
    bert = "google-bert/bert-base-uncased"
    yield Recipe(
        "default",
        {"image": Image(256), "text": Tokens(length=64, pair=True)},
        {"text": "pair"},
        "mmzoo's own: the picture's middle square; tweet and target as a pair in up to 64 word pieces of the training texts",
    )
    yield Recipe(
        "paper",
        {"image": Image(256), "text": Tokens(bert, 128, pair=True)},
        {"text": "pair"},
        "for ResNet-50 and BERT as in the dynamic-gap paper, 128 word pieces; how it feeds the target is not said, the pair is ours",
    )
    yield Recipe(
        "tombert",
        {"image": Image(256), "text": Tokens(bert, 64, pair=True)},
        {"text": "pair"},
        "the data set's authors: sentence A is the tweet with its target, sentence B the target, 64 word pieces",
    )
    yield Recipe(
        "amss",
        {"image": Image(224, fit="stretch"), "text": Tokens(bert, 128, special=False)},
        {"text": "raw"},
        "AMSS's image-text loader: the published text with $T$ in it, 128 word pieces without [CLS] and [SEP]",
    )
    yield Recipe(
        "replace",
        {"image": Image(256), "text": Tokens(length=64)},
        {"text": "replace"},
        "as default, without naming the target: the task is then ambiguous for tweets with several",
    )
    yield Recipe(
        "clip",
        {"image": Image(224, fit="clip"), "text": Tokens("openai/clip-vit-base-patch32", 77)},
        {"text": "replace"},
        "for CLIP's encoders: 77 pieces of the tweet with its target",
    )
    yield Recipe(
        "mini",
        {"image": Image(16), "text": Tokens(length=32, pair=True)},
        {"text": "pair"},
        "for the synthetic set: small pictures and short texts, which a CPU trains on in seconds",
    )

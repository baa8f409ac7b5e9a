"""A twin of Twitter2015: what is said of the target, and a faint spot in the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from mmzoo.data.synthetic import Streams, Twin, media, render
from mmzoo.data.synthetic.planting import ERASED, Drawn, Planting, Symbol

FIRST = ("Anna", "Chuck", "Maria", "Jim", "Tom", "Rosa", "Ken", "Lily", "Omar", "Nina", "Paul", "Ida")
LAST = ("Bass", "Moore", "Stone", "Garcia", "Weber", "Cole", "Lind", "Park", "Reyes", "Novak", "Byrne", "Sato")
#: what is said of a target: value (negative, neutral, positive) -> phrases
SAID = (
    ("was awful", "let us down", "lost badly", "ruined it", "is a disgrace", "made me cry"),
    ("is on tv", "speaks at noon", "arrives in town", "will be there", "is listed", "plays on monday"),
    ("was brilliant", "made my day", "won it", "is the best", "sang beautifully", "is a hero"),
)
PLAIN = ("and so on", "right there", "with others", "in this picture", "once again", "back then")
STARTS = ("RT @ fan :", "tonight :", "so", "look :", "yes ,", "wow", "# MCM", "well ,")
ENDS = ("", "# live", ": )", "@ home", "!", "...", "http : / / t . co / x", "# music")
#: share of the items that share their tweet, and with it the picture, with another target
SHARED = 0.2
HEADER = "index\t#1 Label\t#2 ImageID\t#3 String\t#3 String\n"
#: as published: the column of labels is missing in the header, not in the rows
TEST_HEADER = "index\t#1 ImageID\t#2 String\t#2 String\n"
FILES = {"train": "train", "holdout": "dev", "test": "test"}


class Twitter2015(Twin):
    """train, dev and test as .tsv and .txt, and twitter2015_images/<id>.jpg.

    Some tweets have two targets, a row each, with the same picture: rows whose symbols agree, so that the law of a single
    row is the planted one.
    """

    name = "twitter2015"
    planting = Planting(
        3, {"said": Symbol(0.96, 0.15), "spot": Symbol(0.96, 0.35)}, {"image": ("spot",), "text": ("said",)}
    )
    sizes: ClassVar = {"train": 350, "holdout": 80, "test": 200}

    def write(self, root: Path, parts: Mapping[str, Sequence[Drawn]], streams: Streams) -> None:
        (root / "twitter2015_images").mkdir()
        picture = 1_860_000
        for part, items in parts.items():
            rows: list[tuple[int, str, str, str]] = []
            for tweet in _tweets(items, streams(self.name, part, "tweets")):
                picture += int(streams("picture", picture).integers(1, 50))
                rng = streams(part, picture)
                frames = render.spots(
                    tweet[0].symbols["spot"], self.planting.n_classes, rng, frames=1, size=48, contrast=60
                )
                path = root / "twitter2015_images" / f"{picture}.jpg"
                media.jpeg(path, frames[0], render.tint(tweet[0].scenes["image"], rng))
                texts = _texts(tweet[0], len(tweet), rng)
                rows += [(item.label, f"{picture}.jpg", text, target) for item, (text, target) in zip(tweet, texts)]
                for _ in tweet:
                    streams.on_item()
            _write(root, FILES[part], rows)


def _tweets(items: Sequence[Drawn], rng: np.random.Generator) -> list[list[Drawn]]:
    """The items one by one, or two by two where the symbols of both are the same."""
    waiting: dict[str, Drawn] = {}
    tweets: list[list[Drawn]] = []
    for item in items:
        key = str(item.symbols)
        if rng.random() >= SHARED:
            tweets.append([item])
        elif key in waiting:
            tweets.append([waiting.pop(key), item])
        else:
            waiting[key] = item
    return tweets + [[item] for item in waiting.values()]


def _texts(shown: Drawn, targets: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """(text with $T$ in place of the target, target) for each of one or two targets of a tweet."""
    first, last = rng.permutation(FIRST)[:targets], rng.permutation(LAST)[:targets]
    names = [f"{f} {s}" for f, s in zip(first, last)]
    said = shown.symbols["said"]
    phrase = rng.choice(PLAIN if said == ERASED else SAID[said])
    start, end = STARTS[int(shown.scenes["text"] * len(STARTS))], rng.choice(ENDS)
    texts = []
    for target in names:
        those = " and ".join("$T$" if n == target else n for n in names)
        texts.append((" ".join(w for w in (start, those, phrase, end) if w), target))
    return texts


def _write(root: Path, name: str, rows: Sequence[tuple[int, str, str, str]]) -> None:
    table = [TEST_HEADER if name == "test" else HEADER]
    blocks = []
    for i, (label, picture, text, target) in enumerate(rows, 1):
        table.append(f"{i}\t{label}\t{picture}\t{text}\t{target}\n")
        blocks.append(f"{text}\n{target}\n{label - 1}\n{picture}\n")
    (root / f"{name}.tsv").write_text("".join(table), encoding="utf-8")
    (root / f"{name}.txt").write_text("".join(blocks), encoding="utf-8")

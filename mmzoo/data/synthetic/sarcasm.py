"""Synthetic stand-in for the sarcasm tweets: the class shows in the tone of the text and in a faint spot in the image.

Used by `mmzoo data mini`, and by a bench where the real set is not prepared. Does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from mmzoo.data.synthetic import Streams, Twin, media, render
from mmzoo.data.synthetic.planting import ERASED, Drawn, Planting, Symbol

#: planted value -> phrases that reveal it
TONES = (
    (
        "thank you for",
        "happy about",
        "we enjoyed",
        "so grateful for",
        "good to see",
        "proud of",
        "looking forward to",
        "here is a picture of",
    ),
    (
        "oh great ,",
        "just what i needed :",
        "how lovely ,",
        "wow , thanks for",
        "because who does not want",
        "so glad about yet another",
        "what a surprise :",
        "yeah right ,",
    ),
)
PLAIN = ("about", "today :", "and now", "still", "at last", "news on", "again :", "more of")
THINGS = (
    "the train",
    "this queue",
    "my neighbour 's drums",
    "the weather",
    "a meeting",
    "the printer",
    "rain",
    "homework",
    "the early shift",
    "a flat tyre",
    "the phone call",
    "the update",
    "the new bridge",
    "cold coffee",
    "the exam",
    "a parking ticket",
    "the bus",
    "this song",
    "the game",
    "the garden",
)
ENDS = (
    "",
    ".",
    "!",
    "...",
    "# monday",
    "# work",
    "# life",
    "<user>",
    "emoji_15",
    "emoji_92",
    "<num> times",
    "once more",
)
#: the filter drops a training row with one of these; pictures of such tweets were never published
DROPPED = ("sarcasm", "sarcastic", "irony", "humor", "joke", "<url>")
#: id, text, label
Row = tuple[str, str, int]
FILES = {"train": "train.txt", "holdout": "valid2.txt", "test": "test2.txt"}


class Sarcasm(Twin):
    """text/train.txt, valid2.txt and test2.txt (a list literal a line, CRLF) and dataset_image/<tweet id>.jpg.

    In training there are also rows that the word filter drops, without pictures. Holdout and test carry two labels, of
    which the last one counts; the first differs now and then.
    """

    name = "sarcasm"
    planting = Planting(
        2, {"tone": Symbol(0.96, 0.12), "spot": Symbol(0.96, 0.4)}, {"image": ("spot",), "text": ("tone",)}
    )
    sizes: ClassVar = {"train": 500, "holdout": 100, "test": 300}

    def write(self, root: Path, parts: Mapping[str, Sequence[Drawn]], streams: Streams) -> None:
        for folder in ("text", "dataset_image"):
            (root / folder).mkdir()
        tweet = 910_308_516_510_011_393  # beyond what a float can count
        for part, items in parts.items():
            rows: list[Row] = []
            for item in items:
                tweet += int(streams("id", tweet).integers(1_000, 10**9))
                rng = streams(str(tweet))
                rows.append((str(tweet), tweet_text(item.symbols["tone"], item.scenes["text"], rng), item.label))
                self._picture(root / "dataset_image" / f"{tweet}.jpg", item, rng)
                streams.on_item()
            chance = streams(self.name, part, "labels")
            if part == "train":
                rows += _never_published(tweet, max(1, len(rows) // 4), chance)
                lines = [[*row] for row in rows]
            else:
                lines = [[name, text, label ^ int(chance.random() < 0.05), label] for name, text, label in rows]
            content = "".join(f"{line!r}\r\n" for line in lines)
            (root / "text" / FILES[part]).write_text(content, encoding="utf-8", newline="")

    def _picture(self, path: Path, item: Drawn, rng: np.random.Generator) -> None:
        frames = render.spots(item.symbols["spot"], self.planting.n_classes, rng, frames=1, size=48, contrast=60)
        media.jpeg(path, frames[0], render.tint(item.scenes["image"], rng))


def tweet_text(tone: int, scene: float, rng: np.random.Generator) -> str:
    """The tone opens it, the scene chooses the thing that it is about, and all else is drawn."""
    opening = rng.choice(PLAIN if tone == ERASED else TONES[tone])
    thing = THINGS[int(scene * len(THINGS))]
    return " ".join(w for w in (opening, thing, rng.choice(ENDS), rng.choice(ENDS)) if w)


def _never_published(tweet: int, count: int, rng: np.random.Generator) -> list[Row]:
    """Rows with a word that the filter looks for."""
    return [
        (str(tweet + 7 * i + 1), f"{tweet_text(ERASED, rng.random(), rng)} {rng.choice(DROPPED)}", i % 2)
        for i in range(count)
    ]

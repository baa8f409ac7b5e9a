"""Multi-modal sarcasm detection on Twitter (Cai, Cai and Wan 2019): a tweet's picture and its text."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from mmzoo.data.fields.image import Image
from mmzoo.data.fields.text import Tokens
from mmzoo.data.sources import textfiles
from mmzoo.data.sources.source import File, Item, Listing, Media, Recipe, Source, Text
from mmzoo.errors import BadValue

CLASSES = ("not sarcastic", "sarcastic")
#: of rows with one of these the pictures were never published; the authors' loader drops them
DROPPED = ("exgag", "sarcasm", "sarcastic", "reposting", "<url>", "joke", "humour", "humor", "jokes", "irony", "ironic")
FILES = {"train": ("train.txt",), "holdout": ("valid2.txt", "valid.txt"), "test": ("test2.txt", "test.txt")}
#: characters of a line beyond which it is no row
LONGEST = 100_000
FILTERS: Mapping[str, Callable[[str], bool]] = {
    "tokens": lambda text: not set(DROPPED) & set(text.split()),
    "substring": lambda text: not any(word in text for word in DROPPED),
    "none": lambda text: True,
}


class Sarcasm(Source):
    """Items are tweets; their ids exceed 2^53 and are always texts.

    filter: "tokens" leaves a row of train out when one of DROPPED is one of its words: 19,816 rows of train, the number in papers.
    "substring" looks for them within words too (19,557), "none" keeps all 29,040, a third of whose pictures do not exist.
    Validation and test have no such word, and are never filtered.
    Validation and test rows carry two labels, by hashtag and by hand: the last one counts.
    """

    name = "sarcasm"
    layout = "text/train.txt, text/valid2.txt, text/test2.txt (or beside it) and dataset_image/<tweet id>.jpg"
    obtain = (
        "github.com/headacheboy/data-of-multimodal-sarcasm-detection, pictures by its links (no licence is stated; tweets are "
        "under the terms of X: research use)"
    )
    splits: ClassVar = {"published": "the authors' train, validation and test files"}

    @classmethod
    def recipes(cls) -> Mapping[str, Recipe]:
        return {r.name: r for r in _recipes()}

    def list(  # type: ignore[override]
        self, root: Path, *, split: str = "published", splits_dir: Path | None = None, filter: str = "tokens"
    ) -> Listing:
        textfiles.folder(root)
        if filter not in FILTERS:
            raise BadValue(f"filter must be one of {', '.join(FILTERS)}, not {filter!r}.")
        places = [splits_dir] if splits_dir is not None else [root / "text", root]
        reading, left_out = textfiles.Reading(), 0
        for side, names in FILES.items():
            path = textfiles.first_file(places, names)
            if path is None:
                raise BadValue(
                    f"there is no {names[0]} in {places[0]} or {root}. Layout: {self.layout}. Source: {self.obtain}"
                )
            reading.sources.append(path)
            for where, line in textfiles.rows_of(path):
                row = parsed(line, labels=1 if side == "train" else 2)
                if isinstance(row, str):
                    reading.annotation(row, where)
                elif side != "train" or FILTERS[filter](row[1]):
                    media: dict[str, Media] = {
                        "image": File(root / "dataset_image" / f"{row[0]}.jpg"),
                        "text": Text(row[1]),
                    }
                    reading.items.append(Item(row[0], row[2], media, side, None, where))
                else:
                    left_out += 1
        words = f"the authors' files; {left_out:,} rows of train with a word of their filter ({filter}) left out"
        return reading.listing(CLASSES, words)


def parsed(line: str, *, labels: int) -> tuple[str, str, int] | str:
    """(tweet id, text, label) of a line such as `['9103', 'a text', 1]`, or in words what is wrong with it."""
    wanted = f"is not like ['910308516510011393', 'a text', 1{', 1' * (labels - 1)}]"
    shown = f"{textfiles.shortened(line)} {wanted}"
    if len(line) > LONGEST or not line.lstrip().startswith("["):
        return shown
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unknown escapes such as \d
            row = ast.literal_eval(line.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return shown
    if not (isinstance(row, list) and len(row) == 2 + labels and all(isinstance(x, str) for x in row[:2])):
        return shown
    tweet, text, *told = row
    if not (tweet.isascii() and tweet.isdigit() and len(tweet) <= 30):
        return f"{textfiles.shortened(tweet)} is no tweet id: digits in quotes"
    if any(isinstance(x, bool) or x not in (0, 1) for x in told):
        return f"a label is 0 or 1, not {told!r:.60}"
    return tweet, text, int(told[-1])


def _recipes() -> Iterator[Recipe]:
    options = {"filter": "tokens"}
    stretched = Image(224, fit="stretch")
    yield Recipe(
        "default",
        {"image": Image(256), "text": Tokens(length=128)},
        options,
        "mmzoo's own: the picture's middle square; up to 128 word pieces of a vocabulary built from the training texts",
    )
    yield Recipe(
        "paper",
        {"image": Image(256), "text": Tokens("google-bert/bert-base-uncased", 128)},
        options,
        "for ResNet-50 and BERT as in the dynamic-gap paper: 128 word pieces, where it says characters (15 % would be cut)",
    )
    yield Recipe(
        "amss",
        {"image": stretched, "text": Tokens("google-bert/bert-base-uncased", 128, special=False)},
        options,
        "AMSS's image-text loader: 224 pixels stretched, 128 word pieces without [CLS] and [SEP]",
    )
    yield Recipe(
        "clip",
        {"image": Image(224, fit="clip"), "text": Tokens("openai/clip-vit-base-patch32", 77)},
        options,
        "for CLIP's encoders, as in the dynamic-gap paper's table of backbones: 77 pieces",
    )
    yield Recipe(
        "substring",
        {"image": Image(256), "text": Tokens(length=128)},
        {"filter": "substring"},
        "as default, with the filter's words looked for within words too: 19,557 rows of train",
    )
    yield Recipe(
        "mini",
        {"image": Image(16), "text": Tokens(length=24)},
        options,
        "for the synthetic set: small pictures and short texts, which a CPU trains on in seconds",
    )

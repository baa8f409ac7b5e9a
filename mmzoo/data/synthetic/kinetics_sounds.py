"""A twin of Kinetics-Sounds: one chord and one faint spot in each clip."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from mmzoo.data.synthetic import Streams, Twin, media, render
from mmzoo.data.synthetic.planting import Drawn, Planting, Symbol

#: YouTube's; a name may begin with any of them
LETTERS = string.ascii_letters + string.digits + "-_"


class KineticsSounds(Twin):
    """train/ and test/ with <youtube id>_<start>_<end>.mp4 (MPEG-4 and AAC), and OGM-GE's my_train.txt and my_test.txt, of which
    the second writes ids without padding and end. The clips are much shorter than ten seconds."""

    name = "kinetics_sounds"
    planting = Planting(
        31, {"tone": Symbol(0.96, 0.3), "spot": Symbol(0.96, 0.12)}, {"audio": ("tone",), "video": ("spot",)}
    )
    sizes: ClassVar = {"train": 36, "test": 17}

    def write(self, root: Path, parts: Mapping[str, Sequence[Drawn]], streams: Streams) -> None:
        chance = streams(self.name, "ids")
        for part, items in parts.items():
            (root / part).mkdir()
            lines = []
            for item in items:
                video = "".join(chance.choice(list(LETTERS), 11))
                start = int(chance.integers(300))
                name = f"{video}_{start:06d}_{start + 10:06d}"
                listed = name if part == "train" else f"{video}_{start}"
                lines.append(f"{listed},10,{item.label}\n")
                self._clip(root / part / f"{name}.mp4", item, streams(name))
                streams.on_item()
            (root / f"my_{part}.txt").write_text("".join(lines), encoding="utf-8")

    def _clip(self, path: Path, item: Drawn, rng: np.random.Generator) -> None:
        n = self.planting.n_classes
        scene = item.scenes["audio"]
        sound = render.chord(item.symbols["tone"], n, rng, scene=scene, seconds=0.256, level=0.2)
        frames = render.spots(item.symbols["spot"], n, rng, frames=12, size=32, contrast=85)
        tint = render.tint(item.scenes["video"], rng)
        media.video(path, frames, codec="mpeg4", rate=4, options=media.MPEG4, tint=tint, sound=sound)

"""A twin of CREMA-D: one chord in each recording, one faint spot in each clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from mmzoo.data.synthetic import Streams, Twin, media, render
from mmzoo.data.synthetic.planting import Drawn, Planting, Symbol

EMOTIONS = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")
SENTENCES = ("IEO", "TIE", "IOM", "IWW", "TAI", "MTI", "IWL", "ITH", "DFA", "ITS", "TSI", "WSI")
ACTORS = range(1001, 1092)


class CremaD(Twin):
    """AudioWAV/*.wav (16 kHz), VideoFlash/*.flv (Sorenson's H.263), and OGM-GE's train.csv, test.csv and stat.csv.

    The clips have no sound: what is heard is in AudioWAV, which is where it is taken from in the real set too.
    """

    name = "cremad"
    planting = Planting(
        6, {"tone": Symbol(0.96, 0.3), "spot": Symbol(0.96, 0.12)}, {"audio": ("tone",), "video": ("spot",)}
    )
    sizes: ClassVar = {"train": 200, "test": 100}

    def write(self, root: Path, parts: Mapping[str, Sequence[Drawn]], streams: Streams) -> None:
        for folder in ("AudioWAV", "VideoFlash"):
            (root / folder).mkdir()
        names = _names(streams)
        for part, items in parts.items():
            lines = []
            for item in items:
                name = names[item.label].pop()
                lines.append(f"{name},{EMOTIONS[item.label]}\n")
                self._media(root, name, item, streams)
            (root / f"{part}.csv").write_text("".join(lines), encoding="utf-8")
        (root / "stat.csv").write_text("\r\n".join([*EMOTIONS, ""]), encoding="utf-8-sig", newline="")

    def _media(self, root: Path, name: str, item: Drawn, streams: Streams) -> None:
        rng = streams(name)
        n = self.planting.n_classes
        media.wav(root / "AudioWAV" / f"{name}.wav", self._sound(item, rng), 16_000)
        frames = render.spots(item.symbols["spot"], n, rng, frames=12, size=32, contrast=48)
        media.video(
            root / "VideoFlash" / f"{name}.flv",
            frames,
            codec="flv",
            rate=4,
            options=media.FLV,
            tint=render.tint(item.scenes["video"], rng),
        )
        streams.on_item()

    def _sound(self, item: Drawn, rng: np.random.Generator) -> np.ndarray:
        scene = item.scenes["audio"]
        return render.chord(item.symbols["tone"], self.planting.n_classes, rng, scene=scene, seconds=0.5)


def _names(streams: Streams) -> list[list[str]]:
    """For each class the names of clips, in random order: <actor>_<sentence>_<emotion>_XX."""
    found = []
    for emotion in EMOTIONS:
        names = [f"{actor}_{sentence}_{emotion}_XX" for actor in ACTORS for sentence in SENTENCES]
        streams("names", emotion).shuffle(names)
        found.append(names)
    return found

"""Synthetic stand-in for NVGesture: the colour stream shows a faint moving spot, the depth stream a stationary one.

Used by `mmzoo data mini`, and by a bench where the real set is not prepared. Does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmzoo.data.synthetic import Streams, Twin, media, render
from mmzoo.data.synthetic.planting import Drawn, Planting, Symbol

SUBJECTS = {"train": (1, 2, 3, 4, 6, 7, 11, 12, 15, 16, 17, 18), "test": (5, 8, 9, 13, 14, 20)}
#: number of samples per split that are mislabelled in version 1 of the lists, and so in the folder names
RELABELLED = {"train": 15, "test": 8}
#: frames of a clip, of the gesture within it, and of one wave
FRAMES, SPAN, PERIOD = 90, 80, 9
AVI: Any = {"codec": "mpeg4", "rate": 30, "options": media.MPEG4}


class NVGesture(Twin):
    """Video_data/class_XX/subjectK_rJ/ with sk_color.avi and sk_depth.avi (MPEG-4), and both versions of the lists.

    Version 2 corrects some labels; folder names are unchanged, as in the real set. There are no duo streams. Optical
    flow of the colour stream is stored in Video_data/flow_data/, in the format that AMSS reads; OpenCV is not needed.
    """

    name = "nvgesture"
    planting = Planting(
        25,
        {"motion": Symbol(0.96, 0.15), "place": Symbol(0.96, 0.3)},
        {"rgb": ("motion",), "depth": ("place",), "flow": ("motion",)},
    )
    sizes: ClassVar = {"train": 40, "test": 20}

    def write(self, root: Path, parts: Mapping[str, Sequence[Drawn]], streams: Streams) -> None:
        for part, items in parts.items():
            chance = streams(self.name, part, "lists")
            flows = root / "Video_data" / "flow_data" / part
            flows.mkdir(parents=True)
            wrong = set(chance.choice(len(items), min(RELABELLED[part], len(items) // 4), replace=False).tolist())
            lists: dict[str, list[str]] = {"": [], "_v2": []}
            taken: dict[int, int] = {}
            for i, item in enumerate(items):
                first = (item.label + 1) % self.planting.n_classes if i in wrong else item.label
                number = taken[first] = taken.get(first, -1) + 1
                subjects = SUBJECTS[part]
                subject, repetition = subjects[number % len(subjects)], number // len(subjects)
                folder = f"Video_data/class_{first + 1:02d}/subject{subject}_r{repetition}"
                start = int(chance.integers(3, 10))
                span = f"{start}:{start + SPAN}"
                duo = f"{start * 35 // 30}:{start * 35 // 30 + 93}"
                for version, label in (("", first), ("_v2", item.label)):
                    lists[version].append(
                        f"path:./{folder} depth:sk_depth:{span} color:sk_color:{span} duo_left:duo_left:{duo} label:{label + 1} "
                    )
                self._media(root / folder, flows / f"{i}.npy", item, start, streams(folder))
                streams.on_item()
            for version, lines in lists.items():  # the real lists too end with a blank and without a newline
                (root / f"nvgesture_{part}_correct_cvpr2016{version}.lst").write_text(
                    "\n".join(lines), encoding="utf-8"
                )

    def _media(self, folder: Path, flow: Path, item: Drawn, start: int, rng: np.random.Generator) -> None:
        folder.mkdir(parents=True)
        n, order = self.planting.n_classes, np.arange(FRAMES) + rng.integers(PERIOD)
        colour, motion = render.waving(
            item.symbols["motion"],
            n,
            rng,
            period=PERIOD,
            size=32,
            contrast=130,
            scene=item.scenes["flow"],
            background=20,
        )
        tint = render.tint(item.scenes["rgb"], rng)
        media.video(folder / "sk_color.avi", colour, order=order % PERIOD, tint=tint, **AVI)
        depth = render.spots(
            item.symbols["place"],
            n,
            rng,
            frames=1,
            size=32,
            contrast=100,
            background=15,
            noise=2,
            brightness=item.scenes["depth"],
        )
        media.video(folder / "sk_depth.avi", depth, order=0 * order, **AVI)
        np.save(flow, motion[order[start : start + SPAN - 1] % PERIOD].transpose(1, 2, 3, 0))

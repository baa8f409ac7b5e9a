"""NVGesture (Molchanov et al. 2016): 25 hand gestures in a car, in colour and depth; optical flow as a third modality."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from mmzoo.data.fields.flow import Flow
from mmzoo.data.fields.video import Frames
from mmzoo.data.sources import textfiles
from mmzoo.data.sources.source import File, Item, Listing, Media, Recipe, Source
from mmzoo.errors import BadValue

#: in the order of the labels, which the lists count from 1
CLASSES = (
    "five fingers move right",
    "five fingers move left",
    "five fingers move up",
    "five fingers move down",
    "two fingers move right",
    "two fingers move left",
    "two fingers move up",
    "two fingers move down",
    "click",
    "beckoned",
    "stretch hand",
    "shake hand",
    "one",
    "two",
    "three",
    "lift up",
    "press down",
    "push",
    "shrink",
    "levorotation",
    "dextrorotation",
    "two fingers prod",
    "grab",
    "thumbs up",
    "OK",
)
#: left and right changed, a clip of one is a clip of the other: never flip
MIRRORED = ((0, 1), (4, 5), (19, 20))
LISTS = {
    "v2": (
        "nvgesture_{}_correct_cvpr2016_v2.lst",
        "nvgesture_{}_correct_v2.lst",
        "nvgesture_{}_correct_cvpr2016_v2_mini.lst",
    ),
    "v1": ("nvgesture_{}_correct_cvpr2016.lst", "nvgesture_{}_correct.lst"),
}
FOLDER = re.compile(r"(?:\./)?Video_data/(?P<clip>class_\d{2}/subject(?P<subject>\d{1,3})_r\d{1,3})")
SPAN = re.compile(r"(?P<file>sk_color|sk_depth):(?P<start>\d{1,6}):(?P<end>\d{1,6})")


class NVGesture(Source):
    """Items are gestures, named by their folder; subjects are groups, and train and test share none.

    The label is that of the list, not of the folder: version 2 of the lists corrects 23 labels and moves no folder. lists:
    "v2" or "v1". colour: "sk_color" is the camera's picture; "sk_wrapped" the same laid onto the depth picture. flow:
    "computed" from the colour stream, or "stored": Video_data/flow_data/<train or test>/<row from 0>.npy as AMSS keeps it, or
    "none".
    """

    name = "nvgesture"
    layout = (
        "Video_data/class_XX/subjectK_rJ/ with sk_color.avi and sk_depth.avi, and "
        "nvgesture_{train,test}_correct_cvpr2016_v2.lst beside Video_data or in --splits DIR"
    )
    obtain = "NVIDIA's page `Online Detection and Classification of Dynamic Hand Gestures with Recurrent 3D CNN` (41 GB; treat as non-commercial)"
    splits: ClassVar = {"published": "NVIDIA's lists: 1,050 train and 482 test clips of other subjects"}

    @classmethod
    def recipes(cls) -> Mapping[str, Recipe]:
        return {r.name: r for r in _recipes()}

    def list(  # type: ignore[override]
        self,
        root: Path,
        *,
        split: str = "published",
        splits_dir: Path | None = None,
        lists: str = "v2",
        colour: str = "sk_color",
        flow: str = "computed",
    ) -> Listing:
        textfiles.folder(root)
        for name, given, known in (
            ("lists", lists, tuple(LISTS)),
            ("colour", colour, ("sk_color", "sk_wrapped")),
            ("flow", flow, ("computed", "stored", "none")),
        ):
            if given not in known:
                raise BadValue(f"{name} must be {' or '.join(known)}, not {given!r}.")
        reading = textfiles.Reading()
        for side in ("train", "test"):
            names = [name.format(side) for name in LISTS[lists]]
            path = textfiles.first_file([splits_dir or root], names)
            if path is None:
                raise BadValue(
                    f"there is no {names[0]} in {splits_dir or root}. Layout: {self.layout}. Source: {self.obtain}"
                )
            reading.sources.append(path)
            for index, (where, line) in enumerate(textfiles.rows_of(path)):
                row = parsed(line)
                if isinstance(row, str):
                    reading.annotation(row, where)
                    continue
                media = row.media(root / "Video_data", colour)
                if flow != "none":
                    stored = File(root / "Video_data" / "flow_data" / side / f"{index}.npy")
                    media = {**media, "flow": stored if flow == "stored" else media["rgb"]}
                reading.items.append(Item(row.clip, row.label, media, side, f"subject{row.subject}", where))
        return reading.listing(CLASSES, f"NVIDIA's lists, version {lists[1]}")


@dataclass(frozen=True)
class Row:
    clip: str
    subject: int
    label: int
    color: tuple[int, int]
    depth: tuple[int, int]

    def media(self, videos: Path, colour: str) -> dict[str, Media]:
        """The wrapped colour stream is laid onto the depth stream, and counts its frames."""
        span = self.color if colour == "sk_color" else self.depth
        return {
            "rgb": File(videos / self.clip / f"{colour}.avi", *span),
            "depth": File(videos / self.clip / "sk_depth.avi", *self.depth),
        }


def parsed(line: str) -> Row | str:
    """A row of `path:./Video_data/... depth:sk_depth:146:226 color:sk_color:146:226 ... label:1`, or what is wrong with it."""
    told = dict(cell.partition(":")[::2] for cell in line.split())
    if missing := [key for key in ("path", "depth", "color", "label") if key not in told]:
        return f"{textfiles.shortened(line)} has no {missing[0]}:"
    folder = FOLDER.fullmatch(told["path"])
    if folder is None:
        return f"{textfiles.shortened(told['path'])} is not like ./Video_data/class_01/subject3_r0"
    label = told["label"]
    if not (label.isascii() and label.isdigit() and 1 <= int(label[:9]) <= len(CLASSES)):
        return f"the label is one of 1 to {len(CLASSES)}, not {textfiles.shortened(label)}"
    spans = {}
    for key in ("color", "depth"):
        match = SPAN.fullmatch(told[key])
        if match is None or not int(match["start"]) < int(match["end"]) or match["file"] != f"sk_{key}":
            return f"{textfiles.shortened(told[key])} is no span such as sk_{key}:146:226"
        spans[key] = int(match["start"]), int(match["end"])
    return Row(folder["clip"], int(folder["subject"]), int(label) - 1, spans["color"], spans["depth"])


def _recipes() -> Iterator[Recipe]:
    usual = {"lists": "v2", "colour": "sk_color", "flow": "computed"}
    own = {"rgb": Frames(32, 160), "depth": Frames(32, 160, channels=1), "flow": Flow(32, 160)}
    whole = {"rgb": Frames(80, 256, fit="stretch"), "depth": Frames(80, 256, channels=1, fit="stretch")}
    yield Recipe(
        "default",
        own,
        usual,
        "mmzoo's own: 32 frames from 32 equal parts of the 80 of a gesture, 160 pixels, and flow at the same frames",
    )
    yield Recipe(
        "paper",
        own,
        usual,
        "the dynamic-gap paper states RGB, depth and flow and no more, and released no code for it: the same as default",
    )
    yield Recipe(
        "amss",
        {**whole, "flow": Flow(79, 256, fit="stretch")},
        {**usual, "flow": "stored"},
        "AMSS's loader: all 80 frames stretched to 256 pixels, flow read from flow_data/ (its values clipped at 20 pixels)",
    )
    yield Recipe(
        "rgb_depth", {m: own[m] for m in ("rgb", "depth")}, {**usual, "flow": "none"}, "as default, without flow"
    )
    yield Recipe(
        "wrapped",
        own,
        {**usual, "colour": "sk_wrapped"},
        "as default, with the colour stream that is laid onto the depth stream",
    )
    yield Recipe("v1", own, {**usual, "lists": "v1"}, "as default, with the labels of version 1 of the lists")
    yield Recipe(
        "mini",
        {"rgb": Frames(4, 16), "depth": Frames(2, 16, channels=1), "flow": Flow(4, 16, bound=2.0)},
        {**usual, "flow": "stored"},
        "for the synthetic set: few small frames, which a CPU trains on in seconds",
    )

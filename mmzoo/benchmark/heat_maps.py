"""Grad-CAM of the items of a data set, and pictures of it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmzoo.benchmark.trained import load_run
from mmzoo.core.model import MultimodalModel
from mmzoo.core.seeding import stream
from mmzoo.data.loading.datamodule import DataModule
from mmzoo.errors import BadValue
from mmzoo.evaluation.gradcam import gradcam

#: a colour map whose lightness rises throughout, so that it reads in grey and to the colour-blind
_RAMP = ((0.0, (0, 0, 40)), (0.35, (90, 20, 110)), (0.6, (200, 60, 70)), (0.85, (250, 170, 40)), (1.0, (255, 255, 190)))
_SIDE, _LABEL = 112, 150


@dataclass(frozen=True)
class Maps:
    """A line of a figure: pictures (N, C, H, W) and their heat (N, H, W), in [0, 1]."""

    label: str
    pictures: Tensor
    heat: Tensor


def drawn_items(data: DataModule, n: int, *, seed: int) -> list[int]:
    """Positions in the test split, drawn by a seed alone. Raises BadValue for more than there are."""
    size = len(data.splits["test"])
    if not 1 <= n <= size:
        raise BadValue(f"--draw must be from 1 to {size}, the number of test samples, not {n}.")
    return sorted(torch.randperm(size, generator=stream(seed, "gradcam items"))[:n].tolist())


def heat_of(
    model: MultimodalModel,
    data: DataModule,
    items: Sequence[int],
    modality: str,
    *,
    branch: bool = False,
    stage: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Pictures as the encoder sees them, brought to 0 ... 1, and the heat of the true class. items: positions in the test split,
    ascending; of a video its middle frame."""
    rows = sorted(data.splits["test"])
    few = replace(data, splits={**data.splits, "test": [rows[i] for i in items]})
    chosen = next(iter(few.loader("test", batch_size=len(items)).batches())).to(next(model.parameters()).device)
    heat = gradcam(model, chosen.inputs, modality, target=chosen.target, branch=branch, stage=stage).cpu()
    pictures = chosen.inputs[modality].float().cpu()
    if pictures.ndim == 5:
        middle = pictures.shape[1] // 2
        pictures, heat = pictures[:, middle], heat[:, middle]
    if pictures.ndim == 3:
        pictures = pictures[:, None]
    low, high = pictures.amin((1, 2, 3), keepdim=True), pictures.amax((1, 2, 3), keepdim=True)
    return (pictures - low) / (high - low).clamp_min(1e-9), heat


def heat_of_run(
    folder: Path,
    items: Sequence[int] | None,
    modality: str | None,
    *,
    draw: int,
    seed: int,
    branch: bool,
    stage: int | None,
    trust: bool,
) -> tuple[Maps, list[int]]:
    """The same of a kept run. items: None for so many drawn ones; modality: None for the first with pictures. Raises BadValue for
    items that the test split has not, and what `load_run` and `gradcam` raise."""
    trained = load_run(folder, trust=trust)
    data = trained.data()
    size = len(data.splits["test"])
    chosen = drawn_items(data, draw, seed=seed) if items is None else sorted(set(items))
    for item in chosen:
        if not 0 <= item < size:
            raise BadValue(f"--items: the test split has the samples 0 to {size - 1}, and no {item}.")
    seen = modality or _pictured(data)
    label = f"{trained.row['label']}, {seen}"
    return Maps(label, *heat_of(trained.model, data, chosen, seen, branch=branch, stage=stage)), chosen


def _pictured(data: DataModule) -> str:
    kinds = {m: data.spec(m).kind for m in data.modalities}
    for kind in ("image", "video", "spectrogram"):
        for m, of in kinds.items():
            if of == kind:
                return m
    told = ", ".join(f"{m} ({k})" for m, k in kinds.items())
    raise BadValue(
        f"no modality of {data.name} is a picture: {told}. Grad-CAM needs an image, a video or a spectrogram."
    )


def figure_png(lines: Sequence[Maps]) -> bytes:
    """A grid: a line for each of the maps, for each item the picture and the heat over it."""
    from PIL import Image, ImageDraw, ImageFont

    n = max(len(line.pictures) for line in lines)
    sheet = Image.new("RGB", (_LABEL + 2 * n * (_SIDE + 4), len(lines) * (_SIDE + 4)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for row, line in enumerate(lines):
        top = row * (_SIDE + 4)
        for part, text in enumerate(line.label.split(", ")):
            draw.text((4, top + 36 + 18 * part), text, fill="black", font=font)
        for i, (picture, heat) in enumerate(zip(line.pictures, line.heat)):
            left = _LABEL + 2 * i * (_SIDE + 4)
            sheet.paste(_image(picture), (left, top))
            sheet.paste(_image(_over(picture, heat)), (left + _SIDE + 2, top))
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()


def _image(picture: Tensor) -> Any:
    from PIL import Image

    colours = picture if len(picture) == 3 else picture.mean(0, keepdim=True).expand(3, -1, -1)
    array = (255 * colours.clamp(0, 1)).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(array).resize((_SIDE, _SIDE), Image.Resampling.NEAREST)


def _over(picture: Tensor, heat: Tensor) -> Tensor:
    """The heat in colours over the picture in grey."""
    grey = picture.mean(0, keepdim=True).expand(3, -1, -1)
    stops = torch.tensor([s for s, _ in _RAMP])
    colours = torch.tensor([c for _, c in _RAMP]) / 255
    at = torch.bucketize(heat.contiguous(), stops[1:-1])
    share = ((heat - stops[at]) / (stops[at + 1] - stops[at])).clamp(0, 1)[..., None]
    ramp = (colours[at] * (1 - share) + colours[at + 1] * share).permute(2, 0, 1)
    return 0.4 * grey + 0.6 * ramp

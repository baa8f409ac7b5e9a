"""What becomes of stored rows as they are read, on whatever device they are: frames chosen, crops, flips, scaling.

Stored rows are as large as any use of them: uint8 pixels, float16 spectrograms, int32 word pieces. A transform makes of them
what an encoder takes. In training it draws; every draw follows from the epoch's stream and the item alone, so that all methods
see the same crops, whatever the batches, and a resumed run sees them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmzoo.errors import BadValue, undefined

#: mean and deviation of ImageNet's pixels in [0, 1], which pretrained image encoders expect
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: a random crop keeps this share of the area at least, at an aspect ratio within 3/4 to 4/3
SMALLEST_CROP, RATIO = 0.35, 4 / 3
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Draws:
    """Uniform numbers of an epoch, fixed by its key, the item and the purpose. All modalities of an item share them, so that
    RGB, depth and flow of one clip are cropped alike."""

    key: int
    items: np.ndarray

    def uniform(self, purpose: str, n: int) -> Tensor:
        """(B, n) float64 in [0, 1)."""
        salt = np.uint64(int.from_bytes(purpose.encode()[:8].ljust(8, b"\0"), "little"))
        base = _mixed(self.items.astype(np.uint64) + _mixed(np.array([self.key], np.uint64) ^ salt))
        counters = (np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN)[None]
        return torch.from_numpy((_mixed(base[:, None] + counters) >> np.uint64(11)).astype(np.float64) / 2.0**53)


def _mixed(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64: every bit of the input moves every bit of the output."""
    x = (x ^ (x >> np.uint64(30))) * _MIX[0]
    x = (x ^ (x >> np.uint64(27))) * _MIX[1]
    mixed: np.ndarray = x ^ (x >> np.uint64(31))
    return mixed


class Transform:
    """shape: that of one item as an encoder gets it. draws: None outside training."""

    shape: tuple[int, ...]

    def __call__(self, raw: Any, draws: Draws | None) -> Any:
        raise undefined(self, "__call__")


class Vectors(Transform):
    """Numbers as float32."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        return raw.float()


class Padded(Transform):
    """Tokens or series with their mask, which becomes bool. Steps that are padding in all of a batch are cut off.

    Word pieces (ids, segment) become int64, the values of series (B, C, T) float32. shape: of one item's ids or values.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __call__(self, raw: Mapping[str, Tensor], draws: Draws | None) -> dict[str, Tensor]:
        mask = raw["mask"].bool()
        used = mask.any(0).nonzero()
        length = max(1, int(used.max()) + 1 if len(used) else 1)
        cut = {k: mask[:, :length] if k == "mask" else x[..., :length] for k, x in raw.items()}
        return {k: x if k == "mask" else x.float() if k == "values" else x.long() for k, x in cut.items()}


class Pixels(Transform):
    """Pictures (B, S, S, C) or clips (B, T, S, S, C) of uint8 to float (B, C, s, s) or (B, k, C, s, s).

    frames: k of the stored T: the middle of each k-th in evaluation, one drawn from each in training. crop: a drawn part of the
    picture, brought to s by linear interpolation; in evaluation the middle square of s at the stored scale where s < S. flip:
    left and right changed for half of the clips. Three channels are scaled as pretrained encoders expect, others to -1 ... 1.
    """

    def __init__(
        self, stored: tuple[int, ...], *, frames: int | None, size: int | None, crop: bool, flip: bool
    ) -> None:
        side, channels = stored[-2], stored[-1]
        self.size = side if size is None else size
        if not 1 <= self.size <= side:
            raise BadValue(f"size must be between 1 and the {side} pixels that are stored, not {self.size}.")
        self.clip = len(stored) == 4
        self.stored_frames = stored[0] if self.clip else 1
        self.frames = self.stored_frames if frames is None or not self.clip else frames
        if not 1 <= self.frames <= self.stored_frames:
            raise BadValue(f"frames must be between 1 and the {self.stored_frames} that are stored, not {self.frames}.")
        self.crop, self.flip = crop, flip
        one = (channels, self.size, self.size)
        self.shape = (self.frames, *one) if self.clip else one
        scale = (MEAN, DEVIATION) if channels == 3 else ((0.5,) * channels, (0.5,) * channels)
        self.mean, self.deviation = (torch.tensor(v).view(-1, 1, 1) * 255 for v in scale)

    def __call__(self, raw: Tensor, draws: Draws | None) -> Tensor:
        x = self._chosen(raw, draws) if self.clip else raw[:, None]
        x = x.permute(0, 1, 4, 2, 3)  # (B, k, C, S, S)
        x = self._cropped(x, draws) if draws is not None and self.crop else self._flipped(self._middle(x), draws)
        x = (x.float() - self.mean.to(x.device, non_blocking=True)) / self.deviation.to(x.device, non_blocking=True)
        return x if self.clip else x[:, 0]

    def _chosen(self, raw: Tensor, draws: Draws | None) -> Tensor:
        if self.frames == self.stored_frames:
            return raw
        edges = torch.arange(self.frames + 1) * self.stored_frames // self.frames
        first, length = edges[:-1], edges[1:] - edges[:-1]
        if draws is None:
            return raw[:, (first + (length - 1) // 2).to(raw.device, non_blocking=True)]
        at = first + (draws.uniform("frames", self.frames) * length).long()
        return raw[torch.arange(len(raw), device=raw.device)[:, None], at.to(raw.device, non_blocking=True)]

    def _middle(self, x: Tensor) -> Tensor:
        start = (x.shape[-1] - self.size) // 2
        return x[..., start : start + self.size, start : start + self.size]

    def _flipped(self, x: Tensor, draws: Draws | None) -> Tensor:
        if draws is None or not self.flip:
            return x
        turned = (draws.uniform("flip", 1)[:, 0] < 0.5).to(x.device, non_blocking=True)
        return torch.where(turned.view(-1, 1, 1, 1, 1), x.flip(-1), x)

    def _cropped(self, x: Tensor, draws: Draws) -> Tensor:
        """Random resized crops, one a clip, with the flip in the same interpolation."""
        u = draws.uniform("crop", 4)
        area = SMALLEST_CROP + (1 - SMALLEST_CROP) * u[:, 0]
        ratio = torch.exp((2 * u[:, 1] - 1) * float(np.log(RATIO)))
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        left, top = (2 * u[:, 2] - 1) * (1 - width), (2 * u[:, 3] - 1) * (1 - height)
        if self.flip:
            width = torch.where(draws.uniform("flip", 1)[:, 0] < 0.5, -width, width)
        zero = torch.zeros_like(width)
        theta = torch.stack([torch.stack([width, zero, left], 1), torch.stack([zero, height, top], 1)], 1)
        b, k, c = x.shape[:3]
        grid = torch.nn.functional.affine_grid(
            theta.float().to(x.device, non_blocking=True), [b, 1, self.size, self.size], align_corners=False
        )
        flat = x.reshape(b, k * c, *x.shape[3:]).float()
        out = torch.nn.functional.grid_sample(flat, grid, mode="bilinear", padding_mode="border", align_corners=False)
        return out.view(b, k, c, self.size, self.size)


def transform_for(
    kind: str,
    parts: Mapping[str, tuple[int, ...]],
    *,
    frames: int | None = None,
    size: int | None = None,
    crop: bool = False,
    flip: bool = False,
) -> Transform:
    """The transform of a modality. parts: part -> shape of one stored row. Raises BadValue for a value out of range."""
    if kind in ("image", "video"):
        return Pixels(parts[""], frames=frames, size=size, crop=crop, flip=flip)
    if kind == "text":
        return Padded(parts["ids"])
    if kind == "series":
        return Padded(parts["values"])
    return Vectors(parts[""])

"""Test inputs with missing or corrupted modalities, drawn sample by sample.

The corruption of a sample depends on its index, the modality and the corruption only: it is the same for every method,
seed, batch size and strength, so that curves of two methods differ by the methods only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmzoo.core.encoder import InputSpec
from mmzoo.core.seeding import stream
from mmzoo.core.values import Batch, map_tensors

#: shares of the test samples that lack a modality
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


# ---------------------------------------------------------------------------------------------- missing
def ranks_of(index: Tensor, modality: str) -> Tensor:
    """The order in which samples lose a modality.

    Args:
        index: (N,), the indices of all test samples.
        modality: the modality.

    Returns:
        (max + 1,), the rank of each index, from 0.
    """
    order = index.sort().values[torch.randperm(len(index), generator=stream(0, "stress", "missing", modality))]
    ranks = torch.zeros(int(index.max()) + 1, dtype=torch.long)
    ranks[order] = torch.arange(len(index))
    return ranks


def without(batch: Batch, modality: str, lacks: Tensor) -> Batch:
    """The batch with a modality removed from some samples, as if missing in the data: zeros, and `present` is False.

    Args:
        batch: the batch.
        modality: the modality.
        lacks: (B,) bool, the samples that lose it.
    """
    names = list(batch.inputs)
    present = batch.present
    if present is None:
        present = torch.ones(len(batch), len(names), dtype=torch.bool, device=lacks.device)
    present = present.clone()
    present[:, names.index(modality)] &= ~lacks

    def emptied(x: Tensor) -> Tensor:
        return torch.where(lacks.view(-1, *[1] * (x.dim() - 1)), torch.zeros_like(x), x)

    inputs = {**batch.inputs, modality: map_tensors(batch.inputs[modality], emptied)}
    return replace(batch, inputs=inputs, present=present)


# ---------------------------------------------------------------------------------------------- corrupted
@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of a modality over the training samples, broadcastable with one sample.

    A feature of a vector, a band of a spectrogram and a channel of an image each have their own.

    Args:
        mean: the mean.
        std: the standard deviation.
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, batches: Iterable[Batch], modality: str, spec: InputSpec) -> Scale:
        """Measure it over the samples that have the modality; zeros if none has.

        Args:
            batches: training batches.
            modality: the modality.
            spec: its input.
        """
        axes = [0, *(1 + a for a in _SPREAD_OVER[spec.kind])]
        count, total, square = 0, torch.zeros(()), torch.zeros(())
        for batch in batches:
            given, mask = batch.inputs[modality], None
            if isinstance(given, Mapping):  # a series, zeros under its padding
                mask = given["mask"].cpu()
                given = torch.where(given["mask"][:, None], given["values"], 0.0)
            x = given.double().cpu()
            if batch.present is not None:
                seen = batch.present[:, list(batch.inputs).index(modality)].cpu()
                x, mask = x[seen], None if mask is None else mask[seen]
            count += math.prod(x.shape[a] for a in axes) if mask is None else int(mask.sum())
            total = total + x.sum(axes, keepdim=True)[0]
            square = square + x.square().sum(axes, keepdim=True)[0]
        mean = total / max(count, 1)
        std = (square / max(count, 1) - mean.square()).clamp_min(0.0).sqrt()
        return cls(mean.float(), std.float())


#: the axes of a sample over which mean and deviation are taken, by kind
_SPREAD_OVER: Mapping[str, tuple[int, ...]] = {
    "vector": (),
    "series": (1,),
    "spectrogram": (1,),
    "image": (1, 2),
    "video": (0, 2, 3),
}


@dataclass(frozen=True)
class Corruption:
    """A corruption of the input of one modality.

    Args:
        name: name in tables.
        levels: its five strengths.
        unit: unit of the levels.
        apply: (one sample, level, scale, generator) -> the corrupted sample. A sample of text or series is a mapping of
            tensors.
    """

    name: str
    levels: tuple[float, float, float, float, float]
    unit: str
    apply: Callable[[Any, float, Scale | None, torch.Generator], Any]


def corrupted(batch: Batch, modality: str, corruption: Corruption, level: float, scale: Scale | None) -> Batch:
    """The batch with one modality corrupted in every sample that has it.

    Args:
        batch: the batch.
        modality: the modality.
        corruption: the corruption.
        level: its strength.
        scale: statistics of the modality; None if the corruption needs none.
    """
    x, column = batch.inputs[modality], list(batch.inputs).index(modality)
    spoilt = []
    for row, number in enumerate(batch.index.tolist()):
        one = map_tensors(x, partial(_row, row=row))
        if batch.present is None or bool(batch.present[row, column]):
            one = corruption.apply(one, level, scale, stream(0, "stress", corruption.name, modality, number))
        spoilt.append(one)
    return replace(batch, inputs={**batch.inputs, modality: _stacked(spoilt, x)})


def _row(x: Tensor, row: int) -> Tensor:
    return x[row].cpu()


def _stacked(samples: list[Any], like: Any) -> Any:
    if isinstance(like, Mapping):
        return {k: _stacked([s[k] for s in samples], v) for k, v in like.items()}
    return torch.stack(samples).to(like)


def _noise(x: Tensor, level: float, scale: Scale | None, generator: torch.Generator) -> Tensor:
    assert scale is not None
    return x + level * scale.std * torch.randn(x.shape, generator=generator)


def _noisy_series(
    x: Mapping[str, Tensor], level: float, scale: Scale | None, generator: torch.Generator
) -> dict[str, Tensor]:
    """Noise on the steps that are there. x: values (C, T) and mask (T,)."""
    return {**x, "values": torch.where(x["mask"], _noise(x["values"], level, scale, generator), x["values"])}


def _lost_steps(
    x: Mapping[str, Tensor], level: float, scale: Scale | None, generator: torch.Generator
) -> dict[str, Tensor]:
    """A stretch of the steps that are there at the mean of each channel. x: values (C, T) and mask (T,)."""
    n = int(x["mask"].sum())
    silent = _silence(x["values"][:, :n], level, scale, generator)
    return {**x, "values": torch.cat([silent, x["values"][:, n:]], 1)}


def _silence(x: Tensor, level: float, scale: Scale | None, generator: torch.Generator) -> Tensor:
    """A stretch of time at the mean of each band. x: (F, T)."""
    assert scale is not None
    n = x.shape[-1]
    length = round(level * n)
    start = int(torch.rand((), generator=generator) * (n - length + 1))
    hidden = (torch.arange(n) >= start) & (torch.arange(n) < start + length)
    return torch.where(hidden, scale.mean.expand_as(x), x)


def _blur(x: Tensor, level: float, scale: Scale | None, generator: torch.Generator) -> Tensor:
    """Each channel under a Gaussian window; borders repeat. x: (..., H, W)."""
    sigma = level * min(x.shape[-2:])
    reach = max(1, round(3 * sigma))
    window = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma).square())
    window = (window / window.sum()).to(x)
    flat = x.reshape(-1, 1, *x.shape[-2:])
    flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0), mode="replicate"), window[None, None, None, :])
    flat = F.conv2d(F.pad(flat, (0, 0, reach, reach), mode="replicate"), window[None, None, :, None])
    return flat.reshape(x.shape)


def _contrast(x: Tensor, level: float, scale: Scale | None, generator: torch.Generator) -> Tensor:
    """Entries move towards the mean of their sample's channel by a share `level`. x: (..., H, W)."""
    return x.lerp(x.mean((-2, -1), keepdim=True), level)


def _deletion(
    x: Mapping[str, Tensor], level: float, scale: Scale | None, generator: torch.Generator
) -> dict[str, Tensor]:
    """A share of the tokens is gone, those behind move up; the first and the last stay. x: ids and mask of (L,)."""
    mask = x["mask"].bool()
    there = mask.nonzero().squeeze(1)
    inner = there[1:-1]
    gone = inner[torch.randperm(len(inner), generator=generator)[: round(level * len(inner))]]
    kept = mask.clone()
    kept[gone] = False
    order = torch.cat([kept.nonzero().squeeze(1), (~kept).nonzero().squeeze(1)])
    left = torch.arange(len(mask)) < int(kept.sum())
    return {k: torch.where(left, v[order], torch.zeros_like(v)) for k, v in {**x, "mask": kept}.items()}


def _shuffling(
    x: Mapping[str, Tensor], level: float, scale: Scale | None, generator: torch.Generator
) -> dict[str, Tensor]:
    """A share of the tokens change places among themselves; the first and the last stay. x: ids and mask of (L,)."""
    inner = x["mask"].nonzero().squeeze(1)[1:-1]
    chosen = inner[torch.randperm(len(inner), generator=generator)[: round(level * len(inner))]]
    ids = x["ids"].clone()
    ids[chosen] = x["ids"][chosen.roll(1)]
    return {**x, "ids": ids}


_SHARES = (0.1, 0.2, 0.4, 0.6, 0.8)
_GAUSSIAN = Corruption(
    "gaussian noise", (0.25, 0.5, 1.0, 2.0, 4.0), "standard deviations of the training samples", _noise
)
_PICTURES = (
    _GAUSSIAN,
    Corruption("gaussian blur", (0.01, 0.02, 0.04, 0.08, 0.16), "of the shorter side", _blur),
    Corruption("low contrast", (0.6, 0.7, 0.8, 0.9, 0.95), "of the contrast lost", _contrast),
)
#: what each kind of input is corrupted by
CORRUPTIONS: Mapping[str, tuple[Corruption, ...]] = {
    "vector": (_GAUSSIAN,),
    "series": (
        replace(_GAUSSIAN, apply=_noisy_series),
        Corruption("lost steps", _SHARES, "of the time", _lost_steps),
    ),
    "spectrogram": (_GAUSSIAN, Corruption("silence", _SHARES, "of the time", _silence)),
    "image": _PICTURES,
    "video": _PICTURES,
    "text": (
        Corruption("deletion", _SHARES, "of the tokens", _deletion),
        Corruption("shuffling", _SHARES, "of the tokens", _shuffling),
    ),
}

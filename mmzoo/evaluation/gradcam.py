"""Grad-CAM of one modality of a joint model: where an encoder looks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmzoo.core.model import MultimodalModel
from mmzoo.core.modes import evaluating
from mmzoo.errors import BadValue, Incompatible, unknown


def gradcam(
    model: MultimodalModel,
    inputs: Mapping[str, Any],
    modality: str,
    *,
    target: Tensor | None = None,
    stage: int | None = None,
    branch: bool = False,
) -> Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017) on the map after a stage of one encoder.

    The weight of a channel is the mean over positions of the derivative of the target's logit; the heat map is the
    positive part of the weighted sum of the channels, resized to the input and divided by its maximum. Without a
    positive part it is zero.

    Args:
        model: its encoder of the modality must have stages, of a convolutional network or of a vision transformer.
        inputs: modality -> (B, ...), every sample with all modalities.
        modality: images (B, C, H, W), spectrograms (B, F, T) or videos (B, T, C, H, W).
        target: (B,) int64, the class whose logit is explained; None: the predicted class.
        stage: the stage, from 0. None: the last one; for tokens the one before, since only the class token is read
            after the last.
        branch: explain the modality's own logits instead of the fused ones.

    Returns:
        (B, H, W), for a video (B, T, H, W), in [0, 1].

    Raises:
        UnknownName: the model has no such modality.
        Incompatible: its encoder has no stages, or no map with two spatial axes.
        BadValue: there is no such stage, or a target is no class.
    """
    encoder: Any = _encoder_of(model, inputs, modality)
    x = inputs[modality]
    with evaluating(model), torch.no_grad():
        features = model.encode(inputs)
        state, states = encoder.begin(x), []
        for i in range(encoder.n_stages):
            states.append(state := encoder.advance(i, state))
        chosen = _stage(encoder.n_stages, stage, tokens=encoder.view(states[-1]).ndim == 3)
    with evaluating(model), torch.enable_grad():
        map_ = encoder.view(states[chosen]).detach().requires_grad_()
        state = encoder.replace(states[chosen], map_)
        for i in range(chosen + 1, encoder.n_stages):
            state = encoder.run_stage(i, state)
        out = model.outputs({**features, modality: encoder.finish(state)})
        logits = out.unimodal[modality] if branch else out.logits
        target = _target(target, logits)
        (gradient,) = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), map_)
    return cam(_planes(map_.detach(), x, modality), _planes(gradient, x, modality), _size(x))


def _encoder_of(model: MultimodalModel, inputs: Mapping[str, Any], modality: str) -> Any:
    """The encoder of a modality. Raises UnknownName or Incompatible where it has no map of its own."""
    if modality not in model.modalities:
        raise unknown("modality of the model", modality, model.modalities)
    encoder: Any = model.encoders[modality]
    x = inputs[modality]
    if not encoder.n_stages or not isinstance(x, Tensor) or x.ndim < 3:
        raise Incompatible(
            f"Grad-CAM needs a map: {type(encoder).__name__}, the encoder of {modality}, has no stages with one. Take a "
            "convolutional network or a vision transformer."
        )
    if model.head.couples:
        raise Incompatible(
            f"head {type(model.head).__name__} acts between the stages of the encoders: no map belongs to a single encoder."
        )
    return encoder


def cam(maps: Tensor, gradient: Tensor, size: tuple[int, int]) -> Tensor:
    """The heat maps (B, [T,] *size) from maps and their derivatives.

    Each frame of a video has its own weights, and is divided by its own maximum.

    Args:
        maps: (B, C, H, W) or (B, C, T, H, W).
        gradient: the derivative, of the same shape.
        size: height and width of the result.
    """
    heat = heat_of(maps, channel_weights(gradient))
    flat = heat.reshape(-1, 1, *heat.shape[-2:])
    flat = F.interpolate(flat, size, mode="bilinear", align_corners=False) if flat.shape[-2:] != size else flat
    most = flat.amax((-2, -1), keepdim=True)
    return torch.where(most > 0, flat / most.clamp_min(torch.finfo(flat.dtype).tiny), 0.0).reshape(
        *heat.shape[:-2], *size
    )


def channel_weights(gradient: Tensor) -> Tensor:
    """(B, C, ...) the weight of each channel: the mean over positions of the derivative (B, C, ..., H, W) (eq. 1)."""
    return gradient.mean((-2, -1))


def heat_of(maps: Tensor, weights: Tensor) -> Tensor:
    """(B, ..., H, W) the positive part of the weighted sum of maps (B, C, ..., H, W) (eq. 2)."""
    return (weights[..., None, None] * maps).sum(1).relu()


def _stage(n: int, asked: int | None, *, tokens: bool) -> int:
    if asked is None:
        return max(0, n - 2) if tokens else n - 1
    if not 0 <= asked < n:
        raise BadValue(f"stage must be from 0 to {n - 1}, not {asked}.")
    return asked


def _target(given: Tensor | None, logits: Tensor) -> Tensor:
    if given is None:
        return logits.detach().argmax(1)
    if given.shape != logits.shape[:1] or not bool(((given >= 0) & (given < logits.shape[1])).all()):
        raise BadValue(f"target must be {len(logits)} classes from 0 to {logits.shape[1] - 1}.")
    return given.to(logits.device)


def _size(x: Tensor) -> tuple[int, int]:
    return int(x.shape[-2]), int(x.shape[-1])


def _planes(map_: Tensor, x: Tensor, modality: str) -> Tensor:
    """The map with two spatial axes: patches of a vision transformer as a grid, without the tokens before them."""
    if map_.ndim >= 4:
        return map_
    height, width = _size(x)
    n = map_.shape[-1]
    for prefix in range(min(n, 8)):
        rows = math.sqrt((n - prefix) * height / width)
        if rows >= 1 and abs(rows - round(rows)) < 1e-6 and (n - prefix) % round(rows) == 0:
            grid: Tensor = map_[..., prefix:].unflatten(-1, (round(rows), -1))
            return grid
    raise Incompatible(f"the {n} tokens of {modality} are no grid of patches of a {height} x {width} input.")

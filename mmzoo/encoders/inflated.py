"""2D image networks inflated to 3D, for videos with any number of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from mmzoo.core.encoder import InputSpec
from mmzoo.encoders.backbones import Timm
from mmzoo.encoders.planar import Planes
from mmzoo.errors import BadValue, Incompatible


class Inflated(Timm):
    """A ResNet with filters inflated over frames, as in I3D (Carreira and Zisserman, CVPR 2017).

    Every k x k filter with k > 1 becomes one of time x k x k: copies over time, divided by their number, so that a clip
    of one repeated frame has the features of that frame. Clips are padded in time by their first and last frame.
    Differs from I3D in the backbone (a ResNet instead of Inception) and in that time is never strided: clips are short
    here.

    Args:
        spec: a video.
        model: name of a timm ResNet.
        weights: as for `Timm`.
        time: length of the filters in frames; odd.

    Raises:
        Incompatible: another kind of model or input.
        BadValue: `time` is even.

    Shape:
        Input: (B, T, C, H, W). Output: (B, out_dim).
    """

    def __init__(
        self, spec: InputSpec | Sequence[int], *, model: str = "resnet18", weights: str = "none", time: int = 3
    ) -> None:
        spec = InputSpec.of(spec).of_kind("video")
        if time < 1 or time % 2 == 0:
            raise BadValue(f"time must be an odd number of frames, not {time}.")
        _check_resnet(model)
        super().__init__(spec, model=model, weights=weights, zero_init_last=False)
        _inflate(self.model, time)

    def begin(self, x: Tensor) -> Planes:
        x = x.to(next(self.parameters()).dtype)
        return Planes(self.stem(x.transpose(1, 2)), None)

    def pool(self, x: Tensor) -> Tensor:
        return self._rest(x).mean((2, 3, 4))


def _check_resnet(model: str) -> None:
    import timm
    from timm.models import model_entrypoint

    if timm.is_model(model) and model_entrypoint(model).__module__ != "timm.models.resnet":
        raise Incompatible(f"only a ResNet of timm can be inflated here, and {model} is none.")


class OverFrames(nn.Conv3d):
    """A 3D convolution that pads a clip in time by its first and last frame."""

    def forward(self, x: Tensor) -> Tensor:
        reach = self.kernel_size[0] // 2
        return super().forward(F.pad(x, (0, 0, 0, 0, reach, reach), mode="replicate") if reach else x)


def _inflate(module: nn.Module, time: int) -> None:
    """Replace, in place, everything that is two-dimensional."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            setattr(module, name, _inflated(child, time if max(child.kernel_size) > 1 else 1))
        elif isinstance(child, nn.BatchNorm2d):
            norm = nn.BatchNorm3d(child.num_features, child.eps, child.momentum)
            norm.load_state_dict(child.state_dict())
            setattr(module, name, norm)
        elif isinstance(child, nn.MaxPool2d):
            size, stride, pad = (
                (first, *_pair(v)) for first, v in ((1, child.kernel_size), (1, child.stride), (0, child.padding))
            )
            setattr(module, name, nn.MaxPool3d(size, stride, pad))
        elif isinstance(child, nn.AvgPool2d):
            size, stride, pad = (
                (first, *_pair(v)) for first, v in ((1, child.kernel_size), (1, child.stride), (0, child.padding))
            )
            setattr(module, name, nn.AvgPool3d(size, stride, pad, child.ceil_mode, child.count_include_pad))
        else:
            _inflate(child, time)


def _inflated(conv: nn.Conv2d, time: int) -> OverFrames:
    kernel, stride = (time, *_pair(conv.kernel_size)), (1, *_pair(conv.stride))
    padding, dilation = (0, *_pair(conv.padding)), (1, *_pair(conv.dilation))
    new = OverFrames(
        conv.in_channels, conv.out_channels, kernel, stride, padding, dilation, conv.groups, conv.bias is not None
    )
    weights = {"weight": conv.weight[:, :, None].expand(-1, -1, time, -1, -1) / time}
    new.load_state_dict(weights | ({} if conv.bias is None else {"bias": conv.bias}))
    return new


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])

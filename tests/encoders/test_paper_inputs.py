"""What the paper's presets need of encoders: CLIP's own pixels, and an encoder of gestures that sees the order of time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmzoo.core.encoder import InputSpec
from mmzoo.data.loading.transforms import DEVIATION, MEAN, Pixels
from mmzoo.encoders.backbones import Timm
from mmzoo.encoders.inflated import Inflated
from mmzoo.encoders.pretrained import CLIP_SCALE, IMAGENET_SCALE, clip_pixels


def test_pixels_of_clip_are_those_of_its_own_processor() -> None:
    processing = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    assert (MEAN, DEVIATION) == IMAGENET_SCALE
    pictures = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    read = Pixels((224, 224, 3), frames=None, size=None, crop=False, flip=False)(torch.from_numpy(pictures), None)
    theirs = processing.CLIPImageProcessorPil()(images=list(pictures), return_tensors="np")["pixel_values"]
    assert np.abs(clip_pixels(read).numpy() - np.asarray(theirs)).max() < 1e-5
    assert len(CLIP_SCALE[0]) == 3


def test_an_encoder_of_gestures_tells_a_clip_from_its_reverse() -> None:
    spec = InputSpec("video", (6, 3, 32, 32))
    torch.manual_seed(0)
    clip = torch.randn(2, 6, 3, 32, 32)
    inflated, frames = Inflated(spec, model="test_resnet").eval(), Timm(spec, model="test_resnet").eval()
    with torch.no_grad():
        for p in inflated.parameters():  # an inflated filter is the same at each time until it is trained
            p.add_(0.05 * torch.randn_like(p))
        assert (inflated(clip) - inflated(clip.flip(1))).abs().max() > 1e-3
        assert torch.allclose(frames(clip), frames(clip.flip(1)), atol=1e-5)  # the mean over frames cannot

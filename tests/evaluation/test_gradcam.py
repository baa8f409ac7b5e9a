"""Grad-CAM: the published formula, the closed form of a mean over positions under a linear classifier, every kind of input."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from helpers.places import VECTORS
from torch import Tensor, nn

from mmzoo.core.encoder import InputSpec
from mmzoo.core.model import MultimodalModel
from mmzoo.encoders.backbones import Timm
from mmzoo.encoders.cnn import CNN
from mmzoo.encoders.mlp import MLP
from mmzoo.encoders.planar import Planar
from mmzoo.errors import BadValue, Incompatible, UnknownName
from mmzoo.evaluation.gradcam import cam, gradcam
from mmzoo.heads.concat import Concat


class _Mean(Planar):
    """One convolution, then the mean over positions: its features have a closed form."""

    def __init__(self, spec: Any) -> None:
        super().__init__(spec)
        self.convolution = nn.Conv2d(self.channels, 5, 3, 2, 1)
        self.out_dim, self.n_stages, self.stage_dims = 5, 1, (5,)

    def block(self, stage: int, x: Tensor) -> Tensor:
        found: Tensor = self.convolution(x).relu()
        return found

    def pool(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def model_of(encoder: Any, classes: int = 4) -> MultimodalModel:
    torch.manual_seed(0)
    other = MLP(InputSpec("vector", (3,)))
    return MultimodalModel(
        {"image": encoder, "other": other}, Concat({"image": encoder.out_dim, "other": other.out_dim}, classes)
    )


def test_the_formula() -> None:
    case = json.loads((VECTORS / "gradcam.json").read_text())
    maps, gradient = (torch.tensor(case["inputs"][k], dtype=torch.float64) for k in ("activation", "grad"))
    expected = torch.tensor(case["outputs"]["cam_norm"], dtype=torch.float64)
    assert torch.allclose(
        cam(maps, gradient, tuple(maps.shape[-2:])), expected.reshape(-1, *maps.shape[-2:]), atol=1e-12
    )
    assert not cam(maps, torch.zeros_like(maps), (4, 4)).any()  # no derivative, no heat, and no NaN


def test_the_closed_form_of_a_mean_under_a_linear_classifier() -> None:
    model = model_of(_Mean(InputSpec("image", (3, 8, 8)))).double()
    inputs = {"image": torch.randn(2, 3, 8, 8).double(), "other": torch.randn(2, 3).double()}
    target = torch.tensor([1, 3])
    maps = model.encoders["image"].block(0, inputs["image"]).detach()
    weight = torch.autograd.functional.jacobian(  # of the logits by the features of the image
        lambda z: model.outputs({"image": z, "other": torch.zeros(1, model.encoders["other"].out_dim).double()}).logits[
            0
        ],
        torch.zeros(1, 5).double(),
    )[:, 0]
    # The derivative of the logit by each position is the weight of the channel over the number of positions.
    expected = torch.einsum("bk,bkhw->bhw", weight[target] / 16, maps).relu()
    expected = torch.nn.functional.interpolate(expected[:, None], (8, 8), mode="bilinear", align_corners=False)[:, 0]
    most = expected.amax((1, 2), keepdim=True)
    expected = torch.where(most > 0, expected / most.clamp_min(1e-300), 0.0)
    assert torch.allclose(gradcam(model, inputs, "image", target=target), expected, atol=1e-10)


@pytest.mark.parametrize(
    ("kind", "shape"), [("image", (3, 16, 16)), ("spectrogram", (16, 24)), ("video", (2, 3, 16, 16))]
)
@pytest.mark.parametrize("branch", [False, True])
def test_every_kind_of_input(kind: str, shape: tuple[int, ...], branch: bool) -> None:
    model = model_of(CNN(InputSpec(kind, shape), widths=(4, 8)))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    heat = gradcam(model, {"image": torch.randn(3, *shape), "other": torch.randn(3, 3)}, "image", branch=branch)
    frames = shape[:1] if kind == "video" else ()
    assert heat.shape == (3, *frames, *shape[-2:]) and heat.min() >= 0 and heat.max() <= 1
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and model.training


def test_a_vision_transformer() -> None:
    model = model_of(Timm(InputSpec("image", (3, 32, 32)), model="test_vit", img_size=32))
    assert model.encoders["image"].n_stages
    heat = gradcam(model, {"image": torch.randn(2, 3, 32, 32), "other": torch.randn(2, 3)}, "image")
    assert heat.shape == (2, 32, 32) and heat.max() == 1


def test_what_has_no_map_is_refused() -> None:
    model = model_of(CNN(InputSpec("image", (3, 16, 16)), widths=(4,)))
    inputs = {"image": torch.randn(2, 3, 16, 16), "other": torch.randn(2, 3)}
    with pytest.raises(UnknownName, match="no modality of the model 'imag'"):
        gradcam(model, inputs, "imag")
    with pytest.raises(Incompatible, match="has no stages with one"):
        gradcam(model, inputs, "other")
    with pytest.raises(BadValue, match="stage must be from 0 to 0"):
        gradcam(model, inputs, "image", stage=1)
    with pytest.raises(BadValue, match="2 classes from 0 to 3"):
        gradcam(model, inputs, "image", target=torch.tensor([0, 4]))

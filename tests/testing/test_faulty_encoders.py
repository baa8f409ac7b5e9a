"""Each check of an encoder catches the fault that it is there for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch
from helpers.catching import is_caught
from torch import Tensor, nn

from mmzoo.api import Encoder
from mmzoo.encoders.mlp import MLP
from mmzoo.encoders.tokens import TextBag
from mmzoo.testing import SPECS, check_encoder
from mmzoo.testing.harness.report import CHECKS

# Encoders with one fault each


class FaultyEncoder(Encoder):
    """A sound encoder for the faulty ones to spoil."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.out_dim = 3

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.linear(x))


class WrongWidth(FaultyEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.out_dim = 5


class Squeezes(FaultyEncoder):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze(0)


class Standardises(FaultyEncoder):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0))


class DrawsInEval(FaultyEncoder):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, training=True))


class IdleBackbone(FaultyEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(3, 2)


class OnceOnly(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1.0

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class OnceDifferentiable(FaultyEncoder):
    def forward(self, x: Tensor) -> Tensor:
        return OnceOnly.apply(super().forward(x))


class OtherForward(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1.0


class OtherWidths(MLP):
    def __init__(self) -> None:
        super().__init__((4,), hidden=(6,))
        self.stage_dims = (5,)


class MaskOfNumbers(MLP):
    def mask(self, state: Tensor) -> Tensor:
        return torch.ones(len(state))


class UnsavedShift(FaultyEncoder):
    def __init__(self) -> None:
        super().__init__()
        self._shift = torch.rand(())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self._shift.to(x.dtype)


ENCODER_FAULTS: Sequence[tuple[str, Any, str]] = [
    ("check_encoder_shape", WrongWidth, "(1, 3)"),
    ("check_encoder_shape", Squeezes, "(3,)"),
    ("check_encoder_rows", Standardises, "differs by up to"),
    ("check_encoder_pure", DrawsInEval, "differs by up to"),
    ("check_encoder_gradients", IdleBackbone, "classifier.weight"),
    ("check_encoder_double_backward", OnceDifferentiable, "product with a vector"),
    ("check_encoder_stages", partial(OtherForward, (4,)), "differs by up to 1"),
    ("check_encoder_stages", OtherWidths, "(5,) for 1 stages"),
    ("check_encoder_stages", partial(MaskOfNumbers, (4,)), "torch.float32"),
    ("check_encoder_state", UnsavedShift, "differs by up to"),
]


class ReadsPadding(TextBag):
    def finish(self, state: Any) -> Tensor:
        return super().finish(state._replace(mask=torch.ones_like(state.mask)))


class DividesByNothing(TextBag):
    def finish(self, state: Any) -> Tensor:
        weight = state.mask[..., None].to(state.map.dtype)
        return self.project((state.map * weight).sum(1) / weight.sum(1))


TEXT_FAULTS: Sequence[tuple[str, Any, str]] = [
    ("check_encoder_padding", ReadsPadding, "differs by up to"),
    ("check_encoder_padding", DividesByNothing, "not"),
]


@pytest.mark.parametrize(("check", "encoder", "seen"), TEXT_FAULTS, ids=lambda x: getattr(x, "__name__", None))
def test_a_faulty_text_encoder_is_caught(check: str, encoder: Any, seen: str) -> None:
    text = SPECS["text"]
    is_caught(check_encoder(lambda: encoder(text), inputs=text, only=[check], raise_failures=False), check, seen)


@pytest.mark.parametrize(("check", "encoder", "seen"), ENCODER_FAULTS, ids=lambda x: getattr(x, "__name__", None))
def test_a_faulty_encoder_is_caught(check: str, encoder: Any, seen: str) -> None:
    is_caught(check_encoder(encoder, inputs=(4,), only=[check], raise_failures=False), check, seen)


def test_every_encoder_check_has_caught_a_fault() -> None:
    assert {check for check, _, _ in [*ENCODER_FAULTS, *TEXT_FAULTS]} == set(CHECKS["encoder"])
    check_encoder(FaultyEncoder, inputs=(4,))

"""What the tangent does not follow is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.tangent_problems import (
    ADAM,
    ADAMW,
    SGD,
    Around,
    Net,
    Setting,
    batch,
    derivative,
    losses,
    one_step,
    trained,
    upper_loss,
)
from torch import nn

from mmzoo.api import Incompatible
from mmzoo.bilevel.forward import ForwardTangent


# ---------------------------------------------------------------------- what it refuses
@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        (torch.optim.RMSprop, {}, "RMSprop is not known"),
        (ADAM, {"amsgrad": True}, "amsgrad"),
        (SGD, {"maximize": True}, "maximize"),
        (ADAMW, {"fused": True}, "fused"),
        (type("Own", (torch.optim.SGD,), {}), {}, "Own is not known"),
    ],
)
def test_unknown_optimizers(kind: Any, options: dict[str, Any], says: str) -> None:
    model, _ = Setting().build()
    with pytest.raises(Incompatible, match=says):
        ForwardTangent(kind(model.parameters(), lr=0.1, **options), model)


def test_options_that_change_on_the_way() -> None:
    refused(lambda _, optimizer, __: optimizer.param_groups[1].update(maximize=True), "maximize is not supported")


def test_clipping_that_bites_is_refused_and_clipping_that_does_not_is_not() -> None:
    def clip(limit: float) -> Around:
        return lambda step, model, _: nn.utils.clip_grad_norm_(model.parameters(), limit)  # type: ignore[return-value]

    s = Setting()
    loose = derivative(s, between=clip(1e6))
    assert loose.value == pytest.approx(derivative(s).value, rel=1e-12)
    with pytest.raises(Incompatible, match=r"clipping.*reset\(\) starts a new horizon"):
        derivative(s, between=clip(1e-3))


def test_after_a_refusal_only_a_reset_helps() -> None:
    model, optimizer = Setting().build()
    carried = ForwardTangent(optimizer, model)
    one_step(Setting(), 0, model, optimizer, carried)
    optimizer.zero_grad()
    carried.backward(*losses(model(batch(1)[0]), batch(1)[1]), 0.4)
    model.head.weight.grad.mul_(1.5)
    optimizer.step()
    for call in (
        carried.stepped,
        lambda: carried.derivative(lambda: upper_loss(model)),
        carried.state_dict,
        lambda: carried.backward(*losses(model(batch(1)[0]), batch(1)[1]), 0.4),
    ):
        with pytest.raises(Incompatible, match=r"\.grad has changed"):
            call()
    carried.reset()
    one_step(Setting(), 1, model, optimizer, carried)
    assert carried.horizon == 1 and carried.derivative(lambda: upper_loss(model)).usable


def refused(between: Callable[[Any, torch.optim.Optimizer, ForwardTangent], Any], says: str) -> None:
    """Something happens between two good steps; then the next must not pass."""
    model, optimizer = Setting().build()
    carried = ForwardTangent(optimizer, model)
    for step in range(2):
        one_step(Setting(), step, model, optimizer, carried)
    with pytest.raises(Incompatible, match=says):
        between(model, optimizer, carried)
        one_step(Setting(), 2, model, optimizer, carried)


def test_weights_that_move_apart_from_the_optimizer() -> None:
    def edit(model: nn.Module, *_: Any) -> None:
        with torch.no_grad():
            model.head.weight.mul_(0.5)  # type: ignore[operator, union-attr]

    refused(edit, "apart from the optimizer")
    refused(lambda model, *_: model.load_state_dict(model.state_dict()), "apart from the optimizer")


def test_steps_without_their_backward() -> None:
    def plain(model: nn.Module, optimizer: Any, carried: ForwardTangent) -> None:
        optimizer.zero_grad()
        losses(model(batch(1)[0]), batch(1)[1])[0].backward()
        optimizer.step()
        carried.stepped()

    refused(plain, "without a backward")
    refused(lambda *a: a[2].stepped(), "without a backward")

    def before_step(model: nn.Module, optimizer: Any, carried: ForwardTangent) -> None:
        optimizer.zero_grad()
        carried.backward(*losses(model(batch(1)[0]), batch(1)[1]), 0.4)
        carried.stepped()

    refused(before_step, "has not stepped")

    def cleared(model: nn.Module, optimizer: Any, carried: ForwardTangent) -> None:
        optimizer.zero_grad()
        carried.backward(*losses(model(batch(1)[0]), batch(1)[1]), 0.4)
        optimizer.step()
        optimizer.zero_grad()
        carried.stepped()

    refused(cleared, "cleared before stepped")

    def stale(model: nn.Module, optimizer: Any, carried: ForwardTangent) -> None:
        carried.backward(*losses(model(batch(1)[0]), batch(1)[1]), 0.4)

    refused(stale, "zero_grad")


def test_a_forward_without_gradients_that_moves_the_statistics() -> None:
    def silent(model: nn.Module, *_: Any) -> None:
        with torch.no_grad():
            model.train()(batch(1)[0])

    refused(silent, "train mode in a forward without gradients")


def test_a_parameter_that_is_frozen_on_the_way() -> None:
    refused(lambda model, *_: model.head.weight.requires_grad_(False), "frozen within the horizon")


def test_statistics_that_are_replaced() -> None:
    def replace_buffer(model: nn.Module, *_: Any) -> None:
        model.a[1].running_mean = model.a[1].running_mean.clone()  # type: ignore[index]

    refused(replace_buffer, "replaced by other tensors")


def test_buffers_of_other_kinds() -> None:
    class Spectral(Net):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.utils.parametrizations.spectral_norm(self.head)

    model, optimizer = Setting().build(Spectral)
    carried = ForwardTangent(optimizer, model)
    with pytest.raises(Incompatible, match=r"buffer head\..* has changed in training"):
        for step in range(2):
            one_step(Setting(), step, model, optimizer, carried)

    class Constant(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.ones(3))

    s = Setting()
    assert derivative(s, net=Constant).usable
    for layer in (nn.InstanceNorm1d(3, track_running_stats=True), nn.SyncBatchNorm(3)):
        other = nn.Sequential(layer, nn.Linear(3, 3))
        with pytest.raises(Incompatible, match="no known tangent"):
            ForwardTangent(SGD(other.parameters(), lr=0.1), other)


def test_the_upper_loss_must_not_move_statistics() -> None:
    model, carried = trained(Setting(), tangent=True)
    assert carried is not None
    with pytest.raises(Incompatible, match="upper loss was computed in train mode"):
        carried.derivative(lambda: upper_loss(model.train()))

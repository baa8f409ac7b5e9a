"""The state of a tangent: saved, resumed, skipped."""

from __future__ import annotations

import io
from functools import partial

import pytest
import torch
from helpers.tangent_problems import Images, Setting, batch, derivative, losses, one_step, trained, upper_loss

from mmzoo.bilevel.forward import ForwardTangent
from mmzoo.errors import BadValue


@pytest.mark.parametrize("kind", ["momentum", "adam decay"])
def test_a_saved_tangent_goes_on_as_if_nothing_had_happened(kind: str) -> None:
    expected = derivative(Setting(kind))
    model, optimizer = Setting(kind).build()
    base = [g["lr"] for g in optimizer.param_groups]
    carried = ForwardTangent(optimizer, model)
    for step in range(6):
        if step == 3:
            file = io.BytesIO()
            torch.save(
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "tangent": carried.state_dict()},
                file,
            )
            file.seek(0)
            state = torch.load(file, weights_only=True)
            model, optimizer = Setting(kind, seed=5).build()
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            carried = ForwardTangent(optimizer, model)
            carried.load_state_dict(state["tangent"])
            assert carried.horizon == 3
        one_step(Setting(kind), step, model, optimizer, carried, base)
    assert carried.derivative(lambda: upper_loss(model)) == expected


def test_a_state_that_does_not_fit_is_refused() -> None:
    _, carried = trained(Setting(), tangent=True)
    assert carried is not None
    state = carried.state_dict()
    model, optimizer = Setting().build(Images)
    with pytest.raises(BadValue, match="here are"):
        ForwardTangent(optimizer, model).load_state_dict(state)
    model, optimizer = Setting().build()
    with pytest.raises(BadValue, match="another shape"):
        ForwardTangent(optimizer, model).load_state_dict({**state, "params": state["params"][::-1]})


def test_between_backward_and_step_there_is_no_state() -> None:
    model, optimizer = Setting().build()
    carried = ForwardTangent(optimizer, model)
    x, target = batch(0)
    carried.backward(*losses(model(x), target), 0.5)
    for call in (carried.state_dict, lambda: carried.derivative(lambda: upper_loss(model))):
        with pytest.raises(BadValue, match=r"after stepped\(\)"):
            call()


def test_a_step_that_was_skipped_is_forgotten() -> None:
    """A backward whose gradients were cleared, as a scaler or a guard against outliers does."""
    s, wanted = Setting(), []
    for skip in (False, True):
        model, optimizer = s.build()
        carried = ForwardTangent(optimizer, model)
        for step in range(4):
            if step == 2:
                x, target = batch(40)
                optimizer.zero_grad()
                loss = losses(model(x), target)
                if skip:
                    carried.backward(*loss, 0.4)
            one_step(s, step, model, optimizer, carried)
        wanted.append(carried.derivative(partial(upper_loss, model)).value)
    assert wanted[0] == pytest.approx(wanted[1], rel=1e-10)

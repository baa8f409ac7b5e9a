"""What the tangent follows besides plain steps, and what watching changes (nothing)."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from helpers.tangent_problems import (
    OPTIMIZERS,
    Images,
    Net,
    Setting,
    Tokens,
    batch,
    derivative,
    difference,
    trained,
    upper_loss,
)
from torch import Tensor, nn

from mmzoo.bilevel.forward import ForwardTangent


def test_parameters_whose_gradient_is_removed_stand_still() -> None:
    def remove(step: int, model: nn.Module, _: Any) -> None:
        if step in (1, 4):
            for p in model.a.parameters():  # type: ignore[union-attr]
                p.grad = None

    for kind in ("momentum", "adamw"):
        s = Setting(kind)
        assert derivative(s, between=remove).value == pytest.approx(difference(s, between=remove), rel=1e-6, abs=1e-8)


def test_forgotten_memory_of_the_optimizer_is_followed() -> None:
    def forget(step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if step == 3:
            for p in model.v.parameters():  # type: ignore[union-attr]
                optimizer.state.pop(p, None)

    for kind in ("momentum", "dampened", "adam"):
        s = Setting(kind)
        assert derivative(s, before=forget).value == pytest.approx(difference(s, before=forget), rel=1e-6, abs=1e-8)


def test_a_part_that_a_batch_does_not_reach_stands_still() -> None:
    """A branch that is encoded (so that its statistics move) but not in the loss has no gradient, not a zero one."""

    class Skipping(Net):
        calls = 0

        def forward(self, x: Mapping[str, Tensor]) -> list[Tensor]:
            a, v = self.a(x["a"]), self.v(x["v"])
            if self.training:
                self.calls += 1
                if self.calls % 3 == 0:
                    v = torch.ones_like(v) + 0.1 * x["v"].repeat(1, 2)[:, :4]
            return [self.head(torch.cat([a, v], 1)), a, v]

    for kind in ("momentum", "adam decay"):
        s = Setting(kind)
        assert derivative(s, net=Skipping).value == pytest.approx(difference(s, net=Skipping), rel=1e-6, abs=1e-8)


def test_a_forward_that_had_no_backward_still_moves_the_statistics() -> None:
    def extra(step: int, model: nn.Module, _: Any) -> None:
        if step in (2, 5):
            model(batch(50 + step)[0])

    s = Setting()
    expected = difference(s, before=extra)
    assert derivative(s, before=extra).value == pytest.approx(expected, rel=1e-6, abs=1e-8)

    def last(model: nn.Module) -> None:
        model.train()
        torch.manual_seed(0)
        model(batch(70)[0])

    values = []
    for sign in (1, -1):
        model, _ = trained(s, s.alpha + sign * 1e-5)
        last(model)
        values.append(float(upper_loss(model.eval()).detach()))
    model, carried = trained(s, tangent=True)
    last(model)
    assert carried is not None
    found = carried.derivative(lambda: upper_loss(model)).value
    assert found == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-6, abs=1e-8)


def test_the_direction_is_a_cosine() -> None:
    model, carried = trained(Setting(), tangent=True)
    assert carried is not None
    once, thrice = (carried.derivative(lambda k=k: k * upper_loss(model)) for k in (1.0, 3.0))
    assert thrice.value == pytest.approx(3 * once.value) and thrice.direction == pytest.approx(once.direction)
    params = [p for p in model.parameters()]
    aligned = [carried._state.params[p]["value"] for p in params]
    found = carried.derivative(lambda: sum((p * t).sum() for p, t in zip(params, aligned)))
    assert 0 < found.direction <= 1 and found.value == pytest.approx(sum(float(t.square().sum()) for t in aligned))
    assert carried.derivative(lambda: torch.zeros(())).value == 0.0


# ---------------------------------------------------------------------- it changes nothing
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_is_bit_for_bit_what_it_is_without(kind: str) -> None:
    for net in (None, Images, Tokens):
        (plain, _), (carried, _) = trained(Setting(kind), net=net), trained(Setting(kind), net=net, tangent=True)
        mine = carried.state_dict()
        assert all(torch.equal(t, mine[n]) for n, t in plain.state_dict().items())


def test_asking_moves_nothing() -> None:
    model, carried = trained(Setting(), tangent=True)
    assert carried is not None
    model.head.eval()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    modes, random = [m.training for m in model.modules()], torch.get_rng_state()
    first, second = (carried.derivative(lambda: upper_loss(model)) for _ in range(2))
    assert first == second and torch.equal(random, torch.get_rng_state())
    assert modes == [m.training for m in model.modules()]
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert all(not b.requires_grad for b in model.buffers())


def test_a_gradient_of_no_term_stays_none() -> None:
    model, optimizer = Setting().build()
    carried = ForwardTangent(optimizer, model)
    for _ in range(2):
        optimizer.zero_grad()
        out = model(batch(0)[0])
        carried.backward_of(out[1].square().mean(), out[1].mean())
        assert model.head.weight.grad is None and model.v[0].weight.grad is None and model.a[0].weight.grad is not None
        optimizer.step()
        carried.stepped()


def test_copies_of_the_model_are_not_watched_and_hooks_can_be_taken_off() -> None:
    model, carried = trained(Setting(), tangent=True)
    assert carried is not None
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        other.train()(batch(0)[0])
        assert not carried._state.records
    model.train()(batch(0)[0])
    assert len(carried._state.records) == 2
    carried.close()
    model(batch(0)[0])
    assert len(carried._state.records) == 2
    carried.reset()
    del carried
    gc.collect()
    model(batch(0)[0])  # the hooks of a tangent that is gone do nothing


# ---------------------------------------------------------------------- horizon and state
def test_the_horizon_is_counted_and_nothing_is_known_without_a_step() -> None:
    model, optimizer = Setting().build()
    carried = ForwardTangent(optimizer, model)
    assert carried.horizon == 0
    found = carried.derivative(lambda: upper_loss(model))
    assert (found.value, found.usable, found.horizon) == (0.0, False, 0) and "no step" in found.reason
    _, stepped = trained(Setting(), tangent=True)
    assert stepped is not None and stepped.horizon == 6
    stepped.reset()
    assert stepped.horizon == 0 and not stepped._state.params and not stepped._state.buffers

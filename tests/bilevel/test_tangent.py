"""The tangent of training against unrolled autograd and against differences of whole training runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.tangent_problems import (
    OPTIMIZERS,
    Images,
    Setting,
    Tokens,
    batch,
    derivative,
    difference,
    losses,
    trained,
    upper_loss,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmzoo.bilevel import Mixing

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=30)


def unrolled(s: Setting) -> float:
    """The same training written out as one function of alpha and differentiated by autograd, without modules."""
    model, optimizer = s.build()
    state: dict[str, Any] = {n: t.detach().clone() for n, t in model.state_dict().items()}
    names = [n for n, _ in model.named_parameters()]
    memory: dict[str, tuple[Tensor, Tensor]] = {}
    alpha = torch.tensor(s.alpha, dtype=torch.float64, requires_grad=True)

    def branch(m: str, x: Tensor, train: bool) -> Tensor:
        z = x @ state[f"{m}.0.weight"].T + state[f"{m}.0.bias"]
        mean, var = state[f"{m}.1.running_mean"], state[f"{m}.1.running_var"]
        if train:
            count = state[f"{m}.1.num_batches_tracked"] = state[f"{m}.1.num_batches_tracked"] + 1
            share = 1.0 / float(count) if s.momentum is None else s.momentum
            state[f"{m}.1.running_mean"] = (1 - share) * mean + share * z.mean(0)
            state[f"{m}.1.running_var"] = (1 - share) * var + share * z.var(0)
            mean, var = z.mean(0), z.var(0, unbiased=False)
        z = (z - mean) / (var + 1e-5).sqrt() * state[f"{m}.1.weight"] + state[f"{m}.1.bias"]
        return F.dropout(torch.tanh(z), s.dropout, train)

    def forward(x: Mapping[str, Tensor], train: bool) -> list[Tensor]:
        a, v = (branch(m, x[m], train) for m in "av")
        return [torch.cat([a, v], 1) @ state["head.weight"].T + state["head.bias"], a, v]

    for step in range(s.steps):
        torch.manual_seed(1000 * s.seed + step)
        x, target = batch(s.seed + 7 * step)
        for n in names:
            if not state[n].requires_grad:
                state[n].requires_grad_()
        l_cls, l_mm = losses(forward(x, True), target)
        additive = s.form != Mixing.of
        total = (1.0 if additive else 1 - alpha) * l_cls + alpha * l_mm
        grads = torch.autograd.grad(total, [state[n] for n in names], create_graph=True)
        for i, (n, g) in enumerate(zip(names, grads)):
            group = optimizer.param_groups[0 if i < 3 else 1]
            state[n] = written_out(state[n], g, group, group["lr"] * s.rate(step), memory, n, step + 1, s.kind)
    x, target = batch(99, 9)
    return float(torch.autograd.grad(F.cross_entropy(forward(x, False)[0], target), alpha)[0])


def written_out(
    p: Tensor, g: Tensor, group: Mapping[str, Any], lr: float, memory: dict[str, Any], n: str, t: int, kind: str
) -> Tensor:
    """One step of the optimizer as in its paper."""
    decay = group["weight_decay"]
    if "adam" not in kind:
        g = g + decay * p
        if mu := group["momentum"]:
            memory[n] = mu * memory[n] + (1 - group["dampening"]) * g if n in memory else g
            g = g + mu * memory[n] if group["nesterov"] else memory[n]
        return p - lr * g
    b1, b2 = group["betas"]
    if kind == "adamw":
        p = p - lr * decay * p
    else:
        g = g + decay * p
    m, v = memory.get(n, (0.0, 0.0))
    memory[n] = m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
    return p - lr * (m / (1 - b1**t)) / ((v / (1 - b2**t) + 1e-300).sqrt() + group["eps"])


# ---------------------------------------------------------------------- it is the derivative
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_against_unrolled_autograd_and_differences_of_whole_runs(kind: str, momentum: float | None) -> None:
    s = Setting(kind, momentum=momentum)
    found = derivative(s)
    assert found.usable and found.horizon == s.steps and abs(found.direction) <= 1
    assert found.value == pytest.approx(unrolled(s), rel=1e-8, abs=1e-11)
    assert found.value == pytest.approx(difference(s), rel=1e-6, abs=1e-8)


@FIXED
@given(
    st.sampled_from(sorted(OPTIMIZERS)),
    st.integers(0, 1000),
    st.integers(1, 7),
    st.floats(0.0, 1.0),
    st.sampled_from([0.05, 0.5, None]),
    st.sampled_from([0.0, 0.4]),
    st.lists(st.floats(0.0, 2.0), min_size=1, max_size=4),
    st.booleans(),
)
def test_against_unrolled_autograd_anywhere(
    kind: str,
    seed: int,
    steps: int,
    alpha: float,
    momentum: float | None,
    dropout: float,
    rates: list[float],
    additive: bool,
) -> None:
    form = Mixing.additive if additive else Mixing.of
    s = Setting(kind, seed, steps, alpha, momentum, dropout, tuple(rates), form)
    assert derivative(s).value == pytest.approx(unrolled(s), rel=1e-7, abs=1e-10)


@pytest.mark.parametrize("kind", ["momentum", "nesterov", "dampened", "adam decay", "adamw"])
def test_a_reset_makes_all_that_was_before_constant(kind: str) -> None:
    """Weights, running statistics and the optimizer's memory: alpha is moved from the third step on alone."""
    s = Setting(kind)
    found = derivative(s, since=3)
    assert found.horizon == 3
    assert found.value == pytest.approx(difference(s, since=3), rel=1e-6, abs=1e-8)
    assert abs(found.value - derivative(s).value) > 1e-5


@pytest.mark.parametrize("net", [Images, Tokens])
@pytest.mark.parametrize("kind", ["momentum", "adamw"])
def test_other_layers(net: type[nn.Module], kind: str) -> None:
    s = Setting(kind)
    assert derivative(s, net=net).value == pytest.approx(difference(s, net=net), rel=1e-6, abs=1e-8)


def test_the_running_statistics_matter() -> None:
    """Without their tangents the derivative would be another."""
    model, carried = trained(Setting(), tangent=True)
    assert carried is not None
    full = carried.derivative(lambda: upper_loss(model)).value
    carried._state.buffers.clear()
    assert abs(carried.derivative(lambda: upper_loss(model)).value - full) > 1e-4


def test_batch_norm_that_turns_to_eval_within_the_horizon() -> None:
    """From then on training itself reads running statistics that depend on alpha."""

    def freeze(step: int, model: nn.Module, _: Any) -> None:
        model.a[1].train(step < 3)  # type: ignore[index]

    for kind in ("momentum", "adam"):
        s = Setting(kind)
        assert derivative(s, before=freeze).value == pytest.approx(difference(s, before=freeze), rel=1e-6, abs=1e-8)


def test_gradients_of_several_backwards_add_up() -> None:
    for kind in ("momentum", "adam decay"):
        s = Setting(kind)
        assert derivative(s, pieces=3).value == pytest.approx(difference(s, pieces=3), rel=1e-6, abs=1e-8)

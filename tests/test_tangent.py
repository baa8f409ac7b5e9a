"""The tangent of training against unrolled autograd and against differences of whole training runs."""

from __future__ import annotations

import copy
import gc
import io
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import loader, run, train
from helpers import model as multimodal
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmzoo.api import Incompatible, Outputs, Run, Step, Strategy, Terms, Training
from mmzoo.bilevel.forward import Derivative, ForwardTangent
from mmzoo.bilevel.implicit import Mixing, double_backward
from mmzoo.errors import BadValue
from mmzoo.functional import cosine_similarities, info_nce

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=30)
SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
OPTIMIZERS: dict[str, tuple[type, dict[str, Any]]] = {
    "sgd": (SGD, {"lr": 0.1}),
    "momentum": (SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.02}),
    "dampened": (SGD, {"lr": 0.1, "momentum": 0.8, "dampening": 0.3}),
    "nesterov": (SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "adam": (ADAM, {"lr": 0.01, "eps": 1e-4}),
    "adam decay": (ADAM, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.8, 0.95), "eps": 1e-4}),
    "adamw": (ADAMW, {"lr": 0.01, "weight_decay": 0.1, "eps": 1e-4}),
}


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------------- one training, three times
class Net(nn.Module):
    """Two branches with batch norm and dropout, and a joint head."""

    def __init__(self, momentum: float | None = 0.1, dropout: float = 0.2) -> None:
        super().__init__()
        for m in "av":
            part = [nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=momentum), nn.Tanh(), nn.Dropout(dropout)]
            setattr(self, m, nn.Sequential(*part))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Mapping[str, Tensor]) -> list[Tensor]:
        a, v = self.a(x["a"]), self.v(x["v"])
        return [self.head(torch.cat([a, v], 1)), a, v]


def losses(out: Sequence[Tensor], target: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and InfoNCE; dropout can clear a whole row, and a cosine has no second derivative at zero."""
    features = {m: z + 0.1 for m, z in zip("av", out[1:])}
    return F.cross_entropy(out[0], target), info_nce(cosine_similarities(features, 0.5))


def batch(seed: int, items: int = 7) -> tuple[dict[str, Tensor], Tensor]:
    x = {m: normal(seed * 10 + i, items, 3) for i, m in enumerate("av")}
    return x, torch.randint(3, (items,), generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Setting:
    """How a small training goes. rates: the factor on the learning rate, one a step."""

    kind: str = "momentum"
    seed: int = 0
    steps: int = 6
    alpha: float = 0.4
    momentum: float | None = 0.1
    dropout: float = 0.2
    rates: tuple[float, ...] = (1.0, 0.7, 1.3)
    form: Callable[[float], Mixing] = Mixing.of
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, net: Callable[[], nn.Module] | None = None) -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(self.seed)
        model = (Net(self.momentum, self.dropout) if net is None else net()).double()
        kind, options = OPTIMIZERS[self.kind]
        params = list(model.parameters())
        groups = [{"params": params[:3]}, {"params": params[3:], "lr": 2 * options["lr"]}]
        return model, kind(groups, **{**options, **self.options})

    def rate(self, step: int) -> float:
        return self.rates[step % len(self.rates)]


def upper_loss(model: nn.Module) -> Tensor:
    x, target = batch(99, 9)
    return F.cross_entropy(model(x)[0], target)


Around = Callable[[int, nn.Module, torch.optim.Optimizer], None]


def nothing(*_: Any) -> None:
    pass


def trained(
    s: Setting,
    alpha: float | None = None,
    *,
    tangent: bool = False,
    since: int = 0,
    net: Any = None,
    before: Around = nothing,
    between: Around = nothing,
    pieces: int = 1,
) -> tuple[nn.Module, ForwardTangent | None]:
    """Train, plainly or with a tangent. alpha holds from step `since` on, that of the setting before."""
    model, optimizer = s.build(net)
    carried = ForwardTangent(optimizer, model) if tangent else None
    base = [g["lr"] for g in optimizer.param_groups]
    for step in range(s.steps):
        if carried is not None and step == since:
            carried.reset()
        model.train()
        before(step, model, optimizer)
        for group, lr in zip(optimizer.param_groups, base):
            group["lr"] = lr * s.rate(step)
        optimizer.zero_grad()
        now = s.alpha if alpha is None or step < since else alpha
        torch.manual_seed(1000 * s.seed + step)
        for k in range(pieces):
            x, target = batch(s.seed + 7 * step + k)
            l_cls, l_mm = losses(model(x), target)
            if carried is None:
                s.form(now).total(l_cls, l_mm).backward()
            else:
                carried.backward(l_cls, l_mm, s.form(now))
        between(step, model, optimizer)
        optimizer.step()
        if carried is not None:
            carried.stepped()
    return model, carried


def difference(s: Setting, **how: Any) -> float:
    """d upper / d alpha from two trainings a little apart."""
    values = []
    for sign in (1, -1):
        model, _ = trained(s, s.alpha + sign * 1e-5, **how)
        with torch.no_grad():
            values.append(float(upper_loss(model.eval())))
    return (values[0] - values[1]) / 2e-5


def derivative(s: Setting, **how: Any) -> Derivative:
    model, carried = trained(s, tangent=True, **how)
    assert carried is not None
    return carried.derivative(lambda: upper_loss(model))


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


class Images(nn.Module):
    """Convolutions, batch norm in two dimensions after pooling, and one batch norm used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 2, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.twice = nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Mapping[str, Tensor]) -> list[Tensor]:
        z = [F.softplus(self.norm(self.conv(t[:, None, None, :].expand(-1, 1, 3, 3)))) for t in x.values()]
        z = [F.softplus(self.norm(self.twice(t))).mean((2, 3)) for t in z]
        return [self.head(torch.cat(z, 1)), *z]


class Tokens(nn.Module):
    """Attention, layer norm, dropout within attention: no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(1, 4)
        self.attention = nn.MultiheadAttention(4, 2, dropout=0.2, batch_first=True)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Mapping[str, Tensor]) -> list[Tensor]:
        z = [self.up(t[..., None]) for t in x.values()]
        with double_backward():
            z = [self.norm(t + self.attention(t, t, t, need_weights=False)[0]).mean(1) for t in z]
        return [self.head(torch.cat(z, 1)), *z]


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


def one_step(
    s: Setting,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    carried: ForwardTangent,
    base: Sequence[float] | None = None,
) -> None:
    for group, lr in zip(optimizer.param_groups, base or ()):
        group["lr"] = lr * s.rate(step)
    optimizer.zero_grad()
    torch.manual_seed(1000 * s.seed + step)
    x, target = batch(s.seed + 7 * step)
    carried.backward(*losses(model.train()(x), target), s.alpha)
    optimizer.step()
    carried.stepped()


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


def test_half_precision() -> None:
    model, _ = Setting().build()
    model = model.float()
    optimizer = SGD(model.parameters(), lr=0.1)
    carried = ForwardTangent(optimizer, model)
    x, target = {m: t.float() for m, t in batch(0)[0].items()}, batch(0)[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pair = losses(model(x), target)
        with pytest.raises(Incompatible, match="half precision: train without autocast"):
            carried.backward(*pair, 0.4)
    carried.reset()
    assert all(t.dtype == torch.float32 for t in pair)
    with pytest.raises(Incompatible, match="half precision"):
        carried.backward(*pair, 0.4)
    model.bfloat16()
    carried.reset()
    with pytest.raises(Incompatible, match="float32 or float64"):
        carried.backward(*losses([t.float() for t in model({m: t.bfloat16() for m, t in x.items()})], target), 0.4)


def test_attention_that_cannot_be_differentiated_twice_says_what_to_do() -> None:
    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.Linear(3, 4)

        def forward(self, x: Mapping[str, Tensor]) -> list[Tensor]:
            z = self.up(x["a"])[None, None]
            return [F.scaled_dot_product_attention(z, z, z)[0, 0, :, :3], z[0, 0], z[0, 0]]

    model, optimizer = Setting().build(Fused)
    carried = ForwardTangent(optimizer, model)
    one_step(Setting(), 0, model, optimizer, carried)
    with pytest.raises(Incompatible, match=r"double_backward\(\)"):
        one_step(Setting(), 1, model, optimizer, carried)
    carried.reset()
    for step in range(3):
        with double_backward():
            one_step(Setting(), step, model, optimizer, carried)
    assert carried.horizon == 3


def test_a_value_that_is_not_finite_is_told() -> None:
    model, carried = trained(Setting(), tangent=True)
    assert carried is not None
    found = carried.derivative(lambda: upper_loss(model) * math.nan)
    assert not found.usable and found.reason == "the value is not finite"


@pytest.mark.parametrize("kind", ["momentum", "adamw"])
def test_float32_is_as_good_as_its_precision_allows(kind: str) -> None:
    s = Setting(kind, dropout=0.0)
    model, optimizer = s.build()
    model = model.float()
    carried = ForwardTangent(optimizer, model)
    for step in range(s.steps):
        optimizer.zero_grad()
        x, target = batch(7 * step)
        carried.backward(*losses(model({m: t.float() for m, t in x.items()}), target), s.alpha)
        optimizer.step()
        carried.stepped()
    x, target = batch(99, 9)
    upper = {m: t.float() for m, t in x.items()}
    found = carried.derivative(lambda: F.cross_entropy(model(upper)[0], target))
    # Adam divides by the size of a gradient, and so blows up the rounding noise of those that are zero (a bias before
    # batch norm), by an amount that depends on the machine.
    tolerance = 1e-3 if kind == "momentum" else 3e-2
    assert found.value == pytest.approx(derivative(replace(s, rates=(1.0,))).value, rel=tolerance)


# ---------------------------------------------------------------------- in a strategy
class LearnsAlpha(Strategy):
    """Learns alpha from the slice once an epoch, along the derivative of the epoch's own steps."""

    owns = frozenset({"task", "backward"})
    requires = frozenset({"slice", "double_backward"})
    state = ("alpha",)

    def __init__(self, *, alpha: float = 0.5, eta: float = 0.1, learns: bool = True) -> None:
        self.alpha = alpha
        self.eta = eta
        self.learns = learns
        self.found: list[Derivative] = []
        self._tangent: ForwardTangent | None = None

    def epoch_start(self, run: Run) -> None:
        if self._tangent is None:  # the optimizer does not exist in setup
            self._tangent = ForwardTangent(run.optimizer, run.model)
        self._tangent.reset()

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        match = info_nce(cosine_similarities(out.features, 0.5))
        step.scratch[self] = (terms["task"], match)
        return {**terms, "task": (1 - self.alpha) * terms["task"], "learns/match": self.alpha * match}

    def backward(self, step: Step, terms: Terms) -> None:
        assert self._tangent is not None
        l_cls, l_mm = step.scratch.pop(self)
        self._tangent.backward_of(sum(terms.values()), l_mm - l_cls)  # type: ignore[arg-type]
        step.run.cost.backward += 3

    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        assert self._tangent is not None
        self._tangent.stepped()

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        assert self._tangent is not None
        held = next(iter(run.meta_batches()))
        self.found.append(
            self._tangent.derivative(lambda: F.cross_entropy(run.forward(held, mode="eval").logits, held.target))
        )
        if self.learns and self.found[-1].usable:
            self.alpha = min(1.0, max(0.0, self.alpha - self.eta * self.found[-1].direction))


def learned(strategy: Strategy, epochs: int = 1, kind: str = "sgd", **training: Any) -> Run:
    m = multimodal(norm=True).double()
    for module in m.modules():  # no kinks: differences of training runs are compared
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Tanh())
    pieces = [replace(b, inputs={k: v.double() for k, v in b.inputs.items()}) for b in loader().batches()]
    protocol = Training(**{"lr": 0.05, "epochs": 4, "weight_decay": 0.01, "warmup_epochs": 1, **training})
    # With torch's eps of 1e-8 Adam turns the rounding noise of gradients that are zero (a bias in front of batch norm)
    # into steps, and differences of runs measure that.
    build = None if kind == "sgd" else partial({"adam": ADAM, "adamw": ADAMW}[kind], lr=0.05, eps=1e-4)
    return train(run(strategy, m, train=pieces[:4], slice=pieces[4:], training=protocol, optimizer=build), epochs)


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_a_strategy_gets_the_derivative_of_its_own_epoch(kind: str) -> None:
    strategy = LearnsAlpha(alpha=0.3, learns=False)
    learned(strategy, kind=kind)
    values = []
    for sign in (1, -1):
        r = learned(LearnsAlpha(alpha=0.3 + sign * 1e-6, learns=False), kind=kind)
        held = next(iter(r.meta_batches()))
        with torch.no_grad():
            values.append(float(F.cross_entropy(r.forward(held, mode="eval").logits, held.target)))
    assert strategy.found[0].horizon == 4
    assert strategy.found[0].value == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6, abs=1e-7)


def test_a_strategy_learns_alpha_with_run() -> None:
    strategy = LearnsAlpha()
    r = learned(strategy, epochs=4)
    assert strategy.alpha != 0.5 and 0.0 <= strategy.alpha <= 1.0
    assert [d.horizon for d in strategy.found] == [4] * 4 and all(d.usable for d in strategy.found)
    assert r.cost.backward == 4 * 4 * 3
    held = next(iter(r.meta_batches()))
    child = r.fork(epochs=1)  # a copy of model and hooks trains without disturbing the tangent
    assert child is not r
    assert strategy._tangent is not None and not strategy._tangent._state.records
    assert torch.isfinite(r.forward(held, mode="eval").logits).all()


def test_probes_during_training_are_not_part_of_it() -> None:
    class Probing(LearnsAlpha):
        def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
            super().updated(step, out, terms)
            step.run.forward(step.batch, mode="train")
            step.run.forward(step.batch, mode="eval")

    plain, probing = LearnsAlpha(), Probing()
    for strategy in (plain, probing):
        learned(strategy, epochs=2)
    assert plain.found == probing.found


def test_clipping_by_the_protocol_is_refused() -> None:
    with pytest.raises(Incompatible, match="clipping"):
        learned(LearnsAlpha(), clip=1e-3)


def test_partial_application_keeps_the_forms_apart() -> None:
    assert partial(Mixing.additive, 0.3)() == Mixing((1.0, 0.3), (0.0, 1.0))
    assert Mixing.of(0.25) == Mixing((0.75, 0.25), (-1.0, 1.0)) and Mixing.of(Mixing.of(0.1)) == Mixing.of(0.1)

"""The exchange of channels between stages: what its mathematics promises."""

from __future__ import annotations

import math
from typing import Any

import torch
from helpers import weights
from helpers.steps_by_hand import FIXED, SEEDS
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mmzoo.heads.channel import Exchange, Gate, squeezed

# ---------------------------------------------------------------------- the exchange
SHAPES = {"a": (4, 3, 2), "t": (6, 5), "v": (6, 2, 2, 2), "x": (5,)}  # image, tokens, video, vector: (C, *spatial)


def exchange_case(seed: int, n: int = 4, **options: Any) -> tuple[Exchange, dict[str, Tensor]]:
    torch.manual_seed(seed)
    names = list(SHAPES)[:n]
    exchange = Exchange({m: SHAPES[m][0] for m in names}, **options).double()
    return exchange, {m: torch.randn(5, *SHAPES[m], dtype=torch.float64) for m in names}


@FIXED
@given(SEEDS, st.integers(2, 4), st.sampled_from([1.0, 2.0]))
def test_maps_of_any_kind_keep_their_shape_and_are_scaled_by_gates_within_limits(
    seed: int, n: int, scale: float
) -> None:
    exchange, maps = exchange_case(seed, n, scale=scale)
    for m, out in exchange(maps).items():
        gate = (out / maps[m]).flatten(2) if out.ndim > 2 else (out / maps[m])[..., None]
        assert out.shape == maps[m].shape
        assert bool(((gate > 0) & (gate < scale)).all())
        torch.testing.assert_close(gate, gate[..., :1].expand_as(gate))  # one gate a channel


@FIXED
@given(SEEDS, st.integers(2, 4), st.sampled_from([1.0, 2.0]))
def test_gates_without_weights_halve_or_keep_the_maps(seed: int, n: int, scale: float) -> None:
    exchange, maps = exchange_case(seed, n, scale=scale)
    for gate in exchange.gate.values():
        nn.init.zeros_(gate.linear.weight)
        nn.init.zeros_(gate.linear.bias)
    for m, out in exchange(maps).items():
        assert torch.equal(out, 0.5 * scale * maps[m])


@FIXED
@given(SEEDS, st.integers(2, 4), st.randoms(use_true_random=False))
def test_the_exchange_follows_the_order_of_items_and_of_modalities(seed: int, n: int, random: Any) -> None:
    exchange, maps = exchange_case(seed, n)
    whole = exchange(maps)
    order = torch.tensor(random.sample(range(5), 5))
    shuffled = exchange({m: x[order] for m, x in maps.items()})
    names = random.sample(list(maps), n)
    other = Exchange({m: SHAPES[m][0] for m in names}).double()
    other.load_state_dict(exchange.state_dict())
    renamed = other({m: maps[m] for m in names})
    for m, out in whole.items():
        torch.testing.assert_close(shuffled[m], out[order], rtol=0, atol=1e-12)
        torch.testing.assert_close(renamed[m], out, rtol=0, atol=1e-12)


@FIXED
@given(SEEDS, st.integers(2, 4))
def test_a_branch_hears_the_means_of_the_others_and_nothing_else(seed: int, n: int) -> None:
    exchange, maps = exchange_case(seed, n)
    g = torch.Generator().manual_seed(seed)
    base = exchange(maps)
    for m in list(maps)[: n - 1]:
        places = torch.randperm(math.prod(SHAPES[m][1:]), generator=g)
        moved = maps[m].flatten(2)[..., places].reshape(maps[m].shape)
        same, other = exchange({**maps, m: moved}), exchange({**maps, m: maps[m] + 1.0})
        for k in maps.keys() - {m}:
            torch.testing.assert_close(same[k], base[k], rtol=0, atol=1e-12)
        if bool((exchange.joint({k: squeezed(x) for k, x in maps.items()}) > 0).any()):
            assert any(not torch.allclose(other[k], base[k]) for k in maps.keys() - {m})


@FIXED
@given(SEEDS)
def test_padding_does_not_count(seed: int) -> None:
    exchange, maps = exchange_case(seed, 2)
    g = torch.Generator().manual_seed(seed)
    mask = torch.rand(5, 5, generator=g) < 0.6
    mask[0] = False  # an item that is all padding
    junk = torch.where(mask[:, None], maps["t"], 1e6)
    one, two = (exchange({**maps, "t": t}, {"t": mask})["a"] for t in (maps["t"], junk))
    assert torch.equal(one, two)
    by_hand = [maps["t"][i][:, mask[i]].sum(1) / max(int(mask[i].sum()), 1) for i in range(5)]
    torch.testing.assert_close(squeezed(maps["t"], mask), torch.stack(by_hand))
    vector = torch.randn(5, 3)
    assert torch.equal(squeezed(vector), vector)
    assert torch.equal(squeezed(vector, torch.arange(5) > 1), torch.where((torch.arange(5) > 1)[:, None], vector, 0.0))


@FIXED
@given(SEEDS, st.integers(2, 4), st.integers(1, 4))
def test_running_means_are_means_of_batch_means_over_the_rows_that_are_there(seed: int, n: int, steps: int) -> None:
    exchange, maps = exchange_case(seed, n)
    g = torch.Generator().manual_seed(seed)
    expected: dict[str, list[Tensor]] = {m: [] for m in maps}
    for _ in range(steps):
        maps = {m: torch.randn(x.shape, generator=g, dtype=x.dtype) for m, x in maps.items()}
        here = {m: torch.rand(5, generator=g) < 0.5 for m in maps}
        maps = {m: torch.where(here[m].reshape(5, *[1] * (x.ndim - 1)), x, 0.0) for m, x in maps.items()}
        joint = exchange.joint({m: squeezed(x) for m, x in maps.items()})
        exchange(maps, here=here, frozen={"a"})
        for m in maps:
            if m != "a" and bool(here[m].any()):
                expected[m].append(exchange.gate[m](joint)[here[m]].mean(0))
    before = weights(exchange)
    exchange.eval()(maps)
    assert all(torch.equal(b, before[k]) for k, b in weights(exchange).items())
    for m, kept in exchange.gate.items():
        assert int(kept.steps) == len(expected[m])
        if expected[m]:
            torch.testing.assert_close(kept.mean, torch.stack(expected[m]).mean(0), rtol=0, atol=1e-12)
        assert not kept.mean.requires_grad


def test_a_gate_stays_until_it_has_a_mean_and_the_mean_holds_the_batch_itself() -> None:
    exchange, maps = exchange_case(0, 2)
    exchange.eval()
    free = exchange(maps)
    for m, out in exchange(maps, held={"a": True, "t": torch.tensor(True)}).items():
        assert torch.equal(out, free[m])
    joint = exchange.joint({m: squeezed(x) for m, x in maps.items()})
    held = exchange.train()(maps, held={"a": True})
    torch.testing.assert_close(held["a"], maps["a"] * exchange.gate["a"](joint).mean(0)[:, None, None])
    assert torch.equal(held["t"], free["t"])


@settings(FIXED, max_examples=5)
@given(st.integers(1, 6))
def test_a_gate_of_one_batch_is_its_mean(n: int) -> None:
    gate = Gate(3, 2).double()
    values = torch.rand(n, 2, dtype=torch.float64)
    gate.absorb(torch.zeros(2, dtype=torch.float64), torch.zeros((), dtype=torch.float64))
    assert int(gate.steps) == 0 and not bool(gate.mean.any())
    gate.absorb(values.sum(0), torch.tensor(float(n), dtype=torch.float64))
    torch.testing.assert_close(gate.mean, values.mean(0))

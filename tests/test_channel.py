"""Channel exchange between stages, and Greedy: steps against numpy, what their mathematics promises, refusals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import data, train, weights
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_values import FIXED, IN, SEEDS, C, Sgd, Weights, assert_same, batches, cross_entropy, gradient, weights_of
from torch import Tensor, nn

from mmzoo.api import Encoder, Incompatible, Loader, MultimodalModel, Pass, Run, Strategy, Training
from mmzoo.benchmark.execution.building import build_model
from mmzoo.core.seeding import stream
from mmzoo.encoders.mlp import MLP
from mmzoo.errors import MmzooError
from mmzoo.evaluation.scores import predict
from mmzoo.heads.channel import FINALS, Channel, Exchange, Gate, squeezed
from mmzoo.heads.concat import Concat
from mmzoo.heads.sum import Sum
from mmzoo.strategies.greedy import Greedy, GreedyMany, relative_change
from mmzoo.testing import check_encoder

WIDTHS = {"a": 4, "v": 3, "t": 2}


# ---------------------------------------------------------------------- whole steps, by hand
def run_of(strategy: Strategy, widths: Mapping[str, int] = IN, **head: Any) -> Run:
    torch.manual_seed(0)
    encoders = {m: MLP((d,), hidden=(WIDTHS[m],), width=3) for m, d in widths.items()}
    model = MultimodalModel(encoders, Channel(dict.fromkeys(widths, 3), C, **head)).double()
    training = Training(optimizer="sgd", lr=0.2, momentum=0.9, weight_decay=0.03, epochs=4)
    return Run(model, strategy, train=batches(widths=widths), training=training, seed=5)


def relu(x: Any) -> Any:
    return x * (x.real > 0)


def forward(w: Weights, inputs: Mapping[str, Tensor], scale: float, instead: Mapping[str, Any]) -> tuple[Any, Any]:
    """Each branch's logits and gates. instead: what stands in for the gates of a branch."""
    first, at = "layers.0.0", "head.exchange.-1"
    maps = {
        m: relu(x.numpy() @ w[f"encoders.{m}.{first}.weight"].T + w[f"encoders.{m}.{first}.bias"])
        for m, x in inputs.items()
    }
    joint = relu(sum(maps[m] @ w[f"{at}.squeeze.{m}"].T for m in maps) + w[f"{at}.bias"])
    logits, gates = {}, {}
    for m, x in maps.items():
        gates[m] = scale / (1 + np.exp(-joint @ w[f"{at}.gate.{m}.linear.weight"].T - w[f"{at}.gate.{m}.linear.bias"]))
        z = x * instead.get(m, gates[m]) @ w[f"encoders.{m}.project.weight"].T + w[f"encoders.{m}.project.bias"]
        logits[m] = z @ w[f"head.final.linear.{m}.weight"].T + w[f"head.final.linear.{m}.bias"]
    return logits, gates


@pytest.mark.parametrize(("final", "scale"), [("mean", 1.0), ("sum", 2.0)])
def test_plain_training_with_the_channel_head(final: Any, scale: float) -> None:
    run, sgd = run_of(Strategy(), final=final, scale=scale), Sgd()
    w = weights_of(run.model)
    assert len(w["head.exchange.-1.bias"]) == int(2 * (4 + 3) / 4)
    run.start_epoch()
    for batch in run.epoch_batches():

        def loss(u: Weights, batch: Any = batch) -> Any:
            logits, _ = forward(u, batch.inputs, scale, {})
            return cross_entropy((logits["a"] + logits["v"]) / (2 if final == "mean" else 1), batch.target.numpy())

        run.step(batch)
        w = sgd.step(w, gradient(loss, w))
        assert_same(run.model, w)


def ratio(w: Weights, g: Weights, *parts: str) -> float:
    """||g||^2 / ||w||^2 over the parameters that begin with one of these."""
    names = [n for n in w if n.startswith(parts)]
    return sum((g[n] ** 2).sum() for n in names) / sum((w[n] ** 2).sum() for n in names)


@pytest.mark.parametrize(
    ("schedule", "loss_of", "log", "more"),
    [
        ("speed", "branches", "log10", {}),
        ("speed", "joint", "ln", {}),
        ("speed", "branches", "log10", {"t": 3}),
        ("random", "branches", "log10", {}),
    ],
)
def test_greedy(schedule: Any, loss_of: Any, log: Any, more: dict[str, int]) -> None:
    epsilon, window, widths = 0.05, 2, {**IN, **more}
    kind = GreedyMany if more else Greedy
    run = run_of(kind(epsilon=epsilon, window=window, schedule=schedule, loss=loss_of, log=log), widths)
    w, sgd, at, names = weights_of(run.model), Sgd(), "head.exchange.-1", list(widths)
    across = {m: (f"{at}.squeeze", f"{at}.bias", f"{at}.gate.{m}") for m in names}
    main = {m: (f"encoders.{m}", f"head.final.linear.{m}") for m in names}
    means, n = {m: np.zeros(WIDTHS[m]) for m in names}, 0
    sums: dict[str, list[float]] = {m: [0.0, 0.0] for m in names}
    left, cut, seen = 0, "a", []
    for epoch in range(4):
        run.start_epoch()
        for batch in run.epoch_batches():
            y = batch.target.numpy()
            _, gates = forward(w, batch.inputs, 1.0, {})
            if schedule == "random":
                draw = int(torch.randint(3, (), generator=stream(5, "step", "greedy", n, "joint"))) - 1
                left, cut = int(draw >= 0 and epoch >= 1), names[draw]
            n += 1
            means = {m: means[m] + (gates[m].mean(0) - means[m]) / n for m in names}
            instead = {cut: means[cut]} if left else {}
            seen.append(cut if left else "")

            def loss(u: Weights, batch: Any = batch, instead: Any = instead, y: Any = y) -> Any:
                logits, _ = forward(u, batch.inputs, 1.0, instead)
                if loss_of == "joint":
                    return cross_entropy(sum(logits.values()) / len(names), y)
                return sum(cross_entropy(z, y) for z in logits.values())

            g = gradient(loss, w)
            if left:
                left -= 1
            elif schedule == "speed":
                for m in names:
                    sums[m][0] += ratio(w, g, *across[m])
                    sums[m][1] += ratio(w, g, *main[m])
                speed = {m: (math.log10 if log == "log10" else math.log)(s[0] / s[1]) for m, s in sums.items()}
                fastest = max(names, key=speed.__getitem__)
                if epoch >= 1 and speed[fastest] - min(speed.values()) > epsilon:
                    left, cut = window, fastest
            run.step(batch)
            w = sgd.step(w, g)
            assert_same(run.model, w)
            for m in names:
                np.testing.assert_allclose(run.model.head.exchange["-1"].gate[m].mean.numpy(), means[m], atol=1e-12)
        logged = run.end_epoch()
        for m in names:
            assert logged[f"greedy/cut/{m}"] == seen[-2:].count(m) / 2
    assert not any(seen[: 2 + (schedule == "speed")]) and any(seen) and "" in seen[3:]
    np.testing.assert_allclose(run.strategy.sums.numpy(), np.array(list(sums.values())).T, rtol=1e-9)


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


# ---------------------------------------------------------------------- the head
class Video(Encoder):
    """(B, T, C, H, W): frames folded into the batch, unfolded in the map."""

    def __init__(self) -> None:
        super().__init__()
        widths = (2, 4, 5)
        self.stages = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in itertools.pairwise(widths))
        self.out_dim, self.n_stages, self.stage_dims = 5, 2, widths[1:]

    def begin(self, x: Tensor) -> Any:
        return x.flatten(0, 1), x.shape[1]

    def run_stage(self, stage: int, state: Any) -> Any:
        return torch.tanh(self.stages[stage](state[0])), state[1]

    def view(self, state: Any) -> Tensor:
        return state[0].unflatten(0, (-1, state[1])).transpose(1, 2)

    def replace(self, state: Any, map_: Tensor) -> Any:
        return map_.transpose(1, 2).flatten(0, 1), state[1]

    def finish(self, state: Any) -> Tensor:
        return self.view(state).flatten(2).mean(-1)


class Tokens(Encoder):
    """Token ids with a mask; the width of a token is the channel."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6)
        self.stages = nn.ModuleList(nn.Linear(6, 6) for _ in range(3))
        self.out_dim, self.n_stages, self.stage_dims = 6, 3, (6, 6, 6)

    def begin(self, x: Any) -> Any:
        return self.embed(x["ids"]), x["mask"]

    def run_stage(self, stage: int, state: Any) -> Any:
        return torch.tanh(self.stages[stage](state[0])), state[1]

    def view(self, state: Any) -> Tensor:
        return state[0].transpose(1, 2)

    def replace(self, state: Any, map_: Tensor) -> Any:
        return map_.transpose(1, 2), state[1]

    def mask(self, state: Any) -> Tensor:
        return state[1]

    def finish(self, state: Any) -> Tensor:
        return squeezed(self.view(state), state[1])


def tokens(n: int, g: torch.Generator) -> dict[str, Tensor]:
    mask = torch.arange(7) < torch.randint(1, 8, (n, 1), generator=g)
    return {"ids": torch.randint(9, (n, 7), generator=g), "mask": mask}


def mixed(seed: int = 0, **options: Any) -> tuple[MultimodalModel, dict[str, Any]]:
    """A model of video, text and a vector, with two, three and one stages, and a batch of six."""
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    encoders = {"video": Video(), "text": Tokens(), "vector": MLP((3,), hidden=(7,), width=4)}
    model = MultimodalModel(encoders, Channel({m: e.out_dim for m, e in encoders.items()}, 3, **options))
    inputs = {
        "video": torch.randn(6, 2, 2, 4, 4, generator=g),
        "text": tokens(6, g),
        "vector": torch.randn(6, 3, generator=g),
    }
    return model, inputs


def test_encoders_with_maps_of_other_kinds_keep_the_contract() -> None:
    check_encoder(Video, inputs=(2, 2, 4, 4))
    check_encoder(Tokens, inputs=tokens)


@pytest.mark.parametrize("final", list(FINALS))
def test_video_text_and_vectors_train_together(final: Any) -> None:
    model, inputs = mixed(final=final)
    assert list(model.head.exchange) == ["-2", "-1"]
    assert set(model.head.exchange["-2"].gate) == {"video", "text"}
    out = model(inputs)
    (out.logits.square().sum() + sum(z.square().sum() for z in out.unimodal.values())).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())] == []
    groups = model.groups()
    assert sum(len(ps) for ps in groups.values()) == len(list(model.parameters()))
    assert {id(p) for p in model.head.bypass("vector")} & {id(p) for p in groups["head:vector"]}


def test_views_split_a_branch_from_what_reaches_it() -> None:
    model, _ = mixed()
    views, names = model.views(), {id(p): n for n, p in model.named_parameters()}
    assert list(views) == [f"{k}:{m}" for m in model.modalities for k in ("main", "bypass")]
    found = {k: sorted(names[id(p)] for p in ps) for k, ps in views.items()}
    assert found["main:vector"] == sorted(
        [
            *(f"encoders.vector.{n}" for n, _ in model.encoders["vector"].named_parameters()),
            "head.final.linear.vector.weight",
            "head.final.linear.vector.bias",
        ]
    )
    squeeze = [f"head.exchange.-1.squeeze.{m}" for m in model.modalities]
    gate = [f"head.exchange.-1.gate.vector.linear.{p}" for p in ("weight", "bias")]
    assert found["bypass:vector"] == sorted([*squeeze, "head.exchange.-1.bias", *gate])
    assert len(found["bypass:text"]) == 6 + 5  # both stages; two modalities at the first
    model.encoders["vector"].requires_grad_(False)
    assert len(model.views()["main:vector"]) == 2


def test_padding_and_absent_rows_change_nothing_in_the_model() -> None:
    model, inputs = mixed()
    text = inputs["text"]
    other = {**inputs, "text": {**text, "ids": torch.where(text["mask"], text["ids"], 0)}}
    assert torch.equal(model(inputs).logits, model(other).logits)
    present = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 1], [0, 0, 1], [0, 1, 0]]).bool()
    junk = {**inputs, "vector": torch.where(present[:, 2:], inputs["vector"], 1e3)}
    masked = model(inputs, present)
    torch.testing.assert_close(masked.logits, model(junk, present).logits, rtol=0, atol=0)
    for i, row in enumerate(present):  # each item alone, fed with what it has
        fed = frozenset(m for m, there in zip(model.modalities, row) if there)
        one = {m: {k: v[i : i + 1] for k, v in x.items()} if m == "text" else x[i : i + 1] for m, x in inputs.items()}
        feats = model.encode(one, Pass(present=fed))
        torch.testing.assert_close(model.outputs(feats).logits[0], masked.logits[i], rtol=0, atol=1e-6)


def staged(depths: Mapping[str, int], head: Any = Channel, **options: Any) -> MultimodalModel:
    encoders = {m: MLP((3,), hidden=[4 + i for i in range(n)], width=2) for m, n in depths.items()}
    return MultimodalModel(encoders, head(dict.fromkeys(depths, 2), 3, **options))


def test_the_stages_are_the_last_three_that_two_encoders_have_or_those_named() -> None:
    assert list(staged({"a": 5, "b": 4}).head.exchange) == ["-3", "-2", "-1"]
    assert list(staged({"a": 5, "b": 2, "c": 1}).head.exchange) == ["-2", "-1"]
    named = staged({"a": 5, "b": 4}, stages=(-1, -4)).head.exchange
    assert list(named) == ["-4", "-1"]
    assert {m: len(g.mean) for m, g in named["-4"].gate.items()} == {"a": 5, "b": 4}
    with pytest.raises(Incompatible, match=r"after stage -5: fewer than two encoders.*here -4, -3, -2, -1"):
        staged({"a": 5, "b": 4}, stages=(-5,))
    assert len(staged({"a": 3}, stages=(-1,)).head.exchange) == 0


def test_one_modality_leaves_the_classifier_alone() -> None:
    model = staged({"a": 3})
    x = {"a": torch.randn(4, 3)}
    assert torch.equal(model(x).logits, model.head.final.linear["a"](model.encoders["a"](x["a"])))


def test_encoders_that_do_not_tell_their_widths_and_heads_of_another_model_are_refused() -> None:
    class Silent(MLP):
        def __init__(self) -> None:
            super().__init__((3,))
            self.stage_dims = ()

    encoders: dict[str, Any] = {"a": Silent(), "b": MLP((3,))}
    with pytest.raises(Incompatible, match=r"encoders of a do not tell. Set `stage_dims`"):
        MultimodalModel(encoders, Channel(dict.fromkeys("ab", 32), 3))
    model = staged({"a": 2, "b": 1})
    before = weights(model.head)
    again = MultimodalModel(dict(model.encoders.items()), model.head)  # type: ignore[arg-type]
    assert again.head is model.head and all(torch.equal(before[k], v) for k, v in weights(again.head).items())
    with pytest.raises(Incompatible, match="built for stages of the widths"):
        MultimodalModel({"a": MLP((3,), width=2), "b": MLP((3,), width=2)}, model.head)


def test_the_weights_of_all_stages_come_from_the_stream_of_the_seed(catalogue: Any) -> None:
    mlp = ("mlp", {"hidden": (6, 5), "width": 4, "dropout": 0.0})
    shown = SimpleNamespace(modalities=("a", "b"), n_classes=3, spec=lambda m: (3,))

    def built(seed: int, glob: int) -> dict[str, Tensor]:
        spec = SimpleNamespace(
            seed=seed, head="channel", head_params={}, encoders={"a": mlp, "b": mlp}, training=Training()
        )
        torch.manual_seed(glob)
        state = torch.get_rng_state()
        model = build_model(catalogue, spec, shown)  # type: ignore[arg-type]
        assert torch.equal(state, torch.get_rng_state())
        return weights(model)

    one, two, other = built(0, 1), built(0, 2), built(1, 1)
    key = "head.exchange.-2.gate.b.linear.weight"
    assert all(torch.equal(one[k], two[k]) for k in one) and not torch.equal(one[key], other[key])


def test_the_classifiers_are_the_heads_of_that_name() -> None:
    z = {m: torch.randn(5, d) for m, d in WIDTHS.items()}
    for final, plain in (
        ("mean", Sum(WIDTHS, 3, reduce="mean")),
        ("sum", Sum(WIDTHS, 3)),
        ("concat", Concat(WIDTHS, 3)),
    ):
        head = Channel(WIDTHS, 3, final=final)  # type: ignore[arg-type]
        plain.load_state_dict({k.removeprefix("final."): v for k, v in head.state_dict().items()})
        assert torch.equal(head(z).logits, plain(z).logits)
        assert (head.how, head.additive) == (plain.how, plain.additive)
    head = Channel(WIDTHS, 3, final="stacked")
    out, final = head(z), head.final
    stacked = [out.unimodal[m] @ final.joint.weight[m].T for m in z]
    torch.testing.assert_close(out.logits, sum(stacked) + final.joint.bias)
    torch.testing.assert_close(out.unimodal["v"], final.each.linear["v"](z["v"]))


class Norm(Encoder):
    """A stage with batch statistics."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Linear(width, 4), nn.BatchNorm1d(4))
        self.project = nn.Linear(4, 2)
        self.out_dim, self.n_stages, self.stage_dims = 2, 1, (4,)

    def begin(self, x: Tensor) -> Tensor:
        return x

    def run_stage(self, stage: int, state: Tensor) -> Tensor:
        return self.stage(state)

    def finish(self, state: Tensor) -> Tensor:
        return self.project(state)


@pytest.mark.parametrize("there", [0, 1, 2])
def test_batch_statistics_between_stages_see_only_rows_that_are_there(there: int) -> None:
    torch.manual_seed(0)
    model = MultimodalModel({"a": Norm(4), "b": Norm(3)}, Channel({"a": 2, "b": 2}, 3)).train()
    present = torch.ones(6, 2, dtype=torch.bool)
    present[there:, 1] = False
    out = model(data(n=6)["inputs"], present)
    out.logits.sum().backward()
    norm, kept = model.encoders["b"].stage[1], model.head.exchange["-1"].gate["b"]
    assert int(norm.num_batches_tracked) == (there > 1)  # one row has no statistics
    assert int(kept.steps) == (there > 0) and bool(torch.isfinite(out.logits).all())
    assert (norm.weight.grad is None) == (there == 0)
    assert model.training and norm.training


# ---------------------------------------------------------------------- Greedy
CHANGES = st.lists(st.floats(0.01, 100.0), min_size=4, max_size=4)


def greedy(m: int = 2, **options: Any) -> Greedy:
    strategy = (Greedy if m == 2 else GreedyMany)(**{"epsilon": 0.1, "window": 3, **options})
    strategy.setup(SimpleNamespace(modalities=list(range(m)), device="cpu"))  # type: ignore[arg-type]
    return strategy


def observed(strategy: Greedy, rows: Any, unlocked: bool = True) -> list[dict[str, Any]]:
    """State after each of these steps; a row is mu of (bypass 0, bypass 1, main 0, main 1)."""
    trace = []
    for row in rows:
        strategy._observe(torch.tensor(row, dtype=torch.float64).reshape(2, -1), unlocked)
        trace.append({**strategy.state_dict(), "d": float(strategy.speeds[0] - strategy.speeds[1])})
    return trace


@FIXED
@given(st.lists(CHANGES, min_size=1, max_size=12), st.integers(1, 5), st.floats(0.0, 1.0))
def test_a_trigger_starts_exactly_window_steps_in_which_the_sums_stand_still(
    rows: list[list[float]], window: int, epsilon: float
) -> None:
    left, sums = 0, torch.zeros(2, 2, dtype=torch.float64)
    for state in observed(greedy(window=window, epsilon=epsilon), rows):
        if left:
            left -= 1
            assert torch.equal(state["sums"], sums)
        else:
            assert bool((state["sums"] > sums).all())
            assume(abs(abs(state["d"]) - epsilon) > 1e-9)
            left = window if abs(state["d"]) > epsilon else 0
            if left:
                assert int(state["cut"]) == (0 if state["d"] > 0 else 1)
        assert int(state["left"]) == left
        sums = state["sums"]


@FIXED
@given(st.lists(CHANGES, min_size=1, max_size=8))
def test_exchanging_the_branches_turns_d_round_and_cuts_off_the_other(rows: list[list[float]]) -> None:
    one = observed(greedy(), rows)
    two = observed(greedy(), [[r[1], r[0], r[3], r[2]] for r in rows])
    for a, b in zip(one, two):
        assume(abs(abs(a["d"]) - 0.1) > 1e-9)
        assert b["d"] == pytest.approx(-a["d"], abs=1e-12) and int(a["left"]) == int(b["left"])
        if a["left"]:
            assert int(a["cut"]) == 1 - int(b["cut"])


@FIXED
@given(st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.01, 10)), min_size=1, max_size=6))
def test_equal_branches_are_left_alone(rows: list[tuple[float, float]]) -> None:
    for state in observed(greedy(epsilon=0.0), [[b, b, m, m] for b, m in rows]):
        assert state["d"] == 0 and int(state["left"]) == 0


@FIXED
@given(st.lists(CHANGES, min_size=1, max_size=4))
def test_natural_logarithms_are_ln_10_times_as_large_and_locked_steps_only_add_up(rows: list[list[float]]) -> None:
    ten, e = (observed(greedy(log=log), rows, unlocked=False) for log in ("log10", "ln"))
    for a, b in zip(ten, e):
        assert b["d"] == pytest.approx(math.log(10) * a["d"], abs=1e-9)
        assert int(a["left"]) == 0
    np.testing.assert_allclose(ten[-1]["sums"].flatten(), np.sum(rows, 0), rtol=1e-12)


@pytest.mark.parametrize("row", [[0, 1, 1, 1], [1, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 1]])
def test_a_branch_that_has_not_learned_starts_nothing(row: list[float]) -> None:
    strategy = greedy()
    assert [int(s["left"]) for s in observed(strategy, [row] * 3)] == [0, 0, 0]
    assert int(observed(strategy, [[50.0, 1.0, 1.0, 1.0]])[0]["left"]) == 3  # nothing has stuck


@FIXED
@given(st.integers(2, 4), st.lists(st.floats(0.1, 10), min_size=8, max_size=8))
def test_of_many_the_fastest_is_cut_off(m: int, drawn: list[float]) -> None:
    rows = torch.tensor(drawn, dtype=torch.float64)[: 2 * m].reshape(2, m)
    speeds = (rows[0] / rows[1]).log10()
    spread = float(speeds.max() - speeds.min())
    assume(spread > 1e-6)
    for share, left in ((0.999, 3), (1.001, 0)):
        many = greedy(m, epsilon=share * spread)
        many._observe(rows, True)
        assert int(many.left) == left
        assert int(many.cut) == (int(speeds.argmax()) if left else 0)


@FIXED
@given(SEEDS, st.floats(1e-3, 1e3))
def test_the_relative_change_ignores_a_common_scale(seed: int, c: float) -> None:
    g = torch.Generator().manual_seed(seed)
    params = [nn.Parameter(torch.randn(s, generator=g, dtype=torch.float64)) for s in ((2, 3), (4,), (1,))]
    for p in params:
        p.grad = torch.randn(p.shape, generator=g, dtype=torch.float64)
    g2, w2 = (sum(float((t**2).sum()) for t in ts) for ts in ([p.grad for p in params], [p.data for p in params]))
    mu = float(relative_change(params))
    assert mu == pytest.approx(g2 / w2, rel=1e-12)
    scaled = [nn.Parameter(c * p.detach()) for p in params]
    for p, q in zip(params, scaled):
        q.grad = c * p.grad
    assert float(relative_change(scaled)) == pytest.approx(mu, rel=1e-9)


def test_the_relative_change_of_nothing_is_zero() -> None:
    zero, idle = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))
    zero.grad = torch.ones(2)
    broken = nn.Parameter(torch.ones(1))
    broken.grad = torch.tensor([math.inf])
    assert [float(relative_change(ps)) for ps in ([], [zero], [idle], [broken])] == [0.0] * 4
    zero.grad = torch.full((2,), 2.0)
    assert float(relative_change([zero, idle])) == pytest.approx(4.0)  # a missing gradient is one of zero


def bench_run(
    strategy: Strategy, head: type = Channel, present: Tensor | None = None, n: int = 2, **options: Any
) -> Run:
    torch.manual_seed(0)
    widths = dict(zip("abcd", (4, 3, 5, 2)[:n]))
    encoders = {m: MLP((w,), hidden=(6, 5), width=4) for m, w in widths.items()}
    model = MultimodalModel(encoders, head(dict.fromkeys(widths, 4), 3, **options))
    loader = Loader(**data(n=40, widths=widths), present=present, batch_size=8)
    return Run(model, strategy, train=loader, training=Training(lr=0.05, epochs=4))


def test_a_cut_branch_learns_from_its_own_input_and_evaluation_uses_the_gates() -> None:
    run = train(bench_run(Greedy(epsilon=1e-6, window=50, start_epoch=0)), 1)
    strategy: Any = run.strategy
    assert int(strategy.left) > 0
    cut = run.modalities[int(strategy.cut)]
    (free,) = [m for m in run.modalities if m != cut]
    batch = next(iter(run.train()))
    run.step(batch)
    for exchange in run.model.head.exchange.values():
        assert not bool(exchange.gate[cut].linear.weight.grad.any())
        assert bool(exchange.gate[free].linear.weight.grad.any())
    (pass_,) = strategy.plan(SimpleNamespace(run=run), [Pass()])
    run.model.eval()
    other = {**batch.inputs, free: batch.inputs[free] + 1.0}
    assert torch.equal(run.model.encode(batch.inputs, pass_)[cut], run.model.encode(other, pass_)[cut])
    scores = predict(run.model, strategy, [batch]).scores
    strategy.left = torch.zeros_like(strategy.left)
    assert torch.equal(predict(run.model, strategy, [batch]).scores, scores)


def test_at_random_each_branch_is_cut_off_in_a_third_of_the_steps_from_the_start_epoch_on() -> None:
    strategy = Greedy(schedule="random")
    run = bench_run(strategy)
    run.start_epoch()
    drawn = []
    for epoch, n in ((0, 50), (1, 900)):
        run.epoch = epoch
        for step in range(n):
            run.global_step = step
            (pass_,) = strategy.plan(_step(run), [Pass()])
            (again,) = strategy.plan(_step(run), [Pass()])
            flags = {m: bool(f) for m, f in pass_.flags["mean_gates"].items()}
            assert flags == {m: bool(f) for m, f in again.flags["mean_gates"].items()}
            drawn.append((epoch, *flags.values()))
    assert all(d == (0, False, False) for d in drawn if d[0] == 0)
    for kind in ((1, False, False), (1, True, False), (1, False, True)):
        assert 240 < drawn.count(kind) < 360
    assert bool(train(run, 1).model.head.exchange["-1"].gate["a"].steps > 0)


def _step(run: Run) -> Any:
    from mmzoo.api import Step

    return Step(run, next(iter(run.train())))


def test_absent_modalities_do_not_count_in_a_branch_loss() -> None:
    present = torch.ones(40, 2, dtype=torch.bool)
    present[::3, 1] = False
    run = bench_run(Greedy(), present=present)
    step = _step(run)
    out = run.model(step.batch.inputs, step.batch.present)
    here = step.batch.present[:, 1]
    own = [run.criterion(out.unimodal["a"], step.target), run.criterion(out.unimodal["b"][here], step.target[here])]
    task = run.strategy.losses(step, out, {"task": out.logits.sum(), "x/y": out.logits.mean()})
    torch.testing.assert_close(task["task"], own[0] + own[1])
    assert set(task) == {"task", "x/y"}


def test_any_number_of_branches_is_ours_and_two_are_greedy() -> None:
    one, two = (train(bench_run(kind(epsilon=1e-3)), 3) for kind in (Greedy, GreedyMany))
    assert all(torch.equal(v, weights(two.model)[k]) for k, v in weights(one.model).items())
    four = train(bench_run(GreedyMany(epsilon=1e-3), n=4), 3)
    assert four.strategy.sums.shape == (2, 4)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("strategy", "n", "head", "reason"),
    [
        (Greedy, 3, Channel, "at most 2 modalities, not 3"),
        (Greedy, 1, Channel, "at least 2 modalities; there is 1"),
        (Greedy, 2, Concat, "needs a head with gates between encoder stages.*Concat has none"),
        (GreedyMany, 1, Channel, "at least 2 modalities"),
    ],
)
def test_greedy_refuses_with_the_reason(strategy: Any, n: int, head: Any, reason: str) -> None:
    with pytest.raises(Incompatible, match=reason):
        bench_run(strategy(), head=head, n=n)


def test_plans_refuse_what_cannot_work_and_take_the_rest(plan: Any) -> None:
    kinds = {
        r.method: r.reason
        for r in plan("greedy_many", baselines=("greedy", "ogm@mmtm"), datasets=("mfeat:six",)).refused
    }
    assert list(kinds) == ["greedy"] and "at most 2 modalities, not 6" in kinds["greedy"]
    with pytest.raises(MmzooError, match=r"needs a head with gates between encoder stages.*concat has none"):
        plan("greedy@concat")
    runs = plan("greedy_random", baselines=("channel",)).runs
    assert [r.spec.head for r in runs] == ["channel", "channel"]
    assert runs[0].spec.parts[0].params["schedule"] == "random"


@settings(FIXED, max_examples=5)
@given(st.integers(1, 6))
def test_a_gate_of_one_batch_is_its_mean(n: int) -> None:
    gate = Gate(3, 2).double()
    values = torch.rand(n, 2, dtype=torch.float64)
    gate.absorb(torch.zeros(2, dtype=torch.float64), torch.zeros((), dtype=torch.float64))
    assert int(gate.steps) == 0 and not bool(gate.mean.any())
    gate.absorb(values.sum(0), torch.tensor(float(n), dtype=torch.float64))
    torch.testing.assert_close(gate.mean, values.mean(0))

"""Parameters and operations by group, against counts by hand."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmzoo.api import Batch, Encoder, MultimodalModel, Outputs, Strategy, complexity
from mmzoo.encoders.mlp import MLP
from mmzoo.evaluation.complexity import flops
from mmzoo.heads.concat import Concat
from mmzoo.heads.shared import Shared
from mmzoo.heads.sum import Sum
from mmzoo.heads.weight import Weight
from mmzoo.testing.harness.tasks import CoupledConcat, Mixing, build_model, make_task

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=20)


def linear(n_in: int, n_out: int) -> int:
    """The operations of a linear layer on one item: a multiplication and an addition for each weight."""
    return 2 * n_in * n_out


def batch_of(inputs: Mapping[str, Any], n: int = 5) -> Batch:
    return Batch(inputs, torch.zeros(n, dtype=torch.int64), torch.arange(n))


def counted(model: MultimodalModel, inputs: Mapping[str, Any], strategy: Strategy | None = None) -> dict[str, int]:
    return flops(model, strategy or Strategy(), batch_of(inputs))


@FIXED
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.lists(st.integers(1, 6), max_size=2),
    st.lists(st.integers(1, 7), min_size=4, max_size=4),
    st.integers(2, 5),
    st.integers(1, 6),
)
def test_layers_of_perceptrons_by_hand(
    widths: list[int], hidden: list[int], dims: list[int], n_classes: int, n: int
) -> None:
    names = [f"m{i}" for i in range(len(widths))]
    encoders = {m: MLP((w,), hidden=hidden, width=d) for m, w, d in zip(names, widths, dims)}
    out = {m: e.out_dim for m, e in encoders.items()}
    inputs = {m: torch.randn(n, w) for m, w in zip(names, widths)}
    expected, held = {}, {}
    for m, w in zip(names, widths):
        layers = list(zip([w, *hidden], [*hidden, out[m]]))
        expected[f"encoder:{m}"] = sum(linear(i, o) for i, o in layers)
        held[f"encoder:{m}"] = sum(i * o + o for i, o in layers)
    blocks = {f"head:{m}": linear(d, n_classes) for m, d in out.items()}
    for head, bias in ((Concat, 0), (Sum, n_classes)):
        model = MultimodalModel(encoders, head(out, n_classes))
        whole = complexity(model, Strategy(), batch_of(inputs, n))
        assert {g: s["flops"] for g, s in whole["groups"].items() if s["flops"]} == expected | blocks
        own = {f"head:{m}": d * n_classes + bias for m, d in out.items()}
        shared = {} if head is Sum else {"head:shared": n_classes}
        assert {g: s["parameters"] for g, s in whole["groups"].items()} == held | own | shared
        assert whole["flops"] == sum(expected.values()) + sum(blocks.values())
        assert whole["parameters"] == sum(p.numel() for p in model.parameters())


def test_what_no_modality_owns_is_shared() -> None:
    x = {"a": torch.randn(3, 4), "b": torch.randn(3, 6)}
    encoders = {m: MLP((z.shape[1],), hidden=(), width=5) for m, z in x.items()}
    own = {"encoder:a": linear(4, 5), "encoder:b": linear(6, 5)}
    dims = {"a": 5, "b": 5}
    assert counted(MultimodalModel(encoders, Shared(dims, 3)), x) == {**own, "head:shared": 2 * linear(5, 3)}
    attend = 2 * (linear(5, 8) + linear(8, 1))
    feature = MultimodalModel(encoders, Weight(dims, 3, attention=(8,)))
    assert counted(feature, x) == {**own, "head:shared": attend + 2 * linear(5, 3)}
    level = MultimodalModel(encoders, Weight(dims, 3, level="logit", attention=(8,), width=7))
    heads = {f"head:{m}": linear(5, 7) + linear(7, 3) for m in dims}
    attend = 2 * (linear(7, 8) + linear(8, 1))
    assert counted(level, x) == {**own, **heads, "head:shared": attend}


HEADS = [Concat, Sum, partial(Sum, reduce="mean"), Shared, Weight, partial(Weight, level="gate"), Mixing, CoupledConcat]


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("head", HEADS, ids=lambda h: str(getattr(h, "__name__", getattr(h, "keywords", ""))))
def test_groups_add_up_to_the_model(head: Any, n: int) -> None:
    task = make_task(n, equal=getattr(getattr(head, "func", head), "equal_dims", False))
    model = build_model(task, head, norm=True)
    model.extra["idle"] = nn.Linear(3, 4)
    batch = task.batch()
    found = complexity(model, Strategy(), batch)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()({m: x[:1] for m, x in batch.inputs.items()})
    assert found["flops"] == counter.get_total_flops() == sum(s["flops"] for s in found["groups"].values()) > 0
    held = sum(s["parameters"] for s in found["groups"].values())
    assert found["parameters"] == held == sum(p.numel() for p in model.parameters())
    # What is trained along and takes no part in the answer costs parameters and no operations.
    assert found["groups"]["extra:idle"] == {"parameters": 16, "flops": 0}
    assert set(found["groups"]) == set(model.groups())


def test_coupling_between_stages_belongs_to_the_head() -> None:
    task = make_task(2)
    coupled, plain = (complexity(build_model(task, h), Strategy(), task.batch()) for h in (CoupledConcat, Concat))
    for group, size in plain["groups"].items():
        if group != "head:shared":
            assert coupled["groups"][group] == size
    # Two gates of 8 x 8 at each of two stages.
    assert (
        coupled["groups"]["head:shared"]["flops"] == 2 * 2 * linear(8, 8)
        and plain["groups"]["head:shared"]["flops"] == 0
    )


class Rule(Strategy):
    """Decides with a module of its own."""

    owns = frozenset({"predict"})

    def predict(self, out: Outputs) -> Outputs:
        return out.replace(ranking=self.model.extra["judge"](out.logits))


def test_the_decision_rule_is_part_of_the_answer() -> None:
    task = make_task(2)
    model = build_model(task, Concat)
    plain = counted(model, task.batch().inputs)
    rule = Rule()
    rule.model = model
    model.extra["judge"] = nn.Linear(3, 3)
    assert counted(model, task.batch().inputs, rule) == {**plain, "extra:judge": linear(3, 3)}


class Convolution(Encoder):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.out_dim = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()), 8

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).mean((2, 3))


class Attention(Encoder):
    """One transformer layer over 5 steps, which a fused kernel would take as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out_dim = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 8

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).mean(1)


class Recurrent(Encoder):
    def __init__(self, kind: type) -> None:
        super().__init__()
        self.layer, self.out_dim = kind(4, 6, batch_first=True), 6

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0][:, -1]


T = 5
BY_HAND = [
    (Convolution(), (3, 8, 8), 2 * 3 * 9 * 8 * 64),
    (Attention(), (T, 8), T * (linear(8, 24) + linear(8, 8)) + 2 * 2 * T * T * 8 + T * (linear(8, 16) + linear(16, 8))),
    (Recurrent(nn.LSTM), (T, 4), T * (linear(4, 24) + linear(6, 24))),
    (Recurrent(nn.GRU), (T, 4), T * (linear(4, 18) + linear(6, 18))),
]


@pytest.mark.parametrize(("encoder", "shape", "expected"), BY_HAND, ids=lambda x: type(x).__name__)
def test_convolution_attention_and_recurrence_by_hand(encoder: Any, shape: tuple[int, ...], expected: int) -> None:
    model = MultimodalModel({"x": encoder}, Concat({"x": encoder.out_dim}, 3))
    switches = (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled, torch.backends.mha.get_fastpath_enabled())
    for n in (1, 4):  # of one item, however many there are
        found = flops(model, Strategy(), batch_of({"x": torch.randn(n, *shape)}, n))
        assert found == {"encoder:x": expected, "head:x": linear(encoder.out_dim, 3), "head:shared": 0}
    now = (torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled, torch.backends.mha.get_fastpath_enabled())
    assert now == switches


def test_the_model_and_its_mode_are_left_alone() -> None:
    task = make_task(2)
    model = build_model(task, Concat, norm=True, dropout=0.2).train()
    before, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.random.get_rng_state()
    counted(model, task.batch().inputs)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items()) and model.training
    assert torch.equal(random, torch.random.get_rng_state()) and all(m.training for m in model.modules())


def test_an_item_that_lacks_a_modality_is_counted_as_if_it_had_it() -> None:
    task = make_task(2)
    model, batch = build_model(task, Concat), task.batch()
    present = torch.zeros(len(batch), 2, dtype=torch.bool)
    masked = Batch(batch.inputs, batch.target, batch.index, present)
    assert flops(model, Strategy(), masked) == flops(model, Strategy(), batch)

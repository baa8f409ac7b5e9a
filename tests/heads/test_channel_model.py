"""Models with the channel head: stages, padding, absent modalities, batch statistics, refusals."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import data, weights
from torch import Tensor, nn

from mmzoo.api import Encoder, Incompatible, MultimodalModel, Pass, Training
from mmzoo.benchmark.execution.building import build_model
from mmzoo.encoders.mlp import MLP
from mmzoo.heads.channel import FINALS, Channel, squeezed
from mmzoo.heads.concat import Concat
from mmzoo.heads.sum import Sum
from mmzoo.testing import check_encoder

WIDTHS = {"a": 4, "v": 3, "t": 2}


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

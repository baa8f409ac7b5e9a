"""Encoders and head as one model: absent modalities, parameter groups, heads that act between stages."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from helpers import NormEncoder, data, model
from torch import Tensor, nn

from mmzoo.api import Encoder, FusionHead, Incompatible, Loader, MultimodalModel, Pass, Run, Strategy, Training
from mmzoo.encoders.mlp import MLP
from mmzoo.evaluation.scores import evaluate
from mmzoo.heads.concat import Concat
from mmzoo.heads.shared import Shared
from mmzoo.heads.sum import Sum
from mmzoo.heads.weight import Weight

HEADS = [
    (Concat, {}),
    (Sum, {}),
    (Sum, {"reduce": "mean"}),
    (Shared, {}),
    (Weight, {}),
    (Weight, {"level": "logit"}),
    (Weight, {"level": "gate"}),
]


@pytest.mark.parametrize(("head", "params"), HEADS)
def test_groups_are_a_partition(head: type, params: dict) -> None:
    m = model(norm=True, head=head, **params)
    m.extra["more"] = nn.Linear(2, 2)
    ids = [id(p) for ps in m.groups().values() for p in ps]
    assert len(ids) == len(set(ids)) == len(list(m.parameters()))
    assert {"encoder:a", "encoder:b", "extra:more"} <= set(m.groups())


@pytest.mark.parametrize(("head", "params"), HEADS)
def test_data_of_an_absent_modality_changes_nothing(head: type, params: dict) -> None:
    m = model(norm=True, head=head, **params)
    d = data(n=10)
    present = torch.ones(10, 2, dtype=torch.bool)
    present[3:7, 0] = False
    other = {**d["inputs"], "a": d["inputs"]["a"].clone()}
    other["a"][3:7] = torch.nan
    m.train()
    for p in m.modules():
        if isinstance(p, nn.Dropout):
            p.eval()
    first, second = m(d["inputs"], present), m(other, present)
    assert torch.equal(first.logits, second.logits)
    assert bool(torch.isfinite(first.logits).all())
    # Statistics are those of the rows that were there.
    norm = m.encoders["a"].net[1]
    rows = m.encoders["a"].net[0](d["inputs"]["a"][present[:, 0]])
    fresh = nn.BatchNorm1d(6)
    fresh(rows), fresh(rows)
    assert torch.allclose(norm.running_mean, fresh.running_mean)


@pytest.mark.parametrize(("head", "params"), HEADS)
def test_a_subset_of_modalities_is_the_others_being_absent(head: type, params: dict) -> None:
    m = model({"a": 4, "b": 3, "c": 2}, head=head, **params).eval()
    d = data(n=6, widths={"a": 4, "b": 3, "c": 2})
    mask = torch.zeros(6, 3, dtype=torch.bool)
    mask[:, 1] = True
    fed = m.outputs(m.encode(d["inputs"], Pass(present=frozenset({"b"}))))
    masked = m(d["inputs"], mask)
    assert torch.allclose(fed.logits, masked.logits)
    assert list(fed.unimodal) == ["b"]


def test_a_batch_without_any_row_of_a_modality_never_reaches_its_encoder() -> None:
    m = model(norm=True)
    d = data(n=6)
    present = torch.ones(6, 2, dtype=torch.bool)
    present[:, 1] = False
    m.train()
    m(d["inputs"], present).logits.sum().backward()
    assert int(m.encoders["b"].net[1].num_batches_tracked) == 0
    assert all(p.grad is None for p in m.encoders["b"].parameters())


def test_a_head_for_other_widths_is_refused() -> None:
    with pytest.raises(Incompatible, match="'a': 4"):
        MultimodalModel({"a": NormEncoder(3)}, Concat({"a": 4}, 2))
    with pytest.raises(Incompatible, match="one width"):
        model(head=Shared, dims={"a": 3})


class Mixing(FusionHead):
    """Adds the mean of the other modalities' maps after each stage."""

    couples = True

    def __init__(self, dims: Mapping[str, int], n_classes: int) -> None:
        super().__init__(dims, n_classes)
        self.linear = nn.Linear(sum(dims.values()), n_classes)
        self.seen: list[tuple[int, tuple[str, ...]]] = []

    def couple(
        self, stage: int, maps: Mapping[str, Tensor], present: Tensor | None, pass_: Pass, masks: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        self.seen.append((stage, tuple(maps)))
        if pass_.flags.get("mute"):
            return dict(maps)
        mean = torch.stack([z.mean(1) for z in maps.values()]).mean(0)
        return {m: z + mean[:, None] for m, z in maps.items()}

    def fuse(self, features: Mapping[str, Tensor], present: Tensor | None) -> tuple[Tensor, dict]:
        return self.linear(torch.cat(list(features.values()), 1)), {}


def test_a_coupling_head_acts_between_aligned_stages() -> None:
    encoders = {"a": MLP((4,), hidden=(6, 6), width=5), "b": MLP((3,), hidden=(7,), width=5)}
    m = MultimodalModel(encoders, Mixing({"a": 5, "b": 5}, 3))
    d = data(n=6)
    mixed = m(d["inputs"]).logits
    # The last stages are aligned; the deeper encoder is alone in its first.
    assert m.head.seen == [(-2, ("a",)), (-1, ("a", "b"))]
    features = m.encode(d["inputs"], Pass(flags={"mute": True}))
    assert torch.allclose(features["a"], encoders["a"](d["inputs"]["a"]))
    muted = m.outputs(features).logits
    assert not torch.allclose(mixed, muted)
    present = torch.ones(6, 2, dtype=torch.bool)
    present[2:, 1] = False
    assert bool(torch.isfinite(m(d["inputs"], present).logits).all())
    with pytest.raises(Incompatible, match="stages"):
        MultimodalModel({"a": NormEncoder(4)}, Mixing({"a": 5}, 3))
    with pytest.raises(Incompatible, match="micro_batch"):
        Run(m, Strategy(), train=Loader(**d, batch_size=3), training=Training(micro_batch=2))


def test_a_frozen_encoder_of_a_coupled_model_keeps_no_graph() -> None:
    encoders = {"a": MLP((4,), hidden=(6,), width=5), "b": MLP((3,), hidden=(6,), width=5)}
    m = MultimodalModel(encoders, Mixing({"a": 5, "b": 5}, 3))
    feats = m.encode(data(n=4)["inputs"], Pass(freeze=frozenset({"a"})))
    assert not feats["a"].requires_grad and feats["b"].requires_grad


def test_an_encoder_without_forward_or_stages_says_so() -> None:
    with pytest.raises(TypeError, match="neither forward nor the stages"):
        Encoder()(torch.zeros(1, 2))


def test_scores_of_a_modality_are_over_the_items_that_have_it() -> None:
    m = model(head=Sum)
    present = torch.ones(40, 2, dtype=torch.bool)
    present[10:, 0] = False
    batches = list(Loader(**data(), present=present, batch_size=16).batches())
    whole = evaluate(m, Strategy(), batches)
    first = Loader(
        **{k: ({m: x[:10] for m, x in v.items()} if k == "inputs" else v[:10]) for k, v in data().items()},
        batch_size=10,
    )
    assert whole["unimodal"]["a"] == pytest.approx(evaluate(m, Strategy(), first.batches())["unimodal"]["a"])


@pytest.mark.parametrize("name", ["clear", "type", "values", "pop", "training", "copy", "a.b", ""])
def test_a_name_that_containers_of_torch_have_is_refused_with_words(name: str) -> None:
    with pytest.raises(Incompatible, match="a modality cannot be called"):
        Concat({name: 4}, 2)

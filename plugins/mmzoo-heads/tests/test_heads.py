"""The contract checks that every head has to pass, the recorded numbers, and what is particular to these heads."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mmzoo_heads", reason="mmzoo-heads is not installed")

from mmzoo_heads import replays  # noqa: F401
from mmzoo_heads.bilinear import Bilinear
from mmzoo_heads.bottleneck import Bottleneck
from mmzoo_heads.cross_attention import CrossAttention
from mmzoo_heads.low_rank import LowRank
from mmzoo_heads.tensor_fusion import TensorFusion, outer

from mmzoo.api import Incompatible, InputSpec, MultimodalModel
from mmzoo.encoders.cnn import CNN
from mmzoo.encoders.mlp import MLP
from mmzoo.encoders.tokens import TextTransformer
from mmzoo.testing import check_installed, check_vectors, parametrize_with_checks, run_program

VECTORS = sorted((Path(__file__).parent / "vectors").glob("*.json"))


def _made(cls: type, **params: Any) -> Any:
    return lambda dims, n: cls(dims, n, **params)


@parametrize_with_checks(
    [
        TensorFusion,
        _made(TensorFusion, hidden=None, width=3),
        LowRank,
        _made(LowRank, init="authors"),
        Bilinear,
        _made(Bilinear, form="vector"),
        _made(Bilinear, form="scalar"),
    ],
    kind="head",
)
def test_contract(check) -> None:  # type: ignore[no-untyped-def]
    check()


@parametrize_with_checks([_made(CrossAttention, dim=8, heads=2), _made(Bottleneck, dim=8, heads=2)], kind="head")
def test_contract_of_heads_between_stages(check) -> None:  # type: ignore[no-untyped-def]
    check()


@pytest.mark.parametrize("path", VECTORS, ids=lambda p: p.stem)
def test_recorded_numbers(path: Path) -> None:
    check_vectors(path)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 10**6))
def test_low_rank_is_a_linear_layer_of_low_rank_on_the_outer_product(widths: list[int], rank: int, seed: int) -> None:
    torch.manual_seed(seed)
    dims = {f"m{i}": d for i, d in enumerate(widths)}
    head = LowRank(dims, 3, rank=rank).double()
    z = {m: torch.randn(5, d, dtype=torch.float64) for m, d in dims.items()}
    full = torch.zeros(1, 3, dtype=torch.float64)
    for r in range(rank):
        part = torch.ones(1, 3, dtype=torch.float64)
        for m in dims:  # row-major, like the product of the features
            part = (part[:, None] * head.factors[m][r][None]).flatten(0, 1)
        full = full + head.weight[0, r] * part
    assert torch.allclose(head(z).logits, outer(list(z.values())) @ full + head.bias, atol=1e-10)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(0, 10**6))
def test_the_outer_product_holds_one_each_feature_and_all_products(widths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    z = [torch.randn(2, d, dtype=torch.float64) for d in widths]
    product = outer(z).reshape(2, *[d + 1 for d in widths])
    assert bool((product[(slice(None), *[0] * len(widths))] == 1).all())
    for i, x in enumerate(z):
        at = [slice(None), *[0] * len(widths)]
        at[i + 1] = slice(1, None)
        assert torch.equal(product[tuple(at)], x)
    last = [d for d in widths]
    assert torch.allclose(product[(slice(None), *last)], torch.stack([x[:, -1] for x in z]).prod(0))


def test_low_rank_registers_its_factors() -> None:
    names = {n for n, _ in LowRank({"a": 2, "b": 3}, 4).named_parameters()}
    assert names == {"factors.a", "factors.b", "weight", "bias"}


def test_a_product_that_is_too_large_is_refused() -> None:
    dims = {f"m{i}": 8 for i in range(6)}
    with pytest.raises(Incompatible, match="Choose a smaller width"):
        TensorFusion(dims, 3, width=16)
    assert TensorFusion(dims, 3)(dict.fromkeys(dims, torch.randn(2, 8))).logits.shape == (2, 3)


def _mixed(head: Any, **params: Any) -> tuple[Any, dict[str, Any]]:
    """A model of a picture, a text with padding and a vector, and a batch for it."""
    torch.manual_seed(0)
    encoders = {
        "image": CNN(InputSpec("image", (3, 16, 16)), widths=(8, 12), width=6, grid=1),
        "text": TextTransformer(InputSpec("text", (5,), vocabulary=11), dim=8, depth=1, heads=2, dropout=0.0),
        "vector": MLP((7,), hidden=(9,), width=5),
    }
    model = MultimodalModel(encoders, head({m: e.out_dim for m, e in encoders.items()}, 3, **params)).eval()
    ids = torch.randint(11, (4, 5))
    mask = torch.arange(5) < torch.tensor([[5], [3], [1], [2]])
    return model, {"image": torch.randn(4, 3, 16, 16), "text": {"ids": ids, "mask": mask}, "vector": torch.randn(4, 7)}


@pytest.mark.parametrize("head", [CrossAttention, Bottleneck])
def test_padding_and_absent_modalities_are_not_heard(head: Any) -> None:
    model, inputs = _mixed(head, dim=8, heads=2)
    present = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], dtype=torch.bool)
    before = model(inputs, present).logits
    ids = torch.where(inputs["text"]["mask"], inputs["text"]["ids"], 3)
    ids = torch.where(present[:, 1, None], ids, 5)
    vector = torch.where(present[:, 2, None], inputs["vector"], 99.0)
    image = torch.where(present[:, 0, None, None, None], inputs["image"], -50.0)
    after = model(
        {"image": image, "text": {"ids": ids, "mask": inputs["text"]["mask"]}, "vector": vector}, present
    ).logits
    assert torch.allclose(before, after, atol=1e-6)
    heard = model({**inputs, "vector": inputs["vector"] + 1}, present)
    changed = (heard.features["image"] - model(inputs, present).features["image"]).abs().amax(1).detach()
    assert bool((changed[[0, 2]] > 0).all()) and float(changed[1]) == 0.0  # row 1 has no vector


def test_without_bottlenecks_nothing_crosses() -> None:
    """The bottlenecks are the only way from one modality to another."""
    model, inputs = _mixed(Bottleneck, dim=8, heads=2, layers=1)
    one = model(inputs).features["image"]
    other = model({**inputs, "vector": inputs["vector"] + 1}).features["image"]
    assert torch.equal(one, other)  # in the only layer a modality hears the first bottlenecks alone
    deep, inputs = _mixed(Bottleneck, dim=8, heads=2, layers=2)
    heard = deep({**inputs, "vector": inputs["vector"] + 1}).features["image"]
    assert not torch.equal(deep(inputs).features["image"], heard)


def test_a_shared_classifier_needs_equal_widths() -> None:
    with pytest.raises(Incompatible, match="shared_classifier"):
        Bottleneck({"a": 3, "b": 4}, 2, shared_classifier=True)
    with pytest.raises(Incompatible, match="heads must divide dim"):
        CrossAttention({"a": 3, "b": 3}, 2, dim=6, heads=4)


def test_installed_as_a_stranger(tmp_path: Path) -> None:
    mmzoo = partial(run_program, cwd=tmp_path)
    check_installed("mmzoo-heads", tmp_path)
    mmzoo(
        "bench",
        "--method",
        "ogm@bottleneck",
        "--baselines",
        "tfn,lmf,bilinear,cross_attention",
        "--no-references",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--datasets",
        "mfeat:six",
        "--out",
        "results",
    )
    rows = json.loads(mmzoo("report", "results", "--format", "json"))["rows"]
    assert [r["status"] for r in rows] == ["ok"] * 5

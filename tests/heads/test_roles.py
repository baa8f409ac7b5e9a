"""Which modality conditions which, and how many a head needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from helpers.heads_by_hand import C

from mmzoo.api import FusionHead, Incompatible, conditioners
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.config.spec import BenchSpec
from mmzoo.errors import BadValue
from mmzoo.heads.affine import Affine
from mmzoo.heads.concat import Concat
from mmzoo.heads.gated import Gated
from mmzoo.heads.gmu import GMU
from mmzoo.heads.ml_lstm import MLLSTM
from mmzoo.registry import Catalogue, read_entries
from mmzoo.testing import check_part


# ---------------------------------------------------------------------- roles
def test_roles_of_two_modalities_are_the_two_directions() -> None:
    forth, back = {"v": ("a",)}, {"a": ("v",)}
    for condition, target in (("others", "last"), ("first", "others"), ("a", "v"), ("first", "last"), ("a", "others")):
        assert conditioners(["a", "v"], condition, target) == forth
    for condition, target in (("others", "first"), ("last", "others"), ("v", "a"), ("last", "first")):
        assert conditioners(["a", "v"], condition, target) == back
    assert conditioners(["a", "v"], "others", "others") == {**back, **forth}


def test_roles_of_more_modalities() -> None:
    names = ("a", "v", "t")
    assert conditioners(names, "others", "last") == {"t": ("a", "v")}
    assert conditioners(names, "others", "v") == {"v": ("a", "t")}
    assert conditioners(names, "v", "others") == {"a": ("v",), "t": ("v",)}
    assert conditioners(names, "others", "others") == {"a": ("v", "t"), "v": ("a", "t"), "t": ("a", "v")}
    # A modality may be called as one of the words; its name comes first.
    assert conditioners(("last", "v", "t"), "others", "last") == {"last": ("v", "t")}


@pytest.mark.parametrize(
    ("condition", "target", "said"),
    [
        ("vidoe", "others", r"condition must be one of audio, video, text, first, last, others, not 'vidoe'\. Did you"),
        ("others", "all", "target must be one of audio, video, text, first, last, others, not 'all'"),
        ("audio", "first", r"condition and target are both audio\. Set one of them to others"),
        ("first", "last", r"condition audio and target text leave out video\. Set one of them to others"),
    ],
)
def test_roles_that_cannot_be_are_refused_with_what_can(condition: str, target: str, said: str) -> None:
    for cls in (Affine, Gated):
        with pytest.raises(Incompatible, match=said):
            cls({"audio": 3, "video": 4, "text": 2}, C, condition=condition, target=target)


# ---------------------------------------------------------------------- how many modalities a head takes
@pytest.mark.parametrize("cls", [Affine, Gated, GMU, MLLSTM])
def test_fewer_than_two_modalities_are_refused(cls: type[FusionHead]) -> None:
    assert cls.min_modalities == 2
    for dims, given_ in (({"audio": 3}, "audio"), ({}, "none")):
        with pytest.raises(Incompatible, match=rf"{cls.__name__} needs at least 2 modalities, but got {given_}\. Use"):
            cls(dims, C)


def test_a_bench_refuses_a_head_that_needs_more_modalities(catalogue: Catalogue) -> None:
    one_view = (("mfeat.views", ["fou"]),)
    bench = BenchSpec(method="concat", baselines=("gmu",), seeds=(0,), settings=one_view, references=False)
    (refused,) = make_plan(bench, catalogue).refused
    assert (refused.method, refused.reason) == ("gmu", "head gmu needs at least 2 modalities; there is 1.")


def test_the_contract_sees_a_head_that_takes_fewer_than_it_says() -> None:
    class Lenient(Concat):
        def __init__(self, dims: Mapping[str, int], n_classes: int) -> None:
            super().__init__(dims, n_classes)
            self.min_modalities = 2  # type: ignore[misc]

    with pytest.raises(AssertionError, match=r"too few modalities are refused \(min_modalities\)"):
        check_part("head", Lenient, only=["check_head_tags"])


def test_the_limits_of_a_head_are_whole_numbers(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text("heads:\n  x: {summary: X., path: 'a:B', how: exact, modalities: {min: two}}\n", encoding="utf-8")
    with pytest.raises(BadValue, match=r"heads\.x\.modalities: must be whole numbers for min and max"):
        read_entries(path, "pkg")


# ---------------------------------------------------------------------- recipes
@pytest.mark.parametrize(
    ("name", "head", "differs"),
    [
        ("film", "affine", {}),
        ("affine_plus1", "affine", {"gamma_baseline": 1}),
        ("gated", "gated", {}),
        ("gmu", "gmu", {}),
        ("lstm", "ml_lstm", {}),
        ("ml_lstm_sequence", "ml_lstm", {"mode": "modality_sequence"}),
        ("ml_lstm_tokens", "ml_lstm", {"mode": "tokens"}),
        ("mean", "sum", {"reduce": "mean"}),
        ("weight_logit", "weight", {"level": "logit"}),
        ("weight_gate", "weight", {"level": "gate"}),
        ("concat@film", "affine", {}),
    ],
)
def test_recipes_name_their_heads(name: str, head: str, differs: dict, catalogue: Catalogue) -> None:
    method = resolve_method(catalogue, name, Settings(catalogue, ()))
    entry = catalogue.get("heads", method.head)
    assert entry.name == head
    assert {k: v for k, v in method.head_params.items() if v != entry.params[k].default} == differs
    assert [part.strategy for part in method.parts] == ["plain"]


def test_weight_unimodal_has_the_losses_of_cmml_two_to_one(catalogue: Catalogue) -> None:
    method = resolve_method(catalogue, "weight_unimodal", Settings(catalogue, ()))
    assert method.head == "weight" and [(p.strategy, dict(p.params)) for p in method.parts] == [
        ("joint_unimodal", {"weight": 0.5})
    ]


@pytest.mark.parametrize("head", ["affine", "gated", "gmu", "ml_lstm"])
def test_methods_that_need_unimodal_logits_are_refused_with_the_reason(head: str, catalogue: Catalogue) -> None:
    bench = BenchSpec(method=head, baselines=(f"ogm@{head}",), seeds=(0,), references=False)
    (refused,) = make_plan(bench, catalogue).refused
    assert f"head {head} has none" in refused.reason

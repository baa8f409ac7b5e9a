"""`+refit` in the grammar of methods, and what a bench adds to compare it with."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.config.spec import BenchSpec, Method
from mmzoo.errors import Incompatible
from mmzoo.registry.plugins import catalogue


def resolved(text: str, *settings: tuple[str, object]) -> list[str]:
    method = resolve_method(catalogue(), text, Settings(catalogue(), settings))
    return [method.head, *(p.strategy for p in method.parts)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ogm+refit", ["concat", "ogm", "refit"]),
        ("mla+refit", ["shared", "mla", "refit"]),
        ("refit+mla", ["shared", "refit", "mla"]),
        ("affine+refit", ["affine", "plain", "refit"]),
        ("dynamic_gap_lb+refit@sum", ["sum", "dynamic_gap", "refit"]),
        ("unimodal+refit", ["concat", "plain", "refit"]),
        ("refit", ["concat", "refit"]),
    ],
)
def test_it_takes_the_head_that_the_others_are_trained_with(text: str, expected: list[str]) -> None:
    assert resolved(text) == expected


@pytest.mark.parametrize("text", ["ogm+refit:0-5", "refit+refit", "ume+refit"])
def test_what_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(Incompatible):
        resolved(text)


def test_settings_reach_it() -> None:
    method = resolve_method(catalogue(), "ogm+refit", Settings(catalogue(), [("refit.form", "ce")]))
    assert method.parts[1].params["form"] == "ce"
    assert method.label == "ogm+refit[form=ce]"


def test_references_get_it_too() -> None:
    plan = make_plan(BenchSpec("ogm+refit", seeds=(0,)), catalogue())
    assert {"concat", "joint_unimodal", "concat+refit", "joint_unimodal+refit"} <= set(plan.methods())
    without = make_plan(BenchSpec("ogm", seeds=(0,)), catalogue())
    assert not any("refit" in name for name in without.methods())


def test_a_method_that_uses_the_meta_set_is_compared_with_both_on_its_own_samples() -> None:
    plan = make_plan(BenchSpec("dynamic_gap_lb+refit", seeds=(0,)), catalogue())
    spared = {p.method for p in plan.runs if p.spec.spare_slice}
    assert {name.partition(" (")[0] for name in spared} == {
        "concat",
        "joint_unimodal",
        "concat+refit",
        "joint_unimodal+refit",
    }


def test_a_recipe_may_say_what_follows_training(resolve: Callable[..., Method]) -> None:
    method = resolve("dynamic_gap")
    assert [p.strategy for p in method.parts] == ["dynamic_gap", "refit"]
    assert method.parts[1].params["keep_better"] is True
    assert (method.label, method.name) == ("dynamic_gap", "dynamic_gap")
    # what is named in the text stands in place of it, with its own parameters
    written = resolve("dynamic_gap+refit")
    assert [p.strategy for p in written.parts] == ["dynamic_gap", "refit"]
    assert written.parts[1].params["keep_better"] is False
    changed = resolve("dynamic_gap", ("refit.keep_better", False))
    assert changed.parts[1].params["keep_better"] is False and changed.label == "dynamic_gap[keep_better=false]"
    assert [p.strategy for p in resolve("dynamic_gap+ogm").parts] == ["dynamic_gap", "ogm", "refit"]


def test_the_same_method_may_be_written_in_parts(resolve: Callable[..., Method]) -> None:
    parts = resolve("dynamic_gap_class+refit", ("refit.keep_better", True)).parts
    assert parts == resolve("dynamic_gap").parts


def test_references_are_refitted_as_the_method_is() -> None:
    plan = make_plan(BenchSpec("dynamic_gap", seeds=(0,)), catalogue())
    refitted = {p.label: p.spec.parts for p in plan.runs if "refit" in p.label}
    assert set(refitted) == {"concat+refit[keep_better=true]", "joint_unimodal+refit[keep_better=true]"}
    assert all(parts[1].params["keep_better"] is True for parts in refitted.values())

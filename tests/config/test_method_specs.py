"""Method specs and their settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.config.grammar import parse_setting, shown
from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.config.spec import Method
from mmzoo.errors import BadValue, MmzooError
from mmzoo.registry import Catalogue

FIXED = settings(derandomize=True, database=None, deadline=None, max_examples=200)


# ---------------------------------------------------------------------- methods
def test_a_spec_is_parts_with_windows_and_a_head(resolve: Callable[..., Method]) -> None:
    method = resolve("ogm:0-50+pmr:50%-@sum")
    assert [(p.strategy, p.first, p.last) for p in method.parts] == [("ogm", "0", "50"), ("pmr", "50%", None)]
    assert method.head == "sum" and method.label == "ogm:0-50+pmr:50%-@sum" and not method.each_modality
    assert set(method.versions) == {"heads/sum", "strategies/ogm", "strategies/pmr"}


@pytest.mark.parametrize(
    ("text", "label"),
    [("ogm@concat", "ogm"), (" ogm ", "ogm"), ("plain", "concat"), ("lfm_lb", "dynamic_gap_lb"), ("concat@sum", "sum")],
)
def test_two_ways_to_say_the_same_are_one_method(resolve: Callable[..., Method], text: str, label: str) -> None:
    assert resolve(text).label == label
    assert resolve(text).identity == resolve(label).identity


def test_settings_show_in_the_label_only_where_they_change_something(resolve: Callable[..., Method]) -> None:
    assert resolve("ogm", ("ogm.alpha", 0.3)).label == "ogm"
    changed = resolve("ogm@sum", ("ogm.alpha", 1), ("ogm.noise", True), ("sum.reduce", "mean"))
    assert changed.label == "ogm@sum[alpha=1.0,noise=true,head.reduce=mean]"
    assert resolve("ogm", ("ogm.noise", True)).label == "ogm[noise=true]"
    assert resolve("ogm", ("ogm.noise", True)).identity == resolve("ogm_ge").identity


@pytest.mark.parametrize(
    "method, settings, said",
    [
        (
            "dynamic_gap_h",
            (("dynamic_gap_h.alpha", 0.3),),
            "dynamic_gap_h.alpha: it means nothing where schedule is heuristic, only with",
        ),
        ("dynamic_gap_const", (("dynamic_gap_const.solver", "hessian"),), "only with learned"),
        ("dynamic_gap_h", (("dynamic_gap_h.alpha", 0.3),), "or set dynamic_gap_h.schedule too"),
        (
            "dynamic_gap_lb",
            (("dynamic_gap_lb.solver", "identity"), ("dynamic_gap_lb.damping", 0.1)),
            "where solver is identity",
        ),
        ("greedy_random", (("greedy_random.epsilon", 0.1),), "where schedule is random"),
        ("dynamic_gap", (("dynamic_gap.schedule", "lerned"), ("dynamic_gap.eta", 0.1)), "schedule must be one of"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(
    resolve: Callable[..., Method], method: str, settings: tuple[tuple[str, Any], ...], said: str
) -> None:
    with pytest.raises(BadValue, match=said):
        resolve(method, *settings)


@pytest.fixture
def bare(catalogue: Catalogue) -> Callable[..., Method]:
    """Resolves where no method has the name of the strategy dynamic_gap."""
    without = Catalogue()
    for entry in catalogue:
        if entry.id != "methods/dynamic_gap":
            without.add(entry)
    return lambda text, *given: resolve_method(without, text, Settings(without, given))


def test_a_setting_for_all_methods_with_a_strategy_goes_to_those_that_it_means_something_to(
    bare: Callable[..., Method],
) -> None:
    given = (("dynamic_gap.alpha", 0.3),)
    assert bare("dynamic_gap_h", *given) == bare("dynamic_gap_h")
    assert bare("dynamic_gap_const", *given).parts[0].params["alpha"] == 0.3
    assert bare("dynamic_gap", *given, ("dynamic_gap.schedule", "constant")).parts[0].params["alpha"] == 0.3


def test_a_setting_reaches_only_what_it_names(resolve: Callable[..., Method], bare: Callable[..., Method]) -> None:
    """A method's own head; a strategy under every recipe of it; a name that is both means the method."""
    pairs = (("ogm.head.reduce", "mean"), ("dynamic_gap.alpha", 0.2))
    assert resolve("ogm@sum", *pairs).head_params == {"reduce": "mean"}
    assert resolve("pmr@sum", *pairs).head_params == {"reduce": "sum"}
    for recipe in ("dynamic_gap_const", "dynamic_gap_lb"):
        assert bare(recipe, *pairs).parts[0].params["alpha"] == 0.2
        assert resolve(recipe, *pairs).parts[0].params["alpha"] == 0.5
    assert resolve("ogm_ge", ("ogm.alpha", 0.7)).parts[0].params["alpha"] == 0.3


def test_leading_zeros_do_not_make_another_run(resolve: Callable[..., Method]) -> None:
    assert resolve("ogm:00-010%").identity == resolve("ogm:0-10%").identity


@FIXED
@given(text=st.text(max_size=30) | st.text("ogmpr:+@-%0123 ./", max_size=12))
def test_no_text_breaks_the_parser(catalogue: Catalogue, text: str) -> None:
    try:
        assert resolve_method(catalogue, text, Settings(catalogue, ())).parts
    except MmzooError as error:
        assert str(error)


def test_a_strategy_without_a_recipe_is_a_method_with_the_plain_head(bare: Callable[..., Method]) -> None:
    method = bare("dynamic_gap")
    assert method.head == "concat" and method.label == "dynamic_gap_h"


# ---------------------------------------------------------------------- values and seeds
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.3", 0.3),
        ("1e-3", 1e-3),
        ("true", True),
        ("null", None),
        ("x", "x"),
        ("[a, b]", ["a", "b"]),
        ("'1'", 1.0),
        ("a=b", "a=b"),
    ],
)
def test_a_setting_means_what_it_looks_like(text: str, value: Any) -> None:
    key, read = parse_setting(f" ogm.alpha ={text}")
    assert key == "ogm.alpha" and read == value and type(read) is type(value)


def test_a_value_is_shown_as_it_is_written() -> None:
    for value in (0.3, 1e-7, True, None, "mean", [1, 2], ["a", "b"]):
        assert parse_setting(f"a.b={shown(value)}")[1] == value
    assert shown("a\nb\x1b") == r'"a\nb\u001b"' and shown("") == '""'

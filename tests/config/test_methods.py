"""A method's text is parsed once; the value is what everything after works with."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.config.grammar import MethodPart, MethodText, parse_method
from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.config.spec import BenchSpec
from mmzoo.errors import BadValue
from mmzoo.registry import Catalogue


def test_a_text_is_parsed_into_its_parts() -> None:
    assert parse_method(" ogm:00-50%+./mine.py:Mine:2-@sum ") == MethodText(
        "ogm:00-50%+./mine.py:Mine:2-",
        (MethodPart("ogm", "0", "50%"), MethodPart("./mine.py:Mine", "2", None)),
        "sum",
    )


@given(
    st.lists(st.sampled_from(["ogm", "pmr:0-5", "agm:10%-", "p/x"]), min_size=1, max_size=3),
    st.none() | st.sampled_from(["sum", "p/head"]),
)
@settings(derandomize=True, deadline=None)
def test_a_parsed_text_is_written_as_it_was(parts: list[str], head: str | None) -> None:
    text = "+".join(parts) + ("" if head is None else f"@{head}")
    parsed = parse_method(text)
    assert str(parsed) == text and len(parsed.parts) == len(parts)
    assert str(parsed.with_head("gated")) == f"{parsed.body}@gated"


@pytest.mark.parametrize("text", ["", "@sum", "ogm@", "ogm@sum@sum", "ogm+", "ogm:5-2", "ogm:0-101%", "ogm:-3"])
def test_a_text_that_is_no_method_is_refused(text: str) -> None:
    with pytest.raises(BadValue, match=r"Write NAME|at most 100%"):
        parse_method(text)


def test_heads_are_put_on_methods_that_name_none() -> None:
    bench = BenchSpec(method="ogm", baselines=("pmr@film",), heads=("sum", "gated", "sum"))
    assert [(str(text), role) for text, role in bench.asked] == [
        ("ogm@sum", "method"),
        ("ogm@gated", "method"),
        ("pmr@film", "baseline"),
    ]


def test_the_name_of_a_method_is_without_its_settings(catalogue: Catalogue) -> None:
    method = resolve_method(catalogue, "ogm@sum", Settings(catalogue, [("ogm.alpha", 0.8), ("train.lr", 0.1)]))
    assert method.name == "ogm@sum" and method.label == "ogm@sum[alpha=0.8]"
    plain = resolve_method(catalogue, "ogm@concat", Settings(catalogue, []))
    assert plain.name == plain.label == "ogm"

"""Forms of JSON: what fits, and how a message names what does not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmzoo.io.json_file import NotJson, read_json
from mmzoo.io.schema import (
    FLAG,
    NUMBER,
    TEXT,
    TEXTS,
    WHOLE,
    Form,
    each,
    items,
    misfit,
    number,
    one_of,
    optional,
    or_null,
    whole,
)

FORM: Form = {
    "name": TEXT,
    "size": whole(1),
    "kind": optional(one_of("a", "b")),
    "note": or_null(TEXT),
    "scores": each({"acc": number(0, 1), "seen": optional(FLAG)}),
    "parts": items({"tags": TEXTS}),
}
GOOD: dict[str, Any] = {
    "name": "x",
    "size": 3,
    "note": None,
    "scores": {"first": {"acc": 1}, "second": {"acc": 0.25, "seen": False}},
    "parts": [{"tags": []}, {"tags": ["t"]}],
    "unknown": object(),
}


def test_what_fits_has_no_fault() -> None:
    assert misfit(GOOD, FORM) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 1}, "name is not a text"),
        ({"size": 0}, "size is not a whole number from 1"),
        ({"size": True}, "size is not a whole number from 1"),
        ({"kind": "c"}, "kind is not one of a, b"),
        ({"note": []}, "note is not a text or null"),
        ({"scores": []}, "scores is not an object"),
        ({"scores": {"first": {}}}, "scores.first.acc is missing"),
        ({"scores": {"first": {"acc": 1.5}}}, "scores.first.acc is not a finite number from 0 to 1"),
        ({"scores": {"first": {"acc": math.inf}}}, "scores.first.acc is not a finite number from 0 to 1"),
        ({"scores": {"first": {"acc": 1, "seen": None}}}, "scores.first.seen is not true or false"),
        ({"parts": {}}, "parts is not a list"),
        ({"parts": [{"tags": []}, 3]}, "parts.1 is not an object"),
        ({"parts": [{"tags": ["t", 1]}]}, "parts.0.tags is not a list of texts"),
    ],
)
def test_the_first_fault_is_named_with_its_path(changes: dict[str, Any], message: str) -> None:
    assert misfit({**GOOD, **changes}, FORM) == message


def test_the_path_of_the_outermost_value_can_be_given() -> None:
    assert misfit(3, FORM) == "it is not an object"
    assert misfit(3, FORM, "row") == "row is not an object"
    assert misfit({}, {"a": WHOLE}, "row") == "row.a is missing"


@pytest.mark.parametrize("key", ["name", "size", "note", "scores", "parts"])
def test_a_key_that_is_not_optional_may_not_be_missing(key: str) -> None:
    assert misfit({k: v for k, v in GOOD.items() if k != key}, FORM) == f"{key} is missing"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4))
@settings(derandomize=True, deadline=None)
def test_numbers_are_finite_and_no_truth_values(value: Any) -> None:
    finite = type(value) in (int, float) and math.isfinite(value)
    assert (misfit(value, NUMBER) is None) == finite
    assert (misfit(value, WHOLE) is None) == (type(value) is int)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": ', r"not JSON \(Expecting value, line 1\)"),
        (b'{"a": NaN}', r"not JSON \(NaN is no number of JSON\)"),
        (b"\xff{}", r"not UTF-8 text \(byte 0\)"),
        (b"[" * 200_000, r"not JSON \("),
        (b"9" * 5000, r"not JSON \("),
    ],
)
def test_a_file_that_is_not_json_says_why(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(NotJson, match=message):
        read_json(tmp_path / "file.json")

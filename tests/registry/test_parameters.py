"""Values of parameters: what is taken, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from mmzoo.errors import BadValue, short
from mmzoo.registry import Param

# ---------------------------------------------------------------------- values of parameters
ACCEPTED = [
    (Param("x", "float", 1.0), 2, 2.0),
    (Param("x", "float", 1.0, range=(0, 1)), 0, 0.0),
    (Param("x", "int", 1), 5, 5),
    (Param("x", "int?", None), None, None),
    (Param("x", "bool", True), False, False),
    (Param("x", "ints", ()), [1, 2], (1, 2)),
    (Param("x", "strs", ()), ["a"], ("a",)),
    (Param("x", "str", "a", choices=("a", "b")), "b", "b"),
]
REFUSED = [
    (Param("x", "float", 1.0), float("nan")),
    (Param("x", "float", 1.0), float("inf")),
    (Param("x", "float", 1.0), 10**400),
    (Param("x", "float", 1.0, range=(0, 1)), 1.5),
    (Param("x", "float", 1.0), True),
    (Param("x", "float", 1.0), "1"),
    (Param("x", "float", 1.0), None),
    (Param("x", "int", 1), 1.5),
    (Param("x", "int", 1), True),
    (Param("x", "bool", True), 1),
    (Param("x", "ints", ()), 3),
    (Param("x", "ints", ()), [1.5]),
    (Param("x", "ints", ()), [True]),
    (Param("x", "ints", (), range=(1, 9)), [3, 0]),
    (Param("x", "strs", ()), "abc"),
    (Param("x", "strs", (), choices=("a",)), ["b"]),
    (Param("x", "str", "a", choices=("a",)), ["a"]),
    (Param("x", "str", "a"), {}),
]


@pytest.mark.parametrize(("param", "given", "taken"), ACCEPTED, ids=range(len(ACCEPTED)))
def test_a_value_is_taken_and_converted_where_nothing_is_lost(param: Param, given: Any, taken: Any) -> None:
    value = param.check(given)
    assert value == taken and type(value) is type(taken)


@pytest.mark.parametrize(("param", "given"), REFUSED, ids=range(len(REFUSED)))
def test_a_value_is_refused_with_what_is_accepted(param: Param, given: Any) -> None:
    with pytest.raises(BadValue) as caught:
        param.check(given)
    assert str(caught.value).startswith("x must be ") and short(given)[:30] in str(caught.value)


def test_limits_are_written_out() -> None:
    assert Param("x", "int", 1, range=(0, 1_000_000)).accepts() == "a whole number from 0 to 1000000"
    assert Param("x", "float?", 1, range=(0.0001, 2)).accepts() == "a number from 0.0001 to 2 or null"

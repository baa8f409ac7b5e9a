"""Mappings of names to numbers as settings."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.blended_runs import method

from mmzoo.api import (
    BadValue,
)
from mmzoo.config.grammar import parse_setting, shown
from mmzoo.registry import Param


@pytest.mark.parametrize(("given", "taken"), [({"a": 1, "b": 0.5}, {"a": 1.0, "b": 0.5}), ({}, {}), (None, None)])
def test_mappings_of_names_to_numbers_are_parameters(given: Any, taken: Any) -> None:
    p = Param("x", "numbers?", None, range=(0, 2))
    assert p.check(given) == taken and list(map(type, (p.check(given) or {}).values())) == [float] * len(given or {})
    assert p.accepts() == "a mapping of names to numbers from 0 to 2 or null"


@pytest.mark.parametrize(
    "given", [{"a": 3}, {"a": "1"}, {"a": True}, {"a": float("nan")}, {1: 1.0}, [1.0], 1.0, "a", {"a": {"b": 1}}]
)
def test_other_mappings_are_refused(given: Any) -> None:
    with pytest.raises(BadValue, match="mapping of names to numbers from 0 to 2"):
        Param("x", "numbers?", None, range=(0, 2)).check(given)


def test_mappings_are_set_on_the_command_line_and_shown_as_written() -> None:
    pair = parse_setting("gblend_fixed.weights={fou: 1e-1, fused: 2}")
    found = method("gblend_fixed", pair)
    assert found.parts[0].params["weights"] == {"fou": 0.1, "fused": 2.0}
    assert found.label == "gblend_fixed[weights={fou: 0.1, fused: 2.0}]"
    assert parse_setting(f"x.y={shown(pair[1])}")[1] == pair[1]
    assert method("gblend_fixed", ("gblend_fixed.preset", "audioset")).parts[0].params["weights"]["fused"] == 0.377
    assert method("mses", ("mses.preset", "cremad")).parts[0].params["patience"] == 80

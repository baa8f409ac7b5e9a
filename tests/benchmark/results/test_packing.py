"""A row that was taken apart is put together again to the last digit and kind, whatever it holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmzoo.benchmark.results.packing import Packed, Packer
from mmzoo.benchmark.results.store import Store

SCALARS = st.none() | st.booleans() | st.integers(-(10**39), 10**39) | st.floats(allow_nan=False) | st.text(max_size=4)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
NAMES = st.sampled_from(("acc", "modalities", "holdout", "last", "seed", "", "metrics")) | st.text(max_size=4)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=4)
ROWS = st.builds(
    lambda more, **parts: {**more, **parts},
    st.dictionaries(st.sampled_from(("record", "timing", "hashes", "warnings", "seed", "label", "")), VALUES),
    metrics=OBJECTS,
    spec=OBJECTS,
    environment=OBJECTS,
    cost=OBJECTS,
)


def spelt(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(ROWS, max_size=4))
def test_what_is_packed_is_unpacked(rows: list[dict[str, Any]]) -> None:
    packer = Packer()
    packed = [packer.pack(row) for row in rows]
    assert [spelt(packer.unpack(each)) for each in packed] == [spelt(row) for row in rows]
    other = Packer()
    for each in packed:
        for key in other.unknown(each):
            other.learn(key, packer.new[key])
    assert [spelt(other.unpack(each)) for each in packed] == [spelt(row) for row in rows]


def test_equal_parts_are_one_object(results: Path) -> None:
    packer = Packer()
    rows = [packer.unpack(packer.pack(row), "tables") for row in Store(results).rows()[0]]
    environments = [row["environment"] for row in rows]
    assert all(e is environments[0] for e in environments if e == environments[0])


def test_a_shape_that_is_not_that_of_its_key_is_refused(results: Path) -> None:
    packer, other = Packer(), Packer()
    packed = packer.pack(Store(results).rows()[0][0])
    key = packed.shapes.split()[0]
    with pytest.raises(ValueError, match="not the shape"):
        other.learn(key, packer.new[key].replace("acc", "map"))
    with pytest.raises(KeyError):
        other.unpack(Packed(packed.shapes, packed.floats, packed.others))

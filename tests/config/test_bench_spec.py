"""What a bench must be is checked where it is described, whoever describes it."""

from __future__ import annotations

from typing import Any

import pytest

from mmzoo.config.spec import BenchSpec
from mmzoo.errors import MmzooError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": 3}, "method must be a method, not 3"),
        ({"baselines": "ogm"}, "baselines must be a list of names, not 'ogm'"),
        ({"datasets": ()}, "no data set was named"),
        ({"seeds": ()}, "seeds must be whole numbers from 0"),
        ({"seeds": (-1,)}, "seeds must be whole numbers from 0"),
        ({"epochs": 0}, "epochs must be a whole number from 1"),
        ({"protocol": "fair"}, "no selection 'fair'"),
        ({"tune": 0}, "tune must be a whole number from 1"),
        ({"tune": 2, "processes": 2}, "tuning under torchrun"),
        ({"references": "yes"}, "references must be true or false"),
    ],
)
def test_a_faulty_field_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(MmzooError, match=message):
        BenchSpec(**{"method": "ogm", **fields})

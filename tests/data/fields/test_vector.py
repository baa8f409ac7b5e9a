"""Vectors: scaling, and values that cannot be stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.field_faults import fault

from mmzoo.data.fields.audio import Spectrogram
from mmzoo.data.fields.flow import Flow
from mmzoo.data.fields.image import Image
from mmzoo.data.fields.text import Tokens
from mmzoo.data.fields.vector import Vector
from mmzoo.data.fields.video import Frames
from mmzoo.data.sources.source import File, Values
from mmzoo.errors import BadValue


def test_vectors_are_scaled_by_the_training_items(tmp_path: Path) -> None:
    rows = [Values((float(i), 5.0, -2.0 * i)) for i in range(5)]
    field = Vector(3).fitted([*rows, Values((1.0,)), Values((float("nan"), 0, 0))])
    np.testing.assert_allclose(field.read(rows[4])[""], [2 / np.sqrt(2), 0, -2 / np.sqrt(2)], rtol=1e-6)
    np.save(tmp_path / "v.npy", np.array([4, 5, -8]))
    np.testing.assert_array_equal(field.read(File(tmp_path / "v.npy"))[""], field.read(rows[4])[""])
    np.testing.assert_array_equal(Vector(3, standardise=False).read(rows[4])[""], [4, 5, -8])
    for values in ((1.0,), (1.0, 2.0, 3.0, 4.0), (np.nan, 0, 0), (np.inf, 0, 0), (1e300, 0, 0)):
        assert fault(field, Values(values)).kind == "value"
    np.save(tmp_path / "big.npy", np.zeros(9))
    assert fault(field, File(tmp_path / "big.npy")).kind == "value"
    with pytest.raises(BadValue, match="fitted"):
        Vector(3).read(rows[0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Spectrogram(samples=100),
        lambda: Spectrogram(hop=0),
        lambda: Spectrogram(rate=1),
        lambda: Spectrogram(floor=0),
        lambda: Spectrogram(spectrum="power"),
        lambda: Spectrogram(fill="mirror"),
        lambda: Frames(0),
        lambda: Frames(channels=2),  # type: ignore[arg-type]
        lambda: Frames(size=0),
        lambda: Frames(pick="random"),
        lambda: Image(fit="pad"),
        lambda: Tokens(length=1),  # type: ignore[arg-type]
        lambda: Flow(bound=0),
        lambda: Vector(0),
    ],
)
def test_values_that_cannot_be_stored_are_refused(make: Any) -> None:
    with pytest.raises(BadValue, match=r"not "):
        make()

"""What a field makes of a file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mmzoo.data.sources.field import Field, MediaFault
from mmzoo.data.sources.source import FAULTS, Media


def fault(field: Field, media: Media) -> MediaFault:
    with pytest.raises(MediaFault) as caught:
        field.read(media)
    assert caught.value.kind in FAULTS
    if caught.value.arrays is not None:
        check_form(field, caught.value.arrays)
    return caught.value


def check_form(field: Field, arrays: Any) -> None:
    assert {k: (a.shape, str(a.dtype)) for k, a in arrays.items()} == {
        k: (a.shape, a.dtype) for k, a in field.arrays().items()
    }
    assert all(np.isfinite(a).all() for a in arrays.values())

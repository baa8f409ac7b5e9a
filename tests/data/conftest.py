"""The bundled data set."""

from __future__ import annotations

import pytest

from mmzoo.data.datasets.mfeat import VIEWS, load
from mmzoo.data.loading.datamodule import DataModule


@pytest.fixture(scope="module")
def mfeat() -> DataModule:
    return load(views=VIEWS)

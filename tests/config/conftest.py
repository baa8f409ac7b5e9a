"""Methods resolved from text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.config.spec import Method
from mmzoo.registry import Catalogue


@pytest.fixture
def resolve(catalogue: Catalogue) -> Callable[..., Method]:
    def run(text: str, *pairs: tuple[str, Any]) -> Method:
        return resolve_method(catalogue, text, Settings(catalogue, pairs))

    return run

"""A bench that a test may spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copied(results: Path, tmp_path: Path) -> Path:
    """A copy of the small bench that a test may spoil."""
    return Path(shutil.copytree(results, tmp_path / "results"))

"""The recorded numbers of this package's methods, to 1e-12."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("mmzoo_newer", reason="mmzoo-newer is not installed")

import mmzoo_newer.replays  # noqa: F401

from mmzoo.testing.replay import cases_of, replay

VECTORS = sorted((Path(__file__).parent / "vectors").glob("*.json"))


@pytest.mark.parametrize("path", VECTORS, ids=lambda p: p.stem)
def test_recorded_numbers(path: Path) -> None:
    for case in cases_of(json.loads(path.read_text(encoding="utf-8"))):
        result = replay(case, 1e-12)
        assert result.known and not result.missed and not result.failed, (case.kind, result)
        assert result.compared or result.loose

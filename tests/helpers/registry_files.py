"""Entries of the registry, and registry files written for a test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mmzoo.errors import BadValue
from mmzoo.registry import Entry, Param, read_entries


# ---------------------------------------------------------------------- files with faults
def listed(text: str, tmp_path: Path) -> list[str]:
    (tmp_path / "registry.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BadValue) as caught:
        read_entries(tmp_path / "registry.yaml", "pkg")
    first, *rest = str(caught.value).splitlines()
    assert str(tmp_path / "registry.yaml") in first
    return [line.strip() for line in rest]


# ---------------------------------------------------------------------- look-up
def entry(kind: str, name: str, package: str, *, aliases: tuple[str, ...] = (), **extra: Any) -> Entry:
    params: Mapping[str, Param] = {}
    return Entry(kind, name, package, "S.", None, params, (), {}, "stable", 1, aliases, {}, extra)

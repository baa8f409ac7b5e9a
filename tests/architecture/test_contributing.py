"""The page for contributors shows the package as it is."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "mmzoo" / "docs" / "contributing.md"
pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")


@pytest.fixture(scope="module")
def house() -> ModuleType:
    spec = importlib.util.spec_from_file_location("house", Path(__file__).with_name("house.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["house"] = module
    spec.loader.exec_module(module)
    return module


def test_its_picture_is_the_imports(house: ModuleType) -> None:
    """After a change: python tests/architecture/house.py picture, between the two marks."""
    found = re.search(r"<!-- picture -->\n(.*?)\n<!-- end of picture -->", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found and found[1] == house.picture()


def test_its_table_names_every_folder(house: ModuleType) -> None:
    named = set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8")))
    folders = {p.name for p in house.PACKAGE.iterdir() if (p / "__init__.py").is_file()}
    assert folders - {"io", "scaffold", "trackers"} <= named


def test_an_arrow_that_follows_from_others_is_left_out(house: ModuleType) -> None:
    assert house.reduced({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}

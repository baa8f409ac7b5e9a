"""Where prepared data lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmzoo.data.store.home import home


def test_a_relative_home_stays_where_it_was_first_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMZOO_HOME", "./prepared")
    monkeypatch.chdir(tmp_path)
    assert home() == tmp_path / "prepared"
    monkeypatch.chdir("/")
    assert home() == tmp_path / "prepared" and os.environ["MMZOO_HOME"] == str(tmp_path / "prepared")

"""`mmzoo doctor`: what it finds, and what it calls broken."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from mmzoo.cli.setup import doctor
from mmzoo.registry import plugins

Command = Callable[..., Any]


def found(mmzoo: Command, *, code: int = 0) -> dict[str, Any]:
    """part -> name -> finding"""
    done = mmzoo("doctor", "--json")
    assert done.code == code, done.out
    told = json.loads(done.out)
    assert told.pop("ok") == (code == 0)
    return {part: {f["what"]: f for f in findings} for part, findings in told.items()}


def test_a_sound_installation(mmzoo: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["torch>=2", "fire-hose>=1; extra == 'hose'", "pytest; extra == 'test'"]
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    told = found(mmzoo)
    assert told["packages"]["torch"]["found"] == metadata.version("torch")
    assert told["plugins"]["mmzoo"]["found"].startswith("0.") and told["device"] and told["folders"]["stores"]
    assert told["data sets"]["mfeat"]["found"].startswith("ready")
    cremad = "\n".join(told["data sets"]["cremad"]["advice"])
    assert "github.com/CheyneyComputerScience/CREMA-D" in cremad and "mmzoo data prepare cremad --root DIR" in cremad
    text = mmzoo("doctor")
    assert text.code == 0 and text.out.endswith("Nothing is broken.\n") and "not prepared" in text.out


def test_a_version_that_is_too_old_is_broken(mmzoo: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["pluggy>=99", "no-such-thing>=1"])
    told = found(mmzoo, code=1)["packages"]
    assert told["pluggy"]["broken"] and "pip install 'pluggy>=99'" in told["pluggy"]["advice"][0]
    assert told["no-such-thing"]["found"] == "missing"
    assert "broken: pluggy, no-such-thing." in mmzoo("doctor").out


def test_a_store_folder_that_cannot_be_written_is_broken(
    mmzoo: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "home"))
    told = found(mmzoo, code=1)["folders"]["stores"]
    assert "Permission denied" in told["found"] and "MMZOO_HOME" in told["advice"][0]


def test_a_plugin_that_fails_is_broken(mmzoo: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins.load().plugins.append(plugins.Plugin("mmzoo-odd", "1", "odd", "failed", "ImportError: odd"))
    told = found(mmzoo, code=1)["plugins"]["mmzoo-odd"]
    assert told["broken"] and told["advice"] == ["ImportError: odd"]


def test_a_torch_that_cannot_be_imported_is_broken(mmzoo: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert found(mmzoo, code=1)["device"]["torch"]["broken"]

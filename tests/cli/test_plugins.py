"""`mmzoo plugins` says what of torch a package replaces."""

from __future__ import annotations

import json

import pytest
import torch

from mmzoo.cli import main
from mmzoo.registry import plugins


@pytest.fixture
def loaded() -> list[plugins.Plugin]:
    """mmzoo and a package evil; every test loads its own."""
    found = plugins.load().plugins
    found[1:] = [plugins.Plugin("evil-dist", "1.2", "evil.plugin:hooks")]
    return found


def test_a_package_that_replaces_a_function_of_torch(
    loaded: list[plugins.Plugin], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plugins", "--check"]) == 0
    assert "note" not in capsys.readouterr().out
    monkeypatch.setattr(torch, "relu", eval("lambda x: x", {"__name__": "evil.patch"}))
    assert main(["plugins", "--check", "--json"]) == 1
    notes = {p["name"]: p["notes"] for p in json.loads(capsys.readouterr().out)}
    assert notes["mmzoo"] == [] and notes["evil-dist"][0].startswith("torch.relu is replaced by code of evil: ")
    assert main(["plugins"]) == 0
    assert "note: torch.relu is replaced" in capsys.readouterr().out


def test_code_of_no_package_is_noted_with_mmzoo(
    loaded: list[plugins.Plugin], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "relu", eval("lambda x: x", {"__name__": "sitecustomize"}))
    assert main(["plugins", "--check", "--json"]) == 1
    (mmzoo, evil) = json.loads(capsys.readouterr().out)
    assert "sitecustomize" in mmzoo["notes"][0] and evil["notes"] == []


def test_check_imports_what_a_package_lists(loaded: list[plugins.Plugin], monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [next(e for e in plugins.catalogue().entries(kind)) for kind in ("strategies", "methods")]
    loaded[1].listed = tuple(entries)
    seen = []
    monkeypatch.setattr(type(entries[0]), "load", lambda self: seen.append(self.name))
    assert main(["plugins"]) == 0 and seen == []
    assert main(["plugins", "--check"]) == 0 and seen == [entries[0].name]  # a method is a recipe, and no code

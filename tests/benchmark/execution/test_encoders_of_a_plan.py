"""Encoders that cannot be built, or that tell nothing apart, are refused before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.fixture
def manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mmzoo: Command) -> Path:
    from PIL import Image as pil

    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "home"))
    for i in range(30):
        pil.new("RGB", (32, 32), (8 * i, 0, 0)).save(tmp_path / f"{i}.png")
    rows = "".join(f"{i}.png,a word {i},{'ab'[i % 2]}\n" for i in range(30))
    (tmp_path / "t.csv").write_text("picture,words,label\n" + rows)
    path = tmp_path / "own.yaml"
    path.write_text(
        "name: own\ntable: t.csv\nmodalities:\n  picture: {kind: image, size: 32}\n  words: {kind: text, length: 8}\n"
    )
    assert mmzoo("data", "prepare", path).code == 0
    return path


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (["--encoders", "picture=timm", "--set", "timm.model=resnet19"], "no timm model 'resnet19'"),
        (["--encoders", "picture=timm", "--set", "timm.weights=empty"], "empty"),
        (["--encoders", "words=transformer", "--set", "transformer.model=./empty"], "empty"),
        (["--set", "cnn.frozen_stages=99"], "too few for frozen_stages=99"),
    ],
)
@pytest.mark.parametrize("plan", [["--plan"], []])
def test_what_cannot_be_built_is_refused_by_the_plan(
    manifest: Path,
    tmp_path: Path,
    mmzoo: Command,
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    part: str,
    plan: list[str],
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "results"
    done = mmzoo("bench", "--method", "concat", "--datasets", manifest, "--seeds", 1, "--out", out, *given, *plan)
    assert done.code == 2 and part in done.err and not list(out.glob("runs/*/*"))

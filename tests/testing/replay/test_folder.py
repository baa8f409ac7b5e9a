"""`python -m mmzoo.testing.replay FOLDER` replays every vector of a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmzoo.testing.replay.command import main

CASE = {"kind": "tpami_m_modalities", "inputs": {"scores": [2.0, 1.0], "alpha": 0.0}, "ratios": [2.0, 0.5]}


def test_a_folder_is_all_its_vectors_and_an_empty_one_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "vectors"
    folder.mkdir()
    assert main([str(folder)]) == 2
    assert "a folder without a file that ends in .json" in capsys.readouterr().err
    for name in ("b", "a"):
        (folder / f"{name}.json").write_text(json.dumps({"method": "ogm", "cases": [CASE]}), encoding="utf-8")
    (folder / "notes.txt").write_text("none", encoding="utf-8")
    assert main([str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.index("a.json") < out.index("b.json") and "in 2 cases" in out

"""mmzoo data shared: from the name of a data set to what its modalities share."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.own_tables import write_table

from mmzoo.benchmark.shared import shared_by
from mmzoo.cli import main


def test_what_is_shared_is_told_and_the_runs_are_used_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "map:content=0.8,items=400,classes=3,missing=0.2"
    assert main(["data", "shared", name, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    (line,) = [text for text in said.splitlines() if "content: " in text]
    assert "a - b (6" in said  # both are there in 0.8 * 0.8 / (1 - 0.2 * 0.2) of 1,000 validation samples
    assert line.endswith("p 0.005: shared")
    runs = {path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/result.json")}
    (pair,) = shared_by(name, out=tmp_path)
    assert pair.shared.content is not None and pair.shared.context is not None
    assert pair.shared.content.value > pair.shared.context.value  # nothing of the kind was planted
    assert f"{pair.shared.content.value:.2f}" in line
    assert {path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/result.json")} == runs


def test_one_modality_shares_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "shared", "map:views=[a],items=100", "--out", str(tmp_path)]) == 2
    assert "single modality" in capsys.readouterr().err


def test_an_unknown_name_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "shared", "mapp", "--out", str(tmp_path)]) == 2
    assert "map" in capsys.readouterr().err


def test_too_few_validation_samples_are_told_with_how_many_would_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "home"))
    path = write_table(tmp_path, n=300, kind="vector")
    path.write_text(path.read_text() + "training: {epochs: 1}\n")
    assert main(["data", "shared", str(path), "--out", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert "24 of 300 samples are validation samples that have both first and words, of 2 classes" in said
    assert (
        "at least 60 of two classes are needed. At this split that takes about 750 samples in all, or a split with"
        in said
    )

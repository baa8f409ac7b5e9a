"""What `mmzoo data check` says of own data that is not faulty: how large its sets are, and which modalities samples lack."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MANIFEST = "name: notes\ntable: t.csv\nmodalities:\n  size: {kind: vector, columns: [x, z]}\n  words: {kind: text, column: words}\n"


def checked(folder: Path, mmzoo: Callable[..., Any], *, lacking: int) -> list[str]:
    """The lines of a check of 300 rows, of which some lack a text."""
    rows = [f"{i},{i % 7}.5,{'' if i < lacking else f'a note {i}'},{'ab'[i % 2]}" for i in range(300)]
    (folder / "t.csv").write_text("\n".join(["x,z,words,label", *rows]) + "\n")
    (folder / "t.yaml").write_text(MANIFEST)
    done = mmzoo("data", "check", folder / "t.yaml", "--jobs", 0)
    assert done.code == 0
    return [line.strip() for line in done.out.splitlines()]


def test_check_counts_the_samples_of_each_set_and_of_each_modality(
    tmp_path: Path, mmzoo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "home"))
    told = checked(tmp_path, mmzoo, lacking=75)
    assert (
        "216 / 24 / 60 samples training / validation / test; an accuracy on 60 test samples has a standard error of up "
        "to 6.5 points"
    ) in told
    assert "remark: 225 of 300 samples have words, 75 lack it" in told
    assert "every sample has size and words" in checked(tmp_path, mmzoo, lacking=0)


def test_the_optimizer_decides_the_default_rate_unless_one_is_given(
    tmp_path: Path, mmzoo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MMZOO_HOME", str(tmp_path / "home"))
    checked(tmp_path, mmzoo, lacking=0)
    bench = ("bench", "--method", "ogm", "--datasets", tmp_path / "t.yaml", "--plan", "--out", tmp_path / "out")
    plain = mmzoo(*bench).out
    assert "(adam, lr 0.001," in plain and "--set train.optimizer=sgd, with a rate for SGD" in plain
    by_sgd = mmzoo(*bench, "--set", "train.optimizer=sgd").out
    assert "(sgd, lr 0.02," in by_sgd and "almost no effect" not in by_sgd
    assert "(sgd, lr 0.1," in mmzoo(*bench, "--set", "train.optimizer=sgd", "--set", "train.lr=0.1").out
    (tmp_path / "t.yaml").write_text(MANIFEST + "training: {optimizer: sgd}\n")
    assert "(sgd, lr 0.02," in mmzoo(*bench).out

"""A results folder of several seeds, each of whose rows is kept once it was read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers.indexed_rows import SEEDS, Count, with_seed

from mmzoo.benchmark.results import index, store
from mmzoo.benchmark.results.store import Store


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MMZOO_HOME of one test, in which any number of rows that were just written is kept."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MMZOO_HOME", str(folder))
    monkeypatch.setattr(index, "LEAST", 1)
    monkeypatch.setattr(index, "SHARE", 0.0)
    monkeypatch.setattr(index, "SETTLED", -10.0)
    return folder


@pytest.fixture
def many(copied: Path, home: Path) -> Store:
    """A few seeds of a few configurations."""
    found = Store(copied)
    for row in found.rows()[0]:
        for seed in range(1, SEEDS):
            other = with_seed(row, seed)
            found.write(other)
            for name in ("history.jsonl", "predictions.npz"):
                if (found.folder(row["run_id"]) / name).exists():
                    shutil.copy(found.folder(row["run_id"]) / name, found.folder(other["run_id"]) / name)
    shutil.rmtree(home / "rows")
    return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Count:
    """How many rows were read from their files since it was last asked."""
    paths: list[Path] = []
    real = store.read_sealed

    def counted(path: Path) -> Any:
        paths.append(path)
        return real(path)

    monkeypatch.setattr(store, "read_sealed", counted)

    def since() -> int:
        n = len(paths)
        paths.clear()
        return n

    return since

"""Scripts under benchmarks/ that make what committed tables rest on."""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="needs the source tree")


@pytest.fixture
def avdigits(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.avdigits")


def test_the_pairs_of_avdigits_are_drawn_by_digit_and_no_image_twice(avdigits: ModuleType) -> None:
    labels = np.arange(2000, dtype=np.uint8) % 10
    names = [f"{digit}_{speaker}_{n}.wav" for digit in range(10) for speaker in ("a", "b") for n in range(12)]
    text = avdigits.pairs_csv(names[::-1], labels)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [r["recording"] for r in rows[::2]] == sorted(names) == [r["recording"] for r in rows[1::2]]
    assert all(labels[int(r["mnist_t10k_index"])] == int(r["label"]) == int(r["recording"][0]) for r in rows)
    assert len({r["mnist_t10k_index"] for r in rows}) == len(rows)
    assert Counter(r["split"] for r in rows) == {"test": 200, "val": 200, "train": 80}
    # The generator is numpy's: another stream would give other pairs than those of the committed rows.
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "11ba6a5fa82827c6"


def test_a_folder_without_the_recordings_is_named(avdigits: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="recordings"):
        avdigits.main(tmp_path)

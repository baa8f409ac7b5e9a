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


@pytest.fixture
def which_first(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("which_first")


def test_the_tables_of_which_first_are_those_of_the_committed_lines(which_first: ModuleType) -> None:
    real, others = (
        which_first.real(which_first.read_lines("confirm")),
        which_first.choice(which_first.read_lines("others")),
    )
    for name, text in (("real", real), ("others", others)):
        told = (which_first.RESULTS / f"{name}.md").read_text(encoding="utf-8")
        assert told == text, "run: python benchmarks/which_first.py tables"


def test_the_pages_have_the_scores_of_which_first(which_first: ModuleType) -> None:
    def cells(line: str) -> tuple[str, ...]:
        return tuple(cell.strip() for cell in line.split("|")[2:7])

    made = {
        cells(line)
        for line in (which_first.RESULTS / "real.md").read_text(encoding="utf-8").splitlines()
        if "±" in line
    }
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    table = page[page.index("| test ACC in %, ten seeds |") :].partition("\n\n")[0].splitlines()[2:]
    assert len(table) >= 8 and {cells(line) for line in table} <= made
    differences = (which_first.RESULTS / "real.md").read_text(encoding="utf-8").splitlines()
    page = (ROOT / "mmzoo" / "docs" / "dynamic_gap.md").read_text(encoding="utf-8")
    rows = page[page.index("| `dynamic_gap` minus |") :].partition("\n\n")[0].splitlines()[2:]
    assert len(rows) >= 8 and set(rows) <= set(differences)

"""The list of mutants fits the source, and what they did when they were last tried is on file."""

from __future__ import annotations

import csv
import sys

import pytest
from helpers.places import ROOT

pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="needs the source tree")


def test_every_mutant_fits_the_source_and_was_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    mutants = __import__("mutants")
    try:
        listed = {m["name"]: m["what"] for m in mutants.read_mutants()}
        with mutants.RESULTS.open(encoding="utf-8", newline="") as file:
            tried = list(csv.DictReader(file))
    finally:
        sys.modules.pop("mutants")
    # `file` is where it was when it was tried; `mutants.py --stale` tries those again that have moved.
    assert {r["mutant"]: r["what"] for r in tried} == listed
    assert {r["outcome"] for r in tried} == {"killed"}


def test_every_strategy_has_three_of_them() -> None:
    import yaml

    counts: dict[str, int] = {}
    for path in (ROOT / "tests" / "mutants").glob("*.yaml"):
        for mutant in yaml.safe_load(path.read_text(encoding="utf-8")):
            counts[mutant["file"]] = counts.get(mutant["file"], 0) + 1
    for path in (ROOT / "mmzoo" / "strategies").glob("*.py"):
        if path.stem not in ("__init__", "plain"):
            assert counts.get(f"mmzoo/strategies/{path.name}", 0) >= 3, path.name

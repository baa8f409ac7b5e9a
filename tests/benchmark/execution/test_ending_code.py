"""Code of a method that raises what is no Exception costs its own runs, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ENDS = {
    "exit": "raise SystemExit(3)",
    "generator": "raise GeneratorExit",
    "own": "raise type('Odd', (BaseException,), {})()",
}


@pytest.mark.parametrize("how", sorted(ENDS))
def test_it_costs_its_own_runs_only(how: str, mmzoo: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text(
        "from mmzoo.api import Strategy\n\n\nclass Ends(Strategy):\n    def losses(self, step, out, terms):\n"
        f"        {ENDS[how]}\n"
    )
    out = tmp_path / "results"
    method = f"{tmp_path / 'ends.py'}:Ends"
    more = ("--baselines", "concat", "--no-references", "--datasets", "mfeat", "--epochs", 1, "--seeds", 1)
    done = mmzoo("bench", "--method", method, *more, "--device", "cpu", "--out", out)
    rows = [json.loads(p.read_text()) for p in out.glob("runs/*/result.json")]
    found = {r["status"]: r["reason"] for r in rows}
    assert done.code == 1 and set(found) == {"ok", "failed"}
    assert "ends.py:6): code must not end its process" in found["failed"]

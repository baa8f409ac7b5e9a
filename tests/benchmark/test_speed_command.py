"""`python -m benchmarks.speed`, run as it is used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.places import ROOT

pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="needs the source tree")


def speed(*arguments: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.speed", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_sections_keep_the_rows_of_others_and_become_one_page(tmp_path: Path) -> None:
    (tmp_path / "speed.json").write_text(
        '{"growth": {"hardware": "elsewhere", "rows": [{"axis": "batch", "value": 1}]}}'
    )
    done = speed("--only", "steps", "--rounds", 1, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "speed.json").read_text())
    assert list(found) == ["steps", "growth"] and found["growth"]["hardware"] == "elsewhere"
    rows = {row["what"]: row for row in found["steps"]["rows"]}
    assert rows["bare loop"]["ratio"] == 1.0 and rows["ogm"]["milliseconds"] > 0
    page = (tmp_path / "speed.md").read_text()
    assert "## steps" in page and "| batch | 1 |" in page and "elsewhere" in page


def test_a_point_of_growth_has_time_and_memory() -> None:
    done = speed("--point", "modalities", 2)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert row["step_ms"] > 0 and row["ogm_step_ms"] > 0 and row["peak_mb"] > 50


def test_what_cannot_be_measured_is_refused() -> None:
    unknown, peers = speed("--only", "steps,stepz"), speed("--only", "peers")
    assert unknown.returncode == 2 and "'stepz'" in unknown.stderr and "growth" in unknown.stderr
    assert peers.returncode == 2 and "--balance" in peers.stderr

"""What status says of a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.result_files import rewrite

from mmzoo.benchmark.execution import building
from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.planning.planned import Plan
from mmzoo.benchmark.results import leases
from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.scheduling.worker_loop import Order
from mmzoo.registry import Catalogue

Command = Callable[..., Any]
MakePlan = Callable[..., Plan]


# ---------------------------------------------------------------------- status
def test_status_tells_what_is_going_on(
    mmzoo: Command, tmp_path: Path, plan: MakePlan, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = plan("concat", baselines=("ogm", "pmr", "sum"), epochs=2).runs
    store = Store(tmp_path)
    Order.of(runs, store, device="cpu", checkpoint_every=0)
    done, failed, at_work, _ = runs
    run_one(done, catalogue, store)
    monkeypatch.setattr(building, "build_strategy", None)
    run_one(failed, catalogue, store)
    (store.folder("waiting") / "x").mkdir(parents=True)  # no run's
    with leases.claim(store.folder(at_work.spec.run_id)) as held:
        held.note(1, 2, began=True)
        text = mmzoo("status", tmp_path)
        found = json.loads(mmzoo("status", tmp_path, "--json").out)
    assert text.code == 0 and text.out.startswith("4 runs: 1 running, 1 failed, 1 waiting, 1 done\ntime left: about ")
    assert f"pmr seed 0 ({at_work.spec.run_id}): epoch 1 of 2, process {os.getpid()} on" in text.out
    assert "failed   mfeat ogm seed 0" in text.out and "TypeError" in text.out and "waiting  mfeat sum" in text.out
    assert found["counts"] == {"running": 1, "done": 1, "failed": 1, "waiting": 1}
    seconds = next(s["seconds"] for s in found["runs"] if s["state"] == "done")
    assert found["seconds_left"] == pytest.approx(1.5 * seconds)  # half of the one that runs, and one that waits
    assert "no worker is active" in mmzoo("status", tmp_path).out


def test_status_of_what_is_no_folder_of_results(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "there are no runs in the folder" in refused("status", tmp_path / "none")
    (tmp_path / "file").write_text("")
    assert "is a file" in refused("status", tmp_path / "file")


def test_status_lets_no_name_steer_the_terminal(mmzoo: Command, tmp_path: Path, results: Path) -> None:
    import shutil

    out = Path(shutil.copytree(results, tmp_path / "out"))
    path = next(out.glob("runs/*/result.json"))
    row = json.loads(path.read_text()) | {"status": "failed", "reason": "\x1b[2J\nall is well", "label": "\x07<b>"}
    rewrite(path, row)
    text = mmzoo("status", out).out
    assert "\x1b" not in text and "\x07" not in text and r"\x1b[2J all is well" in text

"""Labels of test samples are not in a process that trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from helpers.places import ROOT

from mmzoo.benchmark.execution.building import answers_of, data_of
from mmzoo.benchmark.results.store import Store
from mmzoo.config.spec import RunSpec
from mmzoo.data.datasets.map import load
from mmzoo.data.loading.datamodule import UNKNOWN
from mmzoo.registry import Catalogue

#: goes through all that is alive for a tensor or an array that holds the classes of the test samples, and answers by it
CHEAT = """
import gc, json, os
import numpy as np, torch
from mmzoo.api import Strategy

WANTED = torch.tensor(json.load(open(os.environ["CHEAT_WANTED"])))

LOOKS = []

def look(where):
    LOOKS.append(where)
    if len(LOOKS) > 60:  # long after the last predictions are made
        return
    hits = 0
    for o in gc.get_objects():
        if o is WANTED or type(o) not in (torch.Tensor, np.ndarray, list):
            continue
        try:
            t = torch.as_tensor(o)
        except Exception:
            continue
        if t.dim() == 1 and len(t) >= len(WANTED) and not t.is_floating_point():
            windows = [t[-len(WANTED):], t[:len(WANTED)]]
            if len(t) > int(ROWS.max()):
                windows.append(t[ROWS])
            hits += any(bool((w.cpu() == WANTED).all()) for w in windows)
    with open(os.environ["CHEAT_LOG"], "a") as file:
        file.write(json.dumps([where, hits]) + "\\n")

ROWS = torch.tensor(json.load(open(os.environ["CHEAT_ROWS"])))

class Cheat(Strategy):
    "Looks for test labels."
    def setup(self, run):
        look("setup")
        kept = torch.cat([WANTED])
        look("planted")
        del kept
    def epoch_end(self, run, metrics):
        look("epoch_end")
    def predict(self, out):
        look("predict")
        return super().predict(out)
"""


def ran(folder: Path) -> tuple[list[tuple[str, int]], dict]:  # type: ignore[type-arg]
    """Bench the strategy in a process of its own: what it found, and its row."""
    whole = load()  # its labels are in random order
    test = list(whole.splits["test"])
    (folder / "wanted.json").write_text(json.dumps(whole.target[test].tolist()))
    (folder / "rows.json").write_text(json.dumps(test))
    (folder / "cheat.py").write_text(CHEAT)
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "CHEAT_WANTED": str(folder / "wanted.json"),
        "CHEAT_ROWS": str(folder / "rows.json"),
        "CHEAT_LOG": str(folder / "found.jsonl"),
    }
    options = [
        "--no-references",
        "--seeds",
        "1",
        "--epochs",
        "2",
        "--device",
        "cpu",
        "--protocol",
        "peers",
        "--datasets",
        "map",
    ]
    command = [sys.executable, "-m", "mmzoo", "bench", "--method", "./cheat.py:Cheat", *options, "--out", "r"]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [tuple(json.loads(line)) for line in (folder / "found.jsonl").read_text().splitlines()]
    (row,), _ = Store(folder / "r").rows()
    return found, row


def test_a_strategy_that_goes_through_all_that_is_alive_finds_none(tmp_path: Path) -> None:
    found, row = ran(tmp_path)
    assert row["status"] == "ok" and row["metrics"]["n_scored"] == 4000 and "peers" in row["metrics"]
    assert found[:2] == [("setup", 0), ("planted", 1)], "the search finds what is there"
    places, hits = [where for where, _ in found[2:]], [n for _, n in found[2:]]
    # The ablations, which come when all predictions are made, know the labels already.
    before = next((i for i, n in enumerate(hits) if n), len(hits))
    assert places.count("epoch_end") == 2 == places[:before].count("epoch_end")
    after_training = places[len(places) - 1 - places[::-1].index("epoch_end") : before]
    assert (
        after_training.count("predict") >= 4
    )  # of the last and the chosen epoch, of training and of validation samples


def test_data_of_a_run_has_no_labels_and_no_names_of_its_test_samples(catalogue: Catalogue, plan: object) -> None:
    spec: RunSpec = plan().runs[0].spec  # type: ignore[operator]
    trained, whole = data_of(catalogue, spec), answers_of(catalogue, spec)
    test, rest = list(whole.splits["test"]), [r for s in ("train", "slice", "holdout") for r in whole.splits[s]]
    assert (trained.target[test] == UNKNOWN).all() and trained.ids == () and len(whole.ids) == 2000
    assert torch.equal(trained.target[rest], whole.target[rest]) and (whole.target >= 0).all()
    assert data_of(catalogue, spec) is trained and answers_of(catalogue, spec) is not whole
    assert next(iter(trained.loader("test", batch_size=8).batches())).target.eq(UNKNOWN).all()

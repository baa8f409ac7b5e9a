"""Checkpoints that do not fit or were tampered with."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.killed_workers import stop_after
from helpers.result_files import lasting
from helpers.watchdog import watchdog

from mmzoo.benchmark.execution.checkpoint import sealed, unsealed
from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.planning.planned import Plan
from mmzoo.benchmark.results.store import Store
from mmzoo.errors import BadValue, CorruptFile
from mmzoo.registry import Catalogue

MakePlan = Callable[..., Plan]


# ---------------------------------------------------------------------- files from strangers
class Payload:
    """What pickle would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_checkpoint_with_a_payload_is_not_run(plan: MakePlan, catalogue: Catalogue, tmp_path: Path) -> None:
    (planned,) = plan("concat").runs
    store, trap = Store(tmp_path / "store"), tmp_path / "sprung"
    buffer = io.BytesIO()
    torch.save({"run": Payload(trap), "spec": Payload(trap)}, buffer)
    store.write_file(planned.spec.run_id, "checkpoint.pt", sealed(buffer.getvalue()))
    assert run_one(planned, catalogue, store)["status"] == "ok" and not trap.exists()
    assert "could not be used" in (store.folder(planned.spec.run_id) / "log.txt").read_text()


@pytest.mark.parametrize("key", ["run", "selection", "history", "seconds"])
@pytest.mark.parametrize("value", [None, {}, "x", [1]], ids=str)
def test_a_checkpoint_that_does_not_fit_is_set_aside(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, key: str, value: Any, results: Path
) -> None:
    (planned,) = plan("ogm").runs
    store = Store(tmp_path)
    spec = json.dumps(planned.spec.as_dict(), sort_keys=True)
    state = {"run": {}, "selection": {}, "history": [], "seconds": 0.0, "spec": spec, "micro_batch": None, key: value}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    store.write_file(planned.spec.run_id, "checkpoint.pt", sealed(buffer.getvalue()))
    assert lasting(run_one(planned, catalogue, store)) == lasting(Store(results).row(planned.spec.run_id))


def test_a_checkpoint_with_a_flipped_bit_is_never_gone_on_from(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path
) -> None:
    (planned,) = plan("concat", epochs=2).runs
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_one(planned, catalogue, store, checkpoint_every=0, on_epoch=stop_after(1))
    path = store.folder(planned.spec.run_id) / "checkpoint.pt"
    good = path.read_bytes()
    for where in (0, 0.1, 0.3, 0.5, 0.7, 0.9, 1):
        data = bytearray(good)
        data[int((len(data) - 1) * where)] ^= 0x10
        with pytest.raises(CorruptFile, match="damaged"):
            unsealed(bytes(data))
    path.write_bytes(data)
    row = run_one(planned, catalogue, store, checkpoint_every=0)
    assert lasting(row) == lasting(run_one(planned, catalogue, Store(tmp_path / "straight")))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_in_the_folder_of_a_run_holds_nobody_up(plan: MakePlan, catalogue: Catalogue, tmp_path: Path) -> None:
    (planned,) = plan("concat").runs
    store = Store(tmp_path)
    folder = store.folder(planned.spec.run_id)
    folder.mkdir(parents=True)
    for name in ("log.txt", "checkpoint.pt", "model.safetensors", "history.jsonl", "predictions.npz"):
        os.mkfifo(folder / name)
    with watchdog(30):
        row = run_one(planned, catalogue, store)
    assert row["status"] == "ok"


@pytest.mark.parametrize("run_id", ["../evil", "..", "/etc", "a/b", "", ".hidden", "a\x00b", "a\n"])
def test_an_id_that_leads_elsewhere_is_refused(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(BadValue, match="is not the id of a run"):
        Store(tmp_path).folder(run_id)

"""The tracker of Weights & Biases, read back from the file that the package wrote."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

wandb = pytest.importorskip("wandb", reason="needs Weights & Biases (pip install 'mmzoo[wandb]')")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


def records(path: Path) -> list[Any]:
    """What lies in an offline run: messages in the blocks of a LevelDB log, behind seven bytes of its own."""
    from wandb.proto import wandb_internal_pb2

    data, at, piece, found = path.read_bytes(), 7, b"", []
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:  # a block ends with zeros where no header fits
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", data[at : at + 7])
        piece += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # all of a message, or the last of it
            found.append(wandb_internal_pb2.Record.FromString(piece))
            piece = b""
    return found


def test_wandb_holds_what_it_was_told(tell: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from mmzoo.trackers.wandb import WandB

    monkeypatch.delenv("WANDB_MODE", raising=False)
    results = tell(WandB)
    (path,) = results.glob("wandb/offline-run-*/run-*.wandb")
    told, deadline = records(path), time.monotonic() + 30
    while not any(r.HasField("exit") for r in told) and time.monotonic() < deadline:
        time.sleep(0.1)  # the process of the package writes on its own time
        told = records(path)
    (run,) = (r.run for r in told if r.WhichOneof("record_type") == "run")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (run.project, run.display_name) == ("mmzoo", "mfeat:six ogm[alpha=0.5] seed3")
    assert (config["run_id"], config["head"], config["seed"]) == ("ab12", "sum", 3)
    steps = [
        {".".join(i.nested_key) or i.key: json.loads(i.value_json) for i in r.history.item}
        for r in told
        if r.WhichOneof("record_type") == "history"
    ]
    assert [(s["_step"], s["holdout/acc"], s["train/loss/task"]) for s in steps] == [(0, 0.5, 1.0), (1, 0.75, 0.75)]
    summary = {i.key: json.loads(i.value_json) for r in told for i in r.summary.update}
    assert (summary["test/acc"], summary["status"]) == (0.75, "ok")
    assert next(r.exit.exit_code for r in told if r.WhichOneof("record_type") == "exit") == 0

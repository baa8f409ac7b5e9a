"""Disks that are full, folders that cannot be written to, data sets that vanish, and the log of a run."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.killed_workers import rows_of

from mmzoo.benchmark.execution import building
from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.planning.planned import Plan
from mmzoo.benchmark.results.store import Store
from mmzoo.registry import Catalogue

Command = Callable[..., Any]
MakePlan = Callable[..., Plan]
SMALL = ("--seeds", "1", "--epochs", "1", "--device", "cpu")


# ---------------------------------------------------------------------- disks
def test_a_checkpoint_that_the_disk_does_not_take_costs_nothing_else(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (planned,) = plan("concat", epochs=2).runs
    real = Store.write_file

    def full(self: Store, run_id: str, name: str, data: bytes) -> None:
        if name == "checkpoint.pt":
            with self.guard():
                raise OSError(errno.ENOSPC, "No space left on device")
        real(self, run_id, name, data)

    monkeypatch.setattr(Store, "write_file", full)
    store = Store(tmp_path)
    assert run_one(planned, catalogue, store, checkpoint_every=0)["status"] == "ok"
    assert "no checkpoint after epoch 1: cannot write" in (store.folder(planned.spec.run_id) / "log.txt").read_text()


def test_a_folder_that_cannot_be_written_to_costs_one_row(mmzoo: Command, tmp_path: Path, plan: MakePlan) -> None:
    arguments = ("bench", "--method", "ogm", "--baselines", "concat", "--no-references", *SMALL, "--out", tmp_path)
    ogm = next(p for p in plan("ogm").runs)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / ogm.spec.run_id).mkdir()
    planned = tmp_path / "runs" / ogm.spec.run_id / "planned.json"
    planned.write_text(json.dumps(ogm.as_dict()))
    real = os.link

    def read_only(source: Any, target: Any) -> None:
        if ogm.spec.run_id in str(target):
            raise OSError(errno.EROFS, "Read-only file system", str(target))
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", read_only)
        done = mmzoo(*arguments)
    assert done.code == 1 and done.err.count("Read-only file system") == 1 and "Traceback" not in done.err
    assert [r["label"] for r in rows_of(tmp_path).values()] == ["concat"]
    assert mmzoo(*arguments).code == 0 and len(rows_of(tmp_path)) == 2


def test_a_data_set_that_is_gone_is_one_message_and_the_rest_goes_on(
    mmzoo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = building.load_data

    def load(catalogue: Catalogue, name: str, params: str) -> Any:
        if "low" in params or "0.1" in params or json.loads(params) != json.loads(first):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/gone.npz")
        return real(catalogue, name, params)

    spec = next(iter(_plan_of(mmzoo, monkeypatch).runs)).spec
    first = json.dumps(spec.as_dict()["data_params"])
    monkeypatch.setattr(building, "load_data", load)
    done = mmzoo(
        "bench",
        "--method",
        "ogm",
        "--baselines",
        "concat",
        "--datasets",
        "mfeat,mfeat:six",
        "--no-references",
        *SMALL,
        "--out",
        tmp_path,
    )
    assert done.code == 1 and done.err.count("/data/gone.npz") == 1 and "2 runs: FileNotFoundError" in done.err
    assert sorted((r["dataset"], r["status"]) for r in rows_of(tmp_path).values()) == [
        ("mfeat", "ok"),
        ("mfeat", "ok"),
        ("mfeat:six", "failed"),
        ("mfeat:six", "failed"),
    ]


def _plan_of(mmzoo: Command, monkeypatch: pytest.MonkeyPatch) -> Plan:
    from mmzoo.benchmark.planning.plan import make_plan
    from mmzoo.config.spec import BenchSpec
    from mmzoo.registry.plugins import catalogue

    return make_plan(BenchSpec("ogm", seeds=(0,), epochs=1, references=False), catalogue())


def test_the_log_of_a_run_is_kept_and_holds_warnings(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import warnings

    (planned,) = plan("concat").runs
    store, real = Store(tmp_path), building.build_strategy

    def fails(*args: Any) -> Any:
        raise RuntimeError("the first time")

    monkeypatch.setattr(building, "build_strategy", fails)
    assert run_one(planned, catalogue, store)["status"] == "failed"

    def warns(*args: Any) -> Any:
        warnings.warn("something is odd", stacklevel=1)
        return real(*args)

    monkeypatch.setattr(building, "build_strategy", warns)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run_one(planned, catalogue, store)["status"] == "ok"
    log = (store.folder(planned.spec.run_id) / "log.txt").read_text()
    for part in ("RuntimeError: the first time", "Traceback", "UserWarning: something is odd", "ends: ok"):
        assert part in log
    assert log.index("the first time") < log.index("ends: ok")

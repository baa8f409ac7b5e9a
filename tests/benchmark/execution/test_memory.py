"""Memory that runs out costs a smaller micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.killed_workers import stop_after
from helpers.result_files import lasting

from mmzoo.benchmark.execution import memory, session
from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.planning.planned import Plan
from mmzoo.benchmark.results.store import Store
from mmzoo.core.model import MultimodalModel
from mmzoo.registry import Catalogue

MakePlan = Callable[..., Plan]


# ---------------------------------------------------------------------- memory
def small_machine(monkeypatch: pytest.MonkeyPatch, most: int, error: Callable[[], Exception]) -> None:
    """Encoding more than `most` items in training fails as an allocator would."""
    real = MultimodalModel.encode

    def encode(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if self.training and max(len(x) for x in inputs.values()) > most:
            raise error()
        return real(self, inputs, *args, **kwargs)

    monkeypatch.setattr(MultimodalModel, "encode", encode)


OUT = {
    "gpu": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": lambda: RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
    "numpy": lambda: MemoryError("Unable to allocate 3 GiB"),
}


@pytest.mark.parametrize("where", OUT)
def test_memory_that_runs_out_costs_a_smaller_micro_batch(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    first, second = plan("concat", baselines=("joint_unimodal",)).runs
    with monkeypatch.context() as patch:
        small_machine(patch, 20, OUT[where])
        store = Store(tmp_path / "small")
        row = run_one(first, catalogue, store)
        seen = []
        real = session.Session._smaller
        patch.setattr(session.Session, "_smaller", lambda *a: seen.append(a) or real(*a))
        other = run_one(second, catalogue, store)
    assert row["status"] == other["status"] == "ok" and row["micro_batch"] == other["micro_batch"] == 16
    assert not seen  # what the first has found out, the second keeps to from its start
    (note,) = row["warnings"]
    assert note.startswith("memory ran out: trained in micro-batches of 16") and "batch statistics" not in note
    assert row["metrics"]["n_scored"] == 500
    log = (store.folder(first.spec.run_id) / "log.txt").read_text()
    assert "restarts with micro-batches of 32" in log and "restarts with micro-batches of 16" in log
    if where != "gpu":
        return
    # The same mathematics: the very numbers of a bench that asks for it, up to the order of sums.
    (asked,) = plan("concat", settings=(("train.micro_batch", 16),)).runs
    as_asked = run_one(asked, catalogue, Store(tmp_path / "asked"))
    assert row["hashes"] == as_asked["hashes"] and asked.spec.run_id != first.spec.run_id
    assert row["metrics"]["acc"] == as_asked["metrics"]["acc"]
    assert row["metrics"]["loss"] == pytest.approx(as_asked["metrics"]["loss"], abs=1e-6)
    whole = run_one(first, catalogue, Store(tmp_path / "large"))
    assert row["metrics"]["loss"] == pytest.approx(whole["metrics"]["loss"], abs=1e-4) and whole["micro_batch"] is None


def test_memory_that_is_never_enough_is_a_failed_row(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_machine(monkeypatch, 0, OUT["gpu"])
    (planned,) = plan("concat").runs
    store = Store(tmp_path)
    row = run_one(planned, catalogue, store)
    assert row["status"] == "failed" and "even in micro-batches of 1" in row["reason"]
    assert store.micro_batch(planned.spec.data_id) is None  # others are not held to what did not help


def test_a_run_that_was_killed_goes_on_in_the_pieces_that_it_began_with(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (planned,) = plan("concat", epochs=3).runs
    small_machine(monkeypatch, 20, OUT["gpu"])
    straight = run_one(planned, catalogue, Store(tmp_path / "straight"))
    store = Store(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        run_one(planned, catalogue, store, checkpoint_every=0, on_epoch=stop_after(2))
    row = run_one(planned, catalogue, store, checkpoint_every=0)
    assert lasting(row) == lasting(straight) and row["micro_batch"] == 16


def test_batch_statistics_are_mentioned_and_need_two_items() -> None:
    import helpers

    plain, norm = helpers.model(), helpers.model(norm=True)
    assert memory.least(plain) == 1 and memory.least(norm) == 2
    assert "batch statistics, which are those of a micro-batch" in memory.note(norm, 8)


def test_an_error_that_is_none_of_memory_is_left_alone() -> None:
    assert not memory.ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    wrapped = ValueError("in a strategy")
    wrapped.__cause__ = OUT["gpu"]()
    assert memory.ran_out(wrapped)

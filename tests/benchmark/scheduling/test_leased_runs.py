"""A run that another process is at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmzoo.benchmark.execution import building
from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.planning.planned import Plan
from mmzoo.benchmark.results import leases
from mmzoo.benchmark.results.leases import Claimed, read_claim
from mmzoo.benchmark.results.store import Store
from mmzoo.registry import Catalogue

MakePlan = Callable[..., Plan]


# ---------------------------------------------------------------------- two at once
def test_a_run_that_another_is_at_is_left_alone(plan: MakePlan, catalogue: Catalogue, tmp_path: Path) -> None:
    (planned,) = plan("concat").runs
    store = Store(tmp_path)
    with leases.claim(store.folder(planned.spec.run_id)):
        with pytest.raises(Claimed):
            run_one(planned, catalogue, store)
        assert store.row(planned.spec.run_id) is None
    assert run_one(planned, catalogue, store)["status"] == "ok"


def test_a_student_waits_for_a_teacher_that_another_is_at(plan: MakePlan, catalogue: Catalogue, tmp_path: Path) -> None:
    student = next(p for p in plan("umt").runs if p.teachers)
    store = Store(tmp_path)
    with leases.claim(store.folder(student.teachers[1].spec.run_id)), pytest.raises(Claimed):
        run_one(student, catalogue, store)
    assert store.row(student.spec.run_id) is None
    assert not (held := read_claim(store.folder(student.spec.run_id))) or not held.alive


def test_a_row_that_came_between_two_looks_is_taken(
    results: Path, plan: MakePlan, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    (planned,) = plan("ogm").runs
    store, run_id = Store(tmp_path), planned.spec.run_id
    real = leases.claim

    def late(folder: Path, bench: str) -> Any:
        shutil.copytree(results / "runs" / run_id, folder)  # another has just ended it
        return real(folder, bench)

    monkeypatch.setattr(leases, "claim", late)
    monkeypatch.setattr(building, "build_model", None)
    assert run_one(planned, catalogue, store) == Store(results).row(run_id)
    assert not list(store.folder(run_id).glob("claim.*"))

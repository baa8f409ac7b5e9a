"""Teachers whose runs are killed, diverge or fail, and weights that are lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.result_files import lasting, rows_by_label
from helpers.taught_benches import by_label, no_probe

from mmzoo.benchmark.execution import building, session
from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.planning.planned import Plan, to_do
from mmzoo.benchmark.results.store import WEIGHTS, Store
from mmzoo.evaluation import predictions
from mmzoo.registry import Catalogue

MakePlan = Callable[..., Plan]
Command = Callable[..., Any]
SMALL = ("--seeds", "1", "--epochs", "2", "--device", "cpu")


@pytest.fixture(autouse=True)
def _no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "fit_probe", no_probe)


@pytest.fixture
def copied(taught: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(taught, tmp_path / "results"))


def spoil(path: Path, how: str, other: bytes) -> None:
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 0x40
    new = {
        "gone": None,
        "empty": b"",
        "garbage": b"\x08" * 100,
        "cut": whole[: len(whole) // 2],
        "flipped": bytes(flipped),
        "of another run": other,
    }[how]
    path.unlink() if new is None else path.write_bytes(new)


@pytest.mark.parametrize("how", ["gone", "empty", "garbage", "cut", "flipped", "of another run"])
def test_weights_that_cannot_be_used_are_made_again(
    copied: Path, plan: MakePlan, catalogue: Catalogue, trained: list[str], how: str
) -> None:
    student = by_label(plan("umt", epochs=2))["umt"]
    store = Store(copied)
    before = store.row(student.spec.run_id)
    shutil.rmtree(store.folder(student.spec.run_id))
    first, second = (store.folder(t.spec.run_id) / WEIGHTS for t in student.teachers)
    good, row = first.read_bytes(), store.row(student.teachers[0].spec.run_id)
    spoil(first, how, second.read_bytes())
    made = run_one(student, catalogue, store)
    assert made["status"] == "ok" and lasting(made) == lasting(before or {})
    assert trained == ["umt", "unimodal: fou"] and first.read_bytes() == good
    assert lasting(store.row(student.teachers[0].spec.run_id) or {}) == lasting(row or {})
    assert how == "gone" or "training again" in (first.parent / "log.txt").read_text()


def test_a_student_without_a_plan_around_it_has_its_teachers_trained(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, taught: Path, trained: list[str]
) -> None:
    student = by_label(plan("umt", epochs=2))["umt"]
    row = run_one(student, catalogue, Store(tmp_path))
    assert trained == ["umt", "unimodal: fou", "unimodal: zer"]
    assert lasting(row) == lasting(rows_by_label(taught)["umt"])
    assert to_do(plan("umt", epochs=2), Store(tmp_path)) == []


# ---------------------------------------------------------------------- interrupted
def test_a_student_that_was_killed_ends_as_if_it_had_not(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, trained: list[str]
) -> None:
    student = by_label(plan("umt+ogm:1-2", epochs=3))["umt+ogm:1-2"]
    straight = run_one(student, catalogue, Store(tmp_path / "straight"))
    store = Store(tmp_path / "broken")
    trained.clear()
    for stop in (1, 2):

        def interrupt(done: int, of: int, stop: int = stop) -> None:
            if done == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_one(student, catalogue, store, checkpoint_every=0, on_epoch=interrupt)
    saved = torch.load(store.folder(student.spec.run_id) / "checkpoint.pt", weights_only=True)
    held = saved["run"]["teachers"]
    assert held["own"] == {} and held["given"] == ["fou", "zer"]  # they are in the store already
    resumed = run_one(student, catalogue, store, checkpoint_every=0)
    assert lasting(resumed) == lasting(straight)
    assert sorted(trained) == sorted([student.label] * 3 + ["unimodal: fou", "unimodal: zer"])


def test_a_teacher_that_was_killed_goes_on_where_it_was(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = by_label(plan("umt", epochs=3))["umt"]
    straight = run_one(student, catalogue, Store(tmp_path / "straight"))
    store, real, done = Store(tmp_path / "broken"), session.Run.train_epoch, []

    def dies(self: Any) -> None:
        real(self)
        done.append(self.modalities)
        if len(done) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(session.Run, "train_epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        run_one(student, catalogue, store, checkpoint_every=0)
    assert (store.folder(student.teachers[0].spec.run_id) / "checkpoint.pt").exists()
    assert lasting(run_one(student, catalogue, store, checkpoint_every=0)) == lasting(straight)
    assert done.count(("fou",)) == 4  # one epoch was lost, the first was not


def test_weights_lost_between_a_kill_and_the_resume_are_made_again(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, trained: list[str]
) -> None:
    student = by_label(plan("umt", epochs=3))["umt"]
    straight = run_one(student, catalogue, Store(tmp_path / "straight"))
    store = Store(tmp_path / "broken")

    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_one(student, catalogue, store, checkpoint_every=0, on_epoch=interrupt)
    for t in student.teachers:
        (store.folder(t.spec.run_id) / WEIGHTS).unlink()
    assert lasting(run_one(student, catalogue, store, checkpoint_every=0)) == lasting(straight)


# ---------------------------------------------------------------------- what does not end well
def test_a_teacher_that_diverges_refuses_its_student(mmzoo: Command, tmp_path: Path, trained: list[str]) -> None:
    arguments = (
        "bench",
        "--method",
        "umt",
        "--no-references",
        *SMALL,
        "--set",
        "train.lr=1000000000.0",
        "--set",
        "train.momentum=1000000000.0",
        "--out",
        tmp_path,
    )
    assert mmzoo(*arguments).code == 0
    rows = rows_by_label(tmp_path)
    assert rows["unimodal: fou"]["status"] == "diverged" and not list(tmp_path.glob(f"runs/*/{WEIGHTS}"))
    assert rows["umt"]["status"] == "refused"
    assert (
        rows["umt"]["reason"].startswith("its teacher unimodal: fou (run ") and "is diverged" in rows["umt"]["reason"]
    )
    trained.clear()
    assert "to do: 0" in mmzoo(*arguments).out and trained == []


def test_a_teacher_that_fails_fails_its_student_until_it_works(
    mmzoo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("out of paper")

    arguments = ("bench", "--method", "ume", "--no-references", *SMALL, "--out", tmp_path)
    real = building.build_model
    monkeypatch.setattr(
        building, "build_model", lambda c, spec, data: fail() if data.modalities == ("zer",) else real(c, spec, data)
    )
    assert mmzoo(*arguments).code == 1
    assert {k: r["status"] for k, r in rows_by_label(tmp_path).items()} == {
        "unimodal: fou": "ok",
        "unimodal: zer": "failed",
        "ume": "failed",
    }
    monkeypatch.setattr(building, "build_model", real)
    assert mmzoo(*arguments).code == 0
    assert {r["status"] for r in rows_by_label(tmp_path).values()} == {"ok"}


def test_a_scored_row_survives_when_its_weights_cannot_be_made_again(
    copied: Path, plan: MakePlan, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = by_label(plan("umt", epochs=2))["umt"]
    teacher = student.teachers[0]
    store = Store(copied)
    shutil.rmtree(store.folder(student.spec.run_id))
    (store.folder(teacher.spec.run_id) / WEIGHTS).unlink()
    before = store.row(teacher.spec.run_id)

    def fail(*args: Any) -> None:
        raise RuntimeError("the disk is made of cheese")

    monkeypatch.setattr(session, "write_weights", fail)
    row = run_one(student, catalogue, store)
    assert row["status"] == "failed" and "made of cheese" in row["reason"] and teacher.spec.run_id in row["reason"]
    assert store.row(teacher.spec.run_id) == before

"""Rows that were read before: no file of theirs is read again, and whatever has changed in the folder is seen."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.indexed_rows import SEEDS, Count, plainly, row_file, the_index, with_seed
from helpers.result_files import rewrite
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmzoo.benchmark.results import index
from mmzoo.benchmark.results.sharing import shared_rows
from mmzoo.benchmark.results.store import Store
from mmzoo.errors import CorruptFile


# ---------------------------------------------------------------------------------------------- use
def test_rows_are_read_once(many: Store, reads: Count) -> None:
    first, _ = many.rows()
    assert reads() == len(first) == SEEDS * len({row["config_id"] for row in first})
    again, _ = Store(many.root).rows()
    assert reads() == 0
    assert again == first == plainly(many)
    assert json.dumps(again, sort_keys=True) == json.dumps(first, sort_keys=True)  # 1 is not 1.0


def test_parts_of_rows_are_those_of_whole_rows(many: Store) -> None:
    later = {"modalities", "shapley", "last", "gap", "distance"}
    for _ in range(2):  # as they are read, and from the index
        for row, few, most in zip(plainly(many), shared_rows(many, [], "scores"), shared_rows(many, [])):
            chosen = {k: v for k, v in row["metrics"].items() if k != "holdout" or row["spec"].get("floor")}
            assert most == {**row, "metrics": chosen}
            if not row["spec"].get("floor"):
                row.pop("record", None)
                chosen = {k: v for k, v in chosen.items() if k not in later}
            assert few == {**row, "metrics": chosen}


def test_commands_say_the_same_with_and_without(many: Store, mmzoo: Callable[..., Any], home: Path) -> None:
    folder = str(many.root)
    commands = [
        ("report", folder),
        ("report", folder, "--all", "--format", "md"),
        ("report", folder, "--format", "json"),
        ("report", folder, "--format", "csv"),
        ("status", folder),
        ("runs", folder),
    ]
    plain = [mmzoo(*command) for command in commands]
    index_file = the_index(home)
    written = index_file.stat().st_mtime_ns
    assert [mmzoo(*command) for command in commands] == plain and all(done.code == 0 for done in plain)
    assert index_file.stat().st_mtime_ns == written  # nothing was new
    shutil.rmtree(home / "rows")
    assert [mmzoo(*command) for command in commands[:3]] == plain[:3]


def test_a_small_folder_has_none(many: Store, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(index, "LEAST", 500)
    many.rows()
    assert not (home / "rows").exists()


def test_a_row_that_was_just_written_is_not_kept(many: Store, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(index, "SETTLED", 3600.0)
    many.rows()
    assert not (home / "rows").exists()


def test_what_is_stopped_half_way_leaves_nothing(many: Store, home: Path) -> None:
    rows = many.each_row([])
    next(rows)
    next(rows)
    rows.close()
    assert list((home / "rows").iterdir()) == []
    many.rows()
    assert len(list((home / "rows").iterdir())) == 1


# ---------------------------------------------------------------------------------------------- what has changed
def test_a_changed_row_is_seen_even_with_its_time_set_back(many: Store, reads: Count) -> None:
    run_id = many.rows()[0][0]["run_id"]
    path = row_file(many, run_id)
    before = path.stat()
    text = path.read_text(encoding="utf-8")
    other = text.replace('"acc": 0.', '"acc": 1.', 1)
    with path.open("r+", encoding="utf-8") as file:  # the same file, of the same size
        file.write(other)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    reads()
    rows, errors = many.rows()
    assert reads() == 1 and len(errors) == 1 and run_id in str(errors[0])
    path.write_text(text, encoding="utf-8")
    assert many.rows() == (plainly(many), []) and len(rows) == len(plainly(many)) - 1


def test_rows_that_are_written_anew_go_or_come_are_seen(many: Store, reads: Count) -> None:
    rows, _ = many.rows()
    changed = {**rows[0], "reason": "written again"}
    rewrite(row_file(many, changed["run_id"]), changed)
    shutil.rmtree(many.folder(rows[1]["run_id"]))
    added = with_seed(rows[2], 77)
    many.write(added)
    reads()
    found, errors = many.rows()
    assert reads() == 2 and errors == [] and found == plainly(many)
    assert {r["run_id"]: r for r in found}[changed["run_id"]]["reason"] == "written again"
    assert {r["run_id"] for r in found} == {r["run_id"] for r in rows} - {rows[1]["run_id"]} | {added["run_id"]}


def test_a_row_that_is_spoiled_is_named_each_time(many: Store) -> None:
    rows, _ = many.rows()
    path = row_file(many, rows[0]["run_id"])
    path.write_text(path.read_text(encoding="utf-8").replace('"acc": 0', '"acc": 1', 1), encoding="utf-8")
    for _ in range(3):
        found, errors = many.rows()
        assert [r["run_id"] for r in found] == [r["run_id"] for r in rows[1:]] and len(errors) == 1


def test_a_row_that_is_not_final_is_always_read(many: Store, reads: Count) -> None:
    rows, _ = many.rows()
    many.write({**rows[0], "status": "failed", "reason": "out of disk"})
    for _ in range(2):
        reads()
        assert many.rows()[0][0]["status"] == "failed" and reads() == 1


def test_another_folder_in_the_same_place_has_an_index_of_its_own(many: Store, reads: Count, home: Path) -> None:
    rows, _ = many.rows()
    aside = many.root.with_name("aside")
    many.root.rename(aside)
    other = Store(many.root)
    other.write({**rows[0], "reason": "of the other folder"})
    reads()
    assert [row["reason"] for row in Store(many.root).rows()[0]] == ["of the other folder"] and reads() == 1
    assert Store(aside).rows()[0] == rows
    assert not list(many.root.rglob("*.sqlite")) and not list(aside.rglob("*.sqlite"))


def test_two_runs_that_changed_places_are_named(many: Store) -> None:
    rows, _ = many.rows()
    one, two = (row_file(many, row["run_id"]) for row in rows[:2])
    one.rename(one.with_suffix(".aside"))
    two.rename(one)
    one.with_suffix(".aside").rename(two)
    assert len(many.rows()[1]) == 2


# ---------------------------------------------------------------------------------------------- any sequence of changes
KINDS = ("write", "edit", "edit and set back", "spoil", "delete", "fail", "copy over", "list", "short list")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 5), st.integers(0, 3)), max_size=12))
def test_rows_are_those_of_the_files_after_any_changes(
    results: Path, home: Path, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
) -> None:
    found = Store(tmp_path_factory.mktemp("any"))
    base = plainly(Store(results))
    for kind, which, value in steps:
        row = with_seed(base[which % len(base)], which)
        path = row_file(found, row["run_id"])
        if kind in ("write", "fail"):
            found.write(
                {**row, "status": "failed", "reason": "x" * value} if kind == "fail" else {**row, "reason": str(value)}
            )
        elif kind.startswith("edit") and path.exists():
            before = path.stat()
            rewrite(path, {**row, "reason": str(value)})
            if kind == "edit and set back":
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        elif kind == "spoil" and path.exists():
            path.write_bytes(path.read_bytes()[: 50 * value])
        elif kind == "delete":
            shutil.rmtree(path.parent, ignore_errors=True)
        elif kind == "copy over":
            found.write(row)
            shutil.copytree(found.root, found.root.with_name("next"))
            shutil.rmtree(found.root)
            found.root.with_name("next").rename(found.root)
        if "list" in kind:
            errors: list[CorruptFile] = []
            rows = list(Store(found.root).each_row(errors, most=2 if kind == "short list" else None))
            expected = plainly(found)
            assert rows == (expected if kind == "list" else [r for r in expected if r["run_id"] in found.run_ids()[:2]])
    assert Store(found.root).rows()[0] == plainly(found)

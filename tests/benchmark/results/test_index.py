"""Rows that were read before: no file of theirs is read again, and whatever has changed in the folder is seen."""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.result_files import rewrite
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmzoo.benchmark.results import index, store
from mmzoo.benchmark.results.sharing import shared_rows
from mmzoo.benchmark.results.store import Store
from mmzoo.config.spec import RunSpec
from mmzoo.errors import CorruptFile

Count = Callable[[], int]
SEEDS = 4


def with_seed(row: dict[str, Any], seed: int) -> dict[str, Any]:
    """The row of another seed of the same configuration."""
    other = copy.deepcopy(row)
    other["seed"] = other["spec"]["seed"] = seed
    other["run_id"] = RunSpec.from_dict(other["spec"]).run_id
    return other


def plainly(found: Store) -> list[dict[str, Any]]:
    """The rows as their files have them."""
    rows = []
    for run_id in found.run_ids():
        try:
            rows.append(found.row(run_id))
        except CorruptFile:
            continue
    return [row for row in rows if row is not None]


def row_file(found: Store, run_id: str) -> Path:
    return found.folder(run_id) / "result.json"


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MMZOO_HOME of one test, in which any number of rows that were just written is kept."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("MMZOO_HOME", str(folder))
    monkeypatch.setattr(index, "LEAST", 1)
    monkeypatch.setattr(index, "SHARE", 0.0)
    monkeypatch.setattr(index, "SETTLED", -10.0)
    return folder


@pytest.fixture
def many(copied: Path) -> Store:
    """A few seeds of a few configurations."""
    found = Store(copied)
    for row in found.rows()[0]:
        for seed in range(1, SEEDS):
            other = with_seed(row, seed)
            found.write(other)
            for name in ("history.jsonl", "predictions.npz"):
                if (found.folder(row["run_id"]) / name).exists():
                    shutil.copy(found.folder(row["run_id"]) / name, found.folder(other["run_id"]) / name)
    shutil.rmtree(index.home() / "rows")
    return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Count:
    """How many rows were read from their files since it was last asked."""
    paths: list[Path] = []
    real = store.read_sealed

    def counted(path: Path) -> Any:
        paths.append(path)
        return real(path)

    monkeypatch.setattr(store, "read_sealed", counted)

    def since() -> int:
        n = len(paths)
        paths.clear()
        return n

    return since


def the_index(home: Path) -> Path:
    (found,) = (home / "rows").glob("*.sqlite")
    return found


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


# ---------------------------------------------------------------------------------------------- an index of no use
def test_one_of_another_version_is_made_anew(many: Store, reads: Count, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = many.rows()
    monkeypatch.setattr(index, "__version__", "99.0")
    reads()
    assert many.rows()[0] == rows and reads() == len(rows)
    assert many.rows()[0] == rows and reads() == 0


def test_one_of_other_code_is_made_anew(many: Store, reads: Count, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = many.rows()
    monkeypatch.setattr(index, "_code", lambda: "other code")
    reads()
    assert many.rows()[0] == rows and reads() == len(rows)


def test_one_that_others_may_write_is_not_believed(many: Store, reads: Count, home: Path) -> None:
    rows, _ = many.rows()
    the_index(home).chmod(0o666)
    reads()
    assert many.rows()[0] == rows and reads() == len(rows)
    assert the_index(home).stat().st_mode & 0o077 == 0


def test_a_link_in_its_place_is_not_believed(many: Store, reads: Count, home: Path) -> None:
    rows, _ = many.rows()
    path = the_index(home)
    path.rename(home / "elsewhere")
    path.symlink_to(home / "elsewhere")
    reads()
    assert many.rows()[0] == rows and reads() == len(rows) and not path.is_symlink()


def damaged(path: Path) -> Iterator[bytes]:
    whole = path.read_bytes()
    yield b""
    yield b"no database at all" * 1000
    yield whole[: len(whole) // 2]
    yield whole[:100]
    yield whole[:4096] + bytes(len(whole) - 4096)
    rng = random.Random(0)
    for _ in range(25):
        spoiled = bytearray(whole)
        for _ in range(rng.choice((1, 20, 400))):
            spoiled[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        yield bytes(spoiled)


def test_a_damaged_one_changes_no_row_and_is_made_anew(many: Store, home: Path, reads: Count) -> None:
    rows, _ = many.rows()
    path = the_index(home)
    for spoiled in damaged(path):
        path.write_bytes(spoiled)
        assert many.rows() == (rows, []) and shared_rows(many, []) != []
        for _ in range(2):  # what was damaged beyond reading is removed first
            many.rows()
        reads()
        assert many.rows() == (rows, []) and reads() == 0


def test_a_database_of_another_kind_is_made_anew(many: Store, home: Path, reads: Count) -> None:
    rows, _ = many.rows()
    path = the_index(home)
    facts = sqlite3.connect(path).execute("SELECT facts FROM about").fetchone()[0]
    for about in ([], [(facts, "many")], [(facts, 3)]):
        path.unlink()
        with sqlite3.connect(path) as other:
            other.execute("CREATE TABLE about (facts TEXT, rows INTEGER)")
            other.executemany("INSERT INTO about VALUES (?, ?)", about)
        other.close()
        path.chmod(0o600)
        for _ in range(3):
            assert many.rows() == (rows, [])
        reads()
        assert many.rows() == (rows, []) and reads() == 0


def test_a_row_of_it_with_other_numbers_is_read_from_its_file(many: Store, home: Path) -> None:
    rows, _ = many.rows()
    with sqlite3.connect(the_index(home)) as kept:
        kept.execute("UPDATE rows SET floats = zeroblob(length(floats))")
    kept.close()
    assert many.rows() == (rows, [])
    with sqlite3.connect(the_index(home)) as kept:
        kept.execute("UPDATE shapes SET text = replace(text, 'acc', 'map')")
    kept.close()
    assert many.rows() == (rows, [])


@pytest.mark.parametrize("kind", ["a file", "below a file", "a folder in its place"])
def test_a_home_that_cannot_be_written_to_changes_nothing(
    many: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    rows = plainly(many)
    (tmp_path / "file").write_text("")
    if kind == "a folder in its place":
        many.rows()
        path = the_index(index.home())
        path.unlink()
        path.mkdir()
    else:
        monkeypatch.setenv("MMZOO_HOME", str(tmp_path / ("file" if kind == "a file" else "file/deeper")))
    for _ in range(2):
        assert many.rows() == (rows, []) and shared_rows(many, []) != []


def test_a_python_without_sqlite_changes_nothing(many: Store, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(index, "sqlite3", None)
    assert many.rows() == (plainly(many), []) and not (home / "rows").exists()


def test_the_newest_are_kept(many: Store, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(index, "MOST", 2)
    rows, _ = many.rows()
    for name in ("one", "two", "three"):
        other = Store(many.root.with_name(name))
        other.write(rows[0])
        other.rows()
    assert len(list((home / "rows").iterdir())) == 2


# ---------------------------------------------------------------------------------------------- any sequence of changes
KINDS = ("write", "edit", "edit and set back", "spoil", "delete", "fail", "copy over", "list", "short list")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 5), st.integers(0, 3)), max_size=12))
def test_rows_are_those_of_the_files_after_any_changes(
    results: Path, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int, int]]
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

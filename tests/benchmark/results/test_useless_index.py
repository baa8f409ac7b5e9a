"""An index that is damaged, foreign, of another version or cannot be written: the rows are those of the folders."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.indexed_rows import Count, plainly, the_index

from mmzoo.benchmark.results import index
from mmzoo.benchmark.results.sharing import shared_rows
from mmzoo.benchmark.results.store import Store


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

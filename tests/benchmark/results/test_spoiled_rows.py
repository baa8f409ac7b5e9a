"""Rows that cannot be used are named, and the others stay."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.result_files import contents, lasting, rows_of

from mmzoo.benchmark.results.store import Store
from mmzoo.errors import CorruptFile, MmzooError
from mmzoo.io.json_file import write_sealed

Command = Callable[..., Any]
SMALL = ("--seeds", "1", "--epochs", "1", "--device", "cpu")


# ---------------------------------------------------------------------- the folder of results
def spoiled(row: dict[str, Any]) -> dict[str, bytes]:
    """A row in many kinds of brokenness, and in each case a part of the message."""

    def with_value(value: Any, *path: str) -> bytes:
        changed = json.loads(json.dumps(row))
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        if value is KeyError:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        return json.dumps(changed).encode()

    whole = json.dumps(row).encode()
    return {
        "not JSON": whole[: len(whole) // 2],
        "not JSON (Expecting value, line 1)": b"",
        "not UTF-8": b"\xff\xfe{}",
        "not a JSON object": b"[1]",
        "not JSON (NaN is no": with_value(float("nan"), "metrics", "acc"),
        "a whole number of 5,000 digits": b'{"schema": ' + b"9" * 5000 + b"}",
        "not JSON (maximum": b"[" * 200_000,
        "schema 2, while": with_value(2, "schema"),
        "schema is missing": with_value(KeyError, "schema"),
        "it says run_id '0123'": with_value("0123", "run_id"),
        "seed is not a whole": with_value("0", "seed"),
        "seed is missing": with_value(KeyError, "seed"),
        "status 'fine' is none": with_value("fine", "status"),
        "metrics is not an object": with_value([], "metrics"),
        "metrics.acc is not a finite number": with_value("1", "metrics", "acc"),
        "metrics.map is missing": with_value(KeyError, "metrics", "map"),
        "metrics.last is not an object": with_value(3, "metrics", "last"),
        "metrics.gap.own is missing": with_value({}, "metrics", "gap"),
        "metrics.main_metric '<b>' is none": with_value("<b>", "metrics", "main_metric"),
        "metrics.n_scored is not a whole number from 1": with_value(0, "metrics", "n_scored"),
        "metrics.modalities.m.own is missing": with_value({"m": {}}, "metrics", "modalities"),
        "cost.forward is missing": with_value({}, "cost"),
        "cost.parameters is not": with_value(["x"], "cost", "parameters"),
        "timing.seconds is not": with_value("long", "timing", "seconds"),
        "spec.training.lr is missing": with_value({"optimizer": "sgd"}, "spec", "training"),
        "spec.parts.0.strategy is missing": with_value([{}], "spec", "parts"),
        "spec.parts.0 is not an object": with_value([1], "spec", "parts"),
        "modality is not a text or null": with_value(3, "modality"),
        "reason is missing": with_value(KeyError, "reason"),
        "label is not a text": with_value(None, "label"),
    }


def test_a_row_that_cannot_be_used_is_named_and_the_others_stay(copied: Path, mmzoo: Command) -> None:
    victim = next(r for r in rows_of(copied).values() if r["label"] == "ogm")
    path = copied / "runs" / victim["run_id"] / "result.json"
    bench = ("bench", "--method", "ogm", "--no-references", *SMALL, "--out", copied)
    for part, data in spoiled(victim).items():
        path.write_bytes(data)
        before = contents(copied)
        with pytest.raises(CorruptFile) as caught:
            Store(copied).row(victim["run_id"])
        message = str(caught.value)
        assert part in message and str(path) in message and f"Move the folder {victim['run_id']} away" in message
        done = mmzoo("report", copied, "--format", "json")
        assert done.code == 2 and message in done.err and len(json.loads(done.out)["rows"]) == 8, part
        stopped = mmzoo(*bench)
        assert stopped.code == 2 and stopped.err == f"mmzoo: {message}\n"
        assert contents(copied) == before, part
    (copied / "runs" / victim["run_id"]).rename(copied / "away")
    assert mmzoo(*bench).code == 0
    assert lasting(rows_of(copied)[victim["run_id"]]) == lasting(victim)


ODD_VALUES: list[tuple[str, Any, tuple[str, ...]]] = [
    ("metrics.n_test_classes is not", "10", ("metrics", "n_test_classes")),
    ("hashes.recipe is not a text", {}, ("hashes", "recipe")),
    ("hashes.batch_order is not a text", [], ("hashes", "batch_order")),
    ("warnings.a is not a whole number", {"a": {"b": 1}}, ("warnings",)),
    ("bayes is not a finite number from 0 to 1", "x", ("bayes",)),
    ("spec.training.batch_size is not", None, ("spec", "training", "batch_size")),
    ("its spec is not that of the run", 0.5, ("spec", "training", "lr")),
    ("its spec is not that of the run", 7, ("seed",)),
]


@pytest.mark.parametrize(("part", "value", "way"), ODD_VALUES)
def test_an_odd_value_under_a_checksum_that_fits_is_named(
    copied: Path, part: str, value: Any, way: tuple[str, ...]
) -> None:
    row = next(r for r in rows_of(copied).values() if r["label"] == "ogm")
    path = copied / "runs" / row["run_id"] / "result.json"
    inner = row
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = value
    write_sealed(path, row)
    with pytest.raises(CorruptFile, match=f"result.json cannot be used: {part}"):
        Store(copied).row(row["run_id"])


def test_a_row_in_the_folder_of_another_run_is_not_taken(copied: Path) -> None:
    one, other = sorted(rows_of(copied))[:2]
    shutil.copy(copied / "runs" / one / "result.json", copied / "runs" / other / "result.json")
    rows, errors = Store(copied).rows()
    assert len(rows) == 8 and len(errors) == 1
    assert f"it says run_id '{one}', but is in the folder of {other}" in str(errors[0])


def test_a_result_that_is_a_folder_is_named(copied: Path) -> None:
    run_id = sorted(rows_of(copied))[0]
    path = copied / "runs" / run_id / "result.json"
    path.unlink()
    path.mkdir()
    with pytest.raises(CorruptFile, match="Is a directory"):
        Store(copied).row(run_id)


@pytest.mark.parametrize("what", ["report", "status", "runs"])
def test_a_folder_that_may_not_be_read_is_named(
    copied: Path, mmzoo: Command, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def refused(path: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("mmzoo.benchmark.results.store.os.scandir", refused)
    done = mmzoo(what, copied)
    assert done.code == 2 and f"cannot read the folder of results {copied}: Permission denied" in done.err


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"methods": 3, "refused": []}', '{"methods": [[1, 2, 3]]}', "\xff", "[" * 200_000]
)
def test_the_note_of_the_last_bench_may_be_lost(copied: Path, mmzoo: Command, text: str) -> None:
    (copied / "bench.json").write_text(text, encoding="latin-1")
    empty = {"methods": {}, "datasets": [], "refused": [], "command": ""}
    assert Store(copied).bench() == empty
    assert "| dynamic_gap_lb " in mmzoo("report", copied).out


def test_writing_a_row_leaves_the_old_one_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.write({"run_id": "r", "a": 1})
    before = contents(tmp_path)

    def fail(*args: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("mmzoo.io.files.os.replace", fail)
    with pytest.raises(MmzooError, match="Input/output error"):
        store.write({"run_id": "r", "a": 2})
    assert contents(tmp_path) == before  # no temporary file stays either

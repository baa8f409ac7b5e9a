"""Floors below the methods of a table, and the words for what lies below its floor."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest

from mmzoo.benchmark.report import render
from mmzoo.benchmark.reporting.floors import below_notes, floors_of
from mmzoo.benchmark.reporting.groups import grouped
from mmzoo.benchmark.reporting.short import short_tables
from mmzoo.benchmark.results.forms import row_fault
from mmzoo.benchmark.results.store import Store
from mmzoo.testing.harness.program import run_program

MANIFEST = "name: cups\ntable: cups.csv\nmodalities:\n  size: {kind: vector, columns: [a, b]}\n  words: text\n"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of a bench on a user's own table: plain training, and its floors."""
    folder = tmp_path_factory.mktemp("own")
    lines = [
        f"{i % 7},{i % 3},{'tea' if i % 2 else 'milk'} cup {i % 5},{'hot' if i % 2 else 'cold'}" for i in range(60)
    ]
    (folder / "cups.csv").write_text("a,b,words,label\n" + "\n".join(lines) + "\n")
    (folder / "cups.yaml").write_text(MANIFEST)
    run = ("bench", "--method", "plain", "--datasets", "cups.yaml", "--seeds", "1", "--epochs", "1", "--out", "results")
    env = {"MMZOO_HOME": str(folder / "home")}
    run_program(*run, "--no-references", cwd=folder, **env)
    (only,) = json.loads(run_program("report", "results", "--format", "json", cwd=folder, **env))["rows"]
    assert only["label"] == "concat"
    told = run_program(*run, "--no-references", "--floor", cwd=folder, **env)
    assert "linear baselines: floor: size, floor: words, floor" in told and "| linear baseline: words" in told
    again = run_program(*run, "--no-references", "--floor", cwd=folder, **env)
    assert "there already: 4, to do: 0" in again
    return list(json.loads(run_program("report", "results", "--format", "json", cwd=folder, **env))["rows"])


def test_a_bench_on_own_data_carries_floors(rows: list[dict[str, Any]]) -> None:
    by_label = {r["label"]: r for r in rows}
    assert set(by_label) == {"concat", "floor: size", "floor: words", "floor"}
    assert by_label["floor: words"]["metrics"]["acc"] == 1.0 and by_label["floor"]["metrics"]["acc"] == 1.0
    assert by_label["floor: size"]["metrics"]["acc"] < 0.8
    assert by_label["floor: words"]["floor"]["features"] == {"words": "TF-IDF of words"}
    assert by_label["floor"]["cost"]["train_items"] == by_label["concat"]["cost"]["train_items"]
    assert by_label["floor"]["hashes"]["split"] == by_label["concat"]["hashes"]["split"]


@pytest.mark.parametrize(
    ("path", "value"), [(("metrics", "acc"), "1"), (("floor", "strength"), None), (("floor", "features"), {"a": 1})]
)
def test_a_floor_is_read_by_its_own_form(rows: list[dict[str, Any]], path: tuple[str, str], value: object) -> None:
    row = copy.deepcopy(next(r for r in rows if r["label"] == "floor"))
    assert row_fault(row, row["run_id"]) is None
    row[path[0]][path[1]] = value
    assert path[1] in str(row_fault(row, row["run_id"]))


def test_floors_are_compared_with_nothing(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    assert [g.label for g in grouped(rows, {})] == ["concat"]
    assert [f["label"] for f in floors_of(rows, "cups")] == ["floor: size", "floor: words", "floor"]
    for fmt in ("md", "latex", "html", "csv", "json"):
        shown = "floor: words" if fmt in ("csv", "json") else "linear baseline: words"
        assert shown in render(rows, {"methods": {}, "refused": []}, Store(tmp_path), fmt)


def test_a_row_that_was_still_improving_is_marked_under_its_table(rows: list[dict[str, Any]]) -> None:
    late = copy.deepcopy(rows)
    for row in late:
        row["still_improving"] = ["the chosen epoch is among the last tenth"] if row["label"] == "concat" else []
    (table,) = short_tables(late, {"methods": {}, "refused": []})
    (note,) = [n for n in table.notes if n.startswith("Still improving")]
    assert "training ended: concat (the chosen epoch is among the last tenth). Train longer: --epochs" in note
    more = []
    for label in ("concat", "b", "c"):
        one = copy.deepcopy(next(r for r in rows if r["label"] == "concat"))
        one.update(label=label, run_id=label, config_id=label, still_improving=["the loss falls"])
        one["spec"]["training"]["epochs"] += len(more)
        more.append(one)
    (table,) = short_tables([*floors_of(rows, "cups"), *more], {"methods": {}, "refused": []})
    advice = {int(n.split("--epochs ")[1].split(".")[0].split(")")[0]) for n in table.notes if "--epochs " in n}
    assert len(advice) == 1 and min(advice) >= 2 * late[0]["spec"]["training"]["epochs"]  # one number for the table
    (note,) = [n for n in table.notes if n.startswith("Still improving")]
    assert note.count("the loss falls") == 2  # the others are only named


def test_what_lies_below_is_said_with_a_cure(rows: list[dict[str, Any]]) -> None:
    floors = floors_of(rows, "cups")
    low = copy.deepcopy(next(r for r in rows if r["label"] == "concat"))
    low["metrics"]["acc"], low["still_improving"] = 0.5, []
    training = low["spec"]["training"]
    each = math.ceil(low["cost"]["train_items"] / training["batch_size"])
    (note,) = below_notes(grouped([low], {}), floors)
    assert note == (
        f"concat is BELOW ITS LINEAR BASELINE by 50.0 points (linear baseline: 100.0). Train longer first (--epochs {math.ceil(1000 / each)}): it took "
        f"{each} steps, fewer than 1,000."
    )
    training["epochs"] = 1000
    (note,) = below_notes(grouped([low], {}), floors)
    assert (
        note.startswith("concat is BELOW ITS LINEAR BASELINE by 50.0 points (linear baseline: 100.0). Tune its rate")
        and "train.lr" in note
    )
    for reason in ("the chosen epoch is among the last tenth", "the training loss has not flattened"):
        low["still_improving"] = [reason]
        (note,) = below_notes(grouped([low], {}), floors)
        assert note.endswith("Train longer first (--epochs 2000): it was still improving.")
    within = {"cups": 0.99}  # of 12 test samples, whose standard error is about 2.9 points there
    low["metrics"]["acc"], low["still_improving"] = within["cups"], []
    (note,) = below_notes(grouped([low], {}), floors)
    assert note == (
        "concat is level with its linear baseline (linear baseline: 100.0; 1.0 points are within the sampling error of the test set)."
    )
    low["metrics"]["acc"] = 1.0
    assert below_notes(grouped([low], {}), floors) == []

"""What `mmzoo bench` prints and notes: JSON lines, tables only, the command in the results folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmzoo.benchmark.results.store import Store
from mmzoo.io.streams import wrapped

Command = Callable[..., Any]
QUICK = ("bench", "--method", "ogm", "--seeds", 2, "--epochs", 1, "--no-references", "--device", "cpu")


def test_json_prints_one_object_a_line_for_the_plan_each_run_and_the_end(mmzoo: Command, tmp_path: Path) -> None:
    done = mmzoo(*QUICK, "--json", "--out", tmp_path / "out")
    plan, *runs, end = map(json.loads, done.out.splitlines())
    assert done.code == 0 and plan["event"] == "plan" and end["event"] == "end"
    assert (plan["runs"], plan["to_do"], plan["datasets"], plan["methods"]) == (2, 2, ["mfeat"], {"ogm": "method"})
    assert [(r["event"], r["seed"], r["done"], r["total"]) for r in runs] == [("run", 0, 1, 2), ("run", 1, 2, 2)]
    rows = {r["run_id"]: r for r in Store(tmp_path / "out").rows()[0]}
    assert all(r["score"] == rows[r["run"]]["metrics"]["acc"] for r in runs)
    assert end == {"event": "end", "runs": 2, "failed": {}, "unsaved": {}}
    again = list(map(json.loads, mmzoo(*QUICK, "--json", "--out", tmp_path / "out").out.splitlines()))
    assert [e["event"] for e in again] == ["plan", "end"] and again[0]["to_do"] == 0
    (planned,) = map(json.loads, mmzoo(*QUICK, "--json", "--plan", "--out", tmp_path / "out").out.splitlines())
    assert planned == again[0]


def test_quiet_prints_the_tables_only(mmzoo: Command, tmp_path: Path) -> None:
    loud = mmzoo(*QUICK, "--out", tmp_path / "loud").out
    quiet = mmzoo(*QUICK, "--quiet", "--out", tmp_path / "quiet").out
    assert quiet.strip() == loud.partition("Done in ")[2].partition("\n")[2].strip().replace("/loud", "/quiet")
    assert "Plan:" in loud and "Plan:" not in quiet
    assert mmzoo(*QUICK, "--quiet", "--json").code == 2


def test_the_results_folder_keeps_the_command_and_the_order_of_data_sets(mmzoo: Command, tmp_path: Path) -> None:
    sets = "mfeat:low_label,mfeat"
    mmzoo(*QUICK, "--datasets", sets, "--out", tmp_path / "an out")
    bench = Store(tmp_path / "an out").bench()
    assert bench["datasets"] == sets.split(",")
    assert bench["command"].startswith("mmzoo bench --method ogm") and f"'{tmp_path / 'an out'}'" in bench["command"]
    mmzoo("report", tmp_path / "an out", "-o", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "made by <code>mmzoo bench --method ogm" in page
    assert page.index('id="d0"') < page.index('id="d1"') and "mfeat:low_label" in page.partition('id="d1"')[0]


def test_a_plan_is_wrapped_at_words_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "  references: concat, joint_unimodal, concat (without meta set), joint_unimodal (without meta set)"
    assert wrapped(line) == line
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "50")
    first, *more = wrapped(line).splitlines()
    assert more and all(len(each) <= 50 for each in (first, *more)) and all(each.startswith("    ") for each in more)
    assert [first[:2], *first.split(), *" ".join(more).split()] == ["  ", *line.split()]

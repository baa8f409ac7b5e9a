"""Our numbers beside the printed ones: marks, differences, dashes with reasons, every form."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from mmzoo.benchmark.paper.cells import Found, compared, comparison_table, paper_table
from mmzoo.benchmark.paper.documents import page, table_document, write_documents
from mmzoo.benchmark.paper.printed import read_printed


def row(method: str, seed: int, acc: float, *, modality: str | None = None, **params: Any) -> dict[str, Any]:
    own = {"audio": {"own": {"acc": acc - 0.1, "map": 0.7}}, "video": {"own": {"acc": acc - 0.2, "map": 0.4}}}
    return {
        "method": method,
        "modality": modality,
        "seed": seed,
        "status": "ok",
        "reason": "",
        "spec": {"parts": [{"strategy": method, "params": params}]},
        "metrics": {"acc": acc, "map": acc + 0.05, "macro_f1": acc, "modalities": own},
    }


ROWS = [
    *(row("concat", s, 0.60 + 0.01 * s) for s in range(3)),
    *(row("dynamic_gap_lb", s, 0.70 + 0.01 * s) for s in range(3)),
    *(row("dynamic_gap_const", s, 0.65, alpha=0.5) for s in range(3)),
]


def test_ours_less_the_printed_value_with_its_error() -> None:
    printed = read_printed("table3")
    found = {"kinetics_sounds": Found(ROWS, {}, synthetic=False)}
    cells = {(c.row, c.column): c for c in compared(printed, found)}
    joint = cells["neither CL nor DI", "map"]
    assert joint.difference == pytest.approx(66.0 - 69.32) and joint.error == pytest.approx(1 / 3**0.5)
    gap = cells["CL", "gap"]
    assert gap.ours.mean == pytest.approx(0.3) and gap.difference == pytest.approx(30 - 3.80)
    table = comparison_table(printed, list(cells.values()), "kinetics_sounds", found["kinetics_sounds"])
    assert "3.80 / 4.00" in [c.text for c in table.body[1]] and any("51.05 - 47.05" in n for n in table.notes)


def test_best_is_bold_second_underlined_and_the_smallest_gap_is_best() -> None:
    printed = read_printed("table3")
    rows = [
        {**r, "metrics": {**r["metrics"], "modalities": {"a": {"own": {"map": 0.5}}, "b": {"own": {"map": 0.4}}}}}
        for r in ROWS[:1]
    ]
    found = {"kinetics_sounds": Found([*rows, *ROWS[3:]], {}, synthetic=False)}
    table = paper_table(printed, compared(printed, found), found)
    joint, gap = ([line[i] for line in table.body] for i in (3, 4))
    assert [(c.best, c.second) for c in joint] == [(False, False), (False, True), (True, False)]
    assert gap[0].best


def test_nothing_synthetic_or_fast_has_a_difference() -> None:
    printed = read_printed("table3")
    for given in ({"synthetic": True}, {"synthetic": False, "fast": True}):
        found = {"kinetics_sounds": Found(ROWS, {}, **given)}
        cells = compared(printed, found)
        assert not any(c.difference == c.difference for c in cells) and any(c.ours.n and c.printed for c in cells)
        table = paper_table(printed, cells, found)
        mark = "(synthetic)" if given["synthetic"] else "(fast)"
        assert all(mark in h for h in table.header[1:]) and any(
            "ompares with a printed number" in n for n in table.notes
        )


def test_a_cell_without_a_number_says_why() -> None:
    printed = read_printed("table1")
    failed = {**row("mla", 0, 0.0), "status": "diverged", "reason": "epoch 3"}
    found = {"sarcasm": Found([*ROWS, failed], {"channel": "needs stages"}, synthetic=False)}
    reasons = {c.row: c.reason for c in compared(printed, found)}
    assert (
        reasons["Channel"] == "needs stages" and reasons["MLA"] == "diverged: epoch 3" and reasons["OGM"] == "not run"
    )
    assert "blank" in reasons["Greedy"] and reasons["Concat"] == ""
    table = paper_table(printed, compared(printed, found), found)
    assert {c.text for c in table.body[4][1:]} == {"-"} and any("needs stages" in n for n in table.notes)


def test_every_form_holds_the_same_cells(tmp_path: Path) -> None:
    printed = read_printed("table3")
    found = {"kinetics_sounds": Found(ROWS, {}, synthetic=False)}
    cells = compared(printed, found)
    files = {p.name for p in write_documents([table_document(printed, cells, found)], tmp_path)}
    assert files == {"index.html", *(f"table3.{form}" for form in ("md", "tex", "csv", "json"))}
    told = json.loads((tmp_path / "table3.json").read_text())["cells"]
    lines = list(csv.DictReader((tmp_path / "table3.csv").open()))
    assert len(told) == len(lines) == 12 and lines[5]["printed"] == "47.05"
    tex = (tmp_path / "table3.tex").read_text()
    assert tex.count(r"\toprule") == tex.count(r"\bottomrule") == tex.count(r"\begin{tabular}") == 2
    assert (
        "<b>" in (tmp_path / "index.html").read_text()
        and "11 of its printed numbers" in (tmp_path / "table3.md").read_text()
    )


def test_the_page_escapes_what_comes_from_outside() -> None:
    printed = read_printed("table3")
    found = {"kinetics_sounds": Found([], {"concat": "<script>"}, synthetic=False)}
    assert "<script>" not in page([table_document(printed, compared(printed, found), found)])

"""The map: who wins in a cell and whether that is decided, by hand; which benches have a map; the chart."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from mmzoo.benchmark.reporting.figures.drawing import convert, figures
from mmzoo.benchmark.reporting.figures.map_cells import Map, find_maps, map_tables
from mmzoo.benchmark.reporting.figures.map_chart import LINES, phase_diagram
from mmzoo.benchmark.results.store import Store

Row = dict[str, Any]
ROLES = {"methods": {"new": "method", "concat": "reference", "control": "reference"}, "refused": []}


@pytest.fixture(scope="module")
def template(results: Path) -> Row:
    rows, _ = Store(results).rows()
    return next(r for r in rows if r["label"] == "concat")


def cell(template: Row, params: dict[str, Any], scores: dict[str, list[float]]) -> list[Row]:
    made = []
    for (label, values), name in itertools.product(scores.items(), [json.dumps(params)]):
        for seed, acc in enumerate(values):
            row = copy.deepcopy(template)
            row |= {"label": label, "seed": seed, "dataset": name, "config_id": f"{name} {label}"}
            row["run_id"] = hashlib.sha256(f"{name}{label}{seed}".encode()).hexdigest()[:16]
            row["metrics"] |= {"acc": acc}
            row["spec"] |= {"dataset": "drawn", "data_params": {"classes": 8, **params}}
            row["spec"]["parts"][0]["strategy"] = {"concat": "plain"}.get(label, label)
            made.append(row)
    return made


SURE = {"new": [0.9, 0.8, 0.9], "concat": [0.8, 0.69, 0.81], "control": [0.5, 0.5, 0.5]}
OPEN = {"new": [0.7, 0.8, 0.6], "concat": [0.8, 0.6, 0.8], "control": [0.5, 0.5, 0.5]}


@pytest.fixture
def rows(template: Row) -> list[Row]:
    return [
        row
        for a, b in itertools.product((0.0, 0.6), (0, 1))
        for row in cell(template, {"content": a, "hard": b}, OPEN if (a, b) == (0.6, 1) else SURE)
    ]


def found(rows: list[Row]) -> Map:
    (only,) = find_maps(rows, ROLES)
    return only


def test_winner_margin_and_whether_it_is_decided(rows: list[Row]) -> None:
    places = {tuple(p.knobs.values()): p for p in found(rows).places}
    sure, undecided = places[0.0, 0], places[0.6, 1]
    assert (sure.winner, sure.second, sure.decided) == ("new", "concat", True)
    assert sure.margin == pytest.approx(0.1) and sure.to_plain == pytest.approx(0.1)
    # differences: 0.1, 0.11, 0.09; deviation 0.01
    half = 4.302653 * 0.01 / 3**0.5
    assert sure.interval == pytest.approx((0.1 - half, 0.1 + half), abs=1e-4)
    # differences concat - new: 0.1, -0.2, 0.2; mean 1/30, deviation 0.2082, t(2) = 4.3027
    assert (undecided.winner, undecided.decided, undecided.to_plain) == ("concat", False, 0.0)
    half = 4.302653 * 0.2081666 / 3**0.5
    assert undecided.interval == pytest.approx((1 / 30 - half, 1 / 30 + half), abs=1e-4)


def test_one_seed_decides_nothing(template: Row) -> None:
    one = {"new": [0.9], "concat": [0.1]}
    rows = [r for i in range(4) for r in cell(template, {"hard": i}, one)]
    assert [p.decided for p in found(rows).places] == [False] * 4


def test_two_seeds_or_equal_differences_decide_nothing(template: Row) -> None:
    for scores in ({"new": [0.9, 0.8], "concat": [0.1, 0.2]}, {"new": [0.9, 0.8, 0.7], "concat": [0.3, 0.2, 0.1]}):
        rows = [r for i in range(4) for r in cell(template, {"hard": i}, scores)]
        assert [p.decided for p in found(rows).places] == [False] * 4
        assert {line[5].text for line in map_tables(rows, ROLES)[0].body} == {"–"}  # noqa: RUF001


def test_what_is_no_map(rows: list[Row], template: Row) -> None:
    assert find_maps(rows[:-9], ROLES) == []  # three cells
    words = [r for w in "abcd" for r in cell(template, {"views": w}, SURE)]
    assert find_maps(words, ROLES) == []
    many = [r for i in range(4) for r in cell(template, {"a": i, "b": i, "c": i, "d": i}, SURE)]
    assert find_maps(many, ROLES) == []
    alone = [r for i in range(4) for r in cell(template, {"hard": i}, {"new": [0.5, 0.6]})]
    assert find_maps(alone, ROLES) == []  # nothing to win against


def test_the_table(rows: list[Row]) -> None:
    (table,) = map_tables(rows, ROLES)
    assert table.header == ["content", "hard", "winner", "score", "second", "lead", "95 %", "decided", "Δ plain"]
    assert next([c.text for c in line] for line in table.body) == [
        "0",
        "0",
        "new",
        "86.7",
        "concat",
        "+10.0",
        "[+7.5, +12.5]",
        "yes",
        "+10.0",
    ]


def test_the_chart_colours_winners_and_hatches_what_is_open(rows: list[Row]) -> None:
    spec = phase_diagram(found(rows), {"new": 0, "concat": 1})
    values = spec["data"]["values"]
    cells = [v for v in values if not v["hatch"]]
    hatches = [v for v in values if v["hatch"]]
    assert [(v["left"], v["low"], v["method"]) for v in cells] == [
        (0, 0, "new"),
        (0, 1, "new"),
        (1, 0, "new"),
        (1, 1, "concat"),
    ]
    assert len(hatches) == 2 * LINES - 1
    assert all(1 <= v[k] <= 2 for v in hatches for k in ("left", "right", "low", "high"))
    scale = spec["layer"][0]["encoding"]["color"]["scale"]
    assert scale["domain"] == ["new", "concat"] and len(set(scale["range"])) == 2


def test_three_knobs_are_panels_and_every_form_can_be_drawn(template: Row) -> None:
    rows = [
        row
        for a, b, c in itertools.product((0.0, 0.6), (0.0, 0.9), (0, 1))
        for row in cell(template, {"content": a, "context": b, "hard": c}, SURE)
    ]
    spec = phase_diagram(found(rows), {})
    assert spec["columns"] == 2 and spec["facet"]["sort"] == ["hard = 0", "hard = 1"]
    pytest.importorskip("vl_convert")
    assert convert(spec, "svg").startswith(b"<svg") and convert(spec, "png").startswith(b"\x89PNG")
    one = [r for i in range(4) for r in cell(template, {"hard": i}, SURE)]
    assert convert(phase_diagram(found(one), {}), "svg").startswith(b"<svg")


def test_a_report_has_it(rows: list[Row], tmp_path: Path) -> None:
    assert "map-drawn" in figures(rows, ROLES, Store(tmp_path))

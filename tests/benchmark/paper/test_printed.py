"""The printed numbers and the suites: counted, consistent, readable by the bench."""

from __future__ import annotations

from pathlib import Path

import pytest

import mmzoo
from mmzoo.benchmark.paper.printed import TABLES, read_printed, suite_file
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.benchmark.results.paper_figures import FIGURES
from mmzoo.cli import main
from mmzoo.config.spec import BenchSpec
from mmzoo.config.suites import read_suite
from mmzoo.registry import Catalogue

#: how many cells of each table have a source; what is missing here is missing in the files
SOURCED = {"table1": 16, "table2": 0, "table3": 11, "table4": 3, "table5": 0, "tableA1": 3, "tableA2": 6, "tableA3": 3}


@pytest.mark.parametrize("name", TABLES)
def test_cells_are_counted_and_lie_in_the_table(name: str) -> None:
    printed = read_printed(name)
    assert printed.n_cells == SOURCED[name]
    rows = {line.label for line in printed.rows}
    assert set(printed.cells) <= rows and {row for row, _ in printed.dashes} <= rows
    for datasets in printed.cells.values():
        for dataset, columns in datasets.items():
            assert set(columns) <= set(printed.columns[dataset])
            assert all(0 < v < 100 for values in columns.values() for v in values)
    for told in printed.contradictions:
        values = printed.values(told["row"], told["dataset"], told["metric"])
        assert told["here"] in values and told["here"] != told["elsewhere"]


def test_the_page_and_the_help_say_how_few_have_a_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    page = " ".join((Path(mmzoo.__file__).parent / "docs" / "paper.md").read_text(encoding="utf-8").split())
    of = read_printed("table1").prints
    assert f"{SOURCED['table1']} of the {of} of Table 1, none of Tables 2 and 5" in told
    assert f"For Table 1 that is {SOURCED['table1']} of the {of} numbers" in page
    assert f"Tables 2 and 5 have none, Table 3 has {SOURCED['table3']}" in page


def test_table_1_has_twenty_rows_by_eight_less_the_dashes() -> None:
    printed = read_printed("table1")
    cells = len(printed.rows) * sum(map(len, printed.columns.values()))
    assert (len(printed.rows), cells) == (20, 160)
    assert printed.prints == cells - 2 * len(printed.dashes) == 152


def test_gaps_are_the_differences_of_their_columns() -> None:
    for name in ("table3", "tableA2"):
        printed = read_printed(name)
        for datasets in printed.cells.values():
            for dataset, columns in datasets.items():
                alone = [v[0] for column, v in columns.items() if " " in column]
                if "gap" in columns and len(alone) == 2:
                    assert any(abs(abs(alone[0] - alone[1]) - gap) < 0.006 for gap in columns["gap"]), (name, dataset)


def test_the_contradictions_that_are_known_stand_with_both_values() -> None:
    ablation, others = read_printed("table3"), read_printed("tableA2")
    assert ablation.values("CL", "kinetics_sounds", "gap") == (3.80, 4.00)
    assert others.values("CL", "cremad", "gap") == (19.06, 19.60)
    told = {(c["here"], c["elsewhere"]) for name in TABLES for c in read_printed(name).contradictions}
    assert {(68.41, 76.07), (84.11, 83.62)} <= told


@pytest.mark.parametrize("name", [*TABLES, *(f for f in FIGURES if f != "fig4")])
def test_every_suite_is_one_of_the_bench_and_runs_each_row(name: str, catalogue: Catalogue) -> None:
    fields = read_suite(suite_file(name), catalogue)
    assert fields["selection"] == "last" and fields["preset"].startswith("paper")
    twins = {**fields, "preset": "default", "datasets": tuple(f"{d}:mini" for d in fields["datasets"])}
    plan = make_plan(BenchSpec(**twins), catalogue, stores=False)
    if name in TABLES:
        printed = read_printed(name)
        assert set(printed.columns) == set(fields["datasets"])
        known = {r.method.partition("[")[0] for r in plan.refused}
        for line in printed.rows:
            rows = [{"method": p.method, "modality": p.modality, "spec": p.spec.as_dict()} for p in plan.runs]
            assert any(map(line.takes, rows)) or line.method in known, line

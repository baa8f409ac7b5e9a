"""Results of earlier versions stay valid: a folder that an earlier version wrote is read, reported to the same digits, and
its runs are not repeated; the same bench has the same run ids.

`old_results/folder` was written before the package was divided into folders. `tables.json` holds the numbers of the tables
that were printed from it then, `rows.csv` its rows, and `run_ids.json` the ids that benches had then. Benches with
`dynamic_gap_lb` name the solve that was its default.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.benchmark.results.forms import present_name
from mmzoo.benchmark.results.store import Store
from mmzoo.config.spec import BenchSpec, RunSpec
from mmzoo.registry import Catalogue

HERE = Path(__file__).resolve().parent / "old_results"
FOLDER = HERE / "folder"
#: the solve that `dynamic_gap_lb` had then
FORMER = {
    "dynamic_gap_lb.solver": "gauss_newton",
    "dynamic_gap_lb.damping": 0.01,
    "dynamic_gap_lb.iterations": 10,
    "dynamic_gap_lb.batches": 2,
    "dynamic_gap_lb.fallback": None,
}
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


def numbers(markdown: str) -> dict[str, list[list[str]]]:
    """First cell of each row of all tables -> the numbers of each row that starts with it."""
    found: dict[str, list[list[str]]] = {}
    for line in markdown.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and not line.startswith("|-") and (digits := NUMBER.findall(" ".join(cells[1:]))):
            found.setdefault(cells[0], []).append(digits)
    return found


def in_order(wanted: list[str], found: list[str]) -> bool:
    """Whether all of `wanted` are in `found`, in their order: a table may have new columns."""
    rest = iter(found)
    return all(number in rest for number in wanted)


@pytest.mark.parametrize("flag", ["", "--modalities"])
def test_an_old_folder_is_reported_to_the_same_digits(mmzoo: Callable[..., Any], flag: str) -> None:
    then = json.loads((HERE / "tables.json").read_text(encoding="utf-8"))[flag or "default"]
    done = mmzoo("report", FOLDER, flag or "--details")
    assert done.code == 0 and done.err == ""
    now = numbers(done.out)
    for label, rows in then.items():
        there = now[present_name(label)]
        for row in rows:
            assert any(in_order(row, other) for other in there), (label, row, there)


def test_the_rows_of_an_old_folder_keep_all_their_numbers(mmzoo: Callable[..., Any]) -> None:
    then = list(csv.DictReader((HERE / "rows.csv").read_text(encoding="utf-8").splitlines()))
    now = {row["run_id"]: row for row in csv.DictReader(io.StringIO(mmzoo("report", FOLDER, "--format", "csv").out))}
    assert len(then) == len(now) == 12
    for row in then:
        row |= {k: present_name(row[k]) for k in ("label", "method") if k in row}
        assert {k: now[row["run_id"]][k] for k in row} == row


def test_the_runs_of_an_old_folder_are_not_repeated(catalogue: Catalogue, mmzoo: Callable[..., Any]) -> None:
    bench = BenchSpec(
        method="dynamic_gap_lb", baselines=("ogm",), datasets=("mfeat",), seeds=(0, 1), settings=tuple(FORMER.items())
    )
    store = Store(FOLDER)
    planned = make_plan(bench, catalogue).runs
    planned = tuple(replace(p, title="") for p in planned)  # the settings of then, which are no default today
    there = [p for p in planned if store.finished(p.spec.run_id) is not None]
    assert {p.label for p in planned} - {p.label for p in there} == {
        "joint_unimodal",
        "joint_unimodal (without meta set)",
    }
    assert len(there) == 12
    for p in there:
        assert p.as_dict() == store.planned(p.spec.run_id)


def test_specs_in_an_old_folder_are_read_and_hash_to_the_same_id() -> None:
    for path in FOLDER.glob("runs/*/planned.json"):
        spec = json.loads(path.read_text(encoding="utf-8"))["spec"]
        assert RunSpec.from_dict(spec).run_id == path.parent.name


def test_a_lease_of_an_old_folder_is_understood(mmzoo: Callable[..., Any], tmp_path: Path) -> None:
    """It is a file `claim.N`: released here, so that the run waits with its four epochs."""
    folder = tmp_path / "results"
    shutil.copytree(FOLDER, folder)
    done = mmzoo("status", folder, "--json")
    waiting = [run for run in json.loads(done.out)["runs"] if run["state"] == "waiting"]
    assert [(run["label"], run["seed"], run["epoch"]) for run in waiting] == [("pmr", 0, 4)]


@pytest.mark.parametrize("case", json.loads((HERE / "run_ids.json").read_text(encoding="utf-8")), ids=str)
def test_the_same_bench_has_the_same_run_ids(catalogue: Catalogue, case: dict[str, Any]) -> None:
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in case["bench"].items()}
    given["settings"] = tuple(case["bench"].get("settings", {}).items())
    given["overrides"] = tuple(tuple(o.items()) for o in case["bench"].get("overrides", ()))
    plan = make_plan(BenchSpec(**given), catalogue)
    settings = re.compile(r"(@concat)?\[solver=.*\]")  # the solve of then is no default today
    now = [[p.dataset, settings.sub("", p.label), p.role, p.spec.seed, p.spec.run_id] for p in plan.runs]
    assert now == [[dataset, present_name(label), *rest] for dataset, label, *rest in case["runs"]]
    assert [[r.dataset, r.method] for r in plan.refused] == case["refused"]

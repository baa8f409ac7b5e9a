"""Teachers in a bench: trained once, kept, handed over, and counted in the rows that learn from them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.result_files import contents, lasting, rewrite, rows_by_label
from helpers.taught_benches import by_label, no_probe
from safetensors.torch import load_file

from mmzoo.benchmark.execution.building import build_model, load_data
from mmzoo.benchmark.planning.planned import Plan
from mmzoo.benchmark.results.store import WEIGHTS
from mmzoo.cli import main
from mmzoo.evaluation import predictions
from mmzoo.registry import Catalogue

MakePlan = Callable[..., Plan]
Command = Callable[..., Any]
SMALL = ("--seeds", "1", "--epochs", "2", "--device", "cpu")
BENCH = ("bench", "--method", "umt", "--baselines", "ume", *SMALL)


@pytest.fixture(autouse=True)
def _no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "fit_probe", no_probe)


@pytest.fixture
def copied(taught: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(taught, tmp_path / "results"))


# ---------------------------------------------------------------------- rows
def test_a_row_names_its_teachers_and_holds_their_cost(taught: Path) -> None:
    rows = rows_by_label(taught)
    assert set(rows) == {"umt", "ume", "unimodal: fou", "unimodal: zer"}
    alone = {m: rows[f"unimodal: {m}"] for m in ("fou", "zer")}
    steps = 2 * 16  # two epochs of 1,000 items in batches of 64
    for label, own in (("umt", (2 * steps, steps)), ("ume", (0, 0))):
        row = rows[label]
        assert row["status"] == "ok" and set(row["teachers"]) == {"fou", "zer"}
        for m, teacher in row["teachers"].items():
            assert teacher == {"run_id": alone[m]["run_id"], "weights": alone[m]["hashes"]["weights"]}
        # Two modalities of two, each for half a pass over the whole model.
        assert row["cost"]["teachers"] == {"forward": steps, "backward": steps}
        assert (row["cost"]["forward"], row["cost"]["backward"]) == (own[0] + steps, own[1] + steps)
        theirs = sum(r["timing"]["seconds"] for r in alone.values())
        assert row["timing"]["seconds_teachers"] == pytest.approx(theirs)
        assert row["timing"]["seconds"] >= theirs
    for row in alone.values():
        assert row["teachers"] == {} and "teachers" not in row["cost"] and "seconds_teachers" not in row["timing"]


def test_ume_is_made_of_the_rows_of_its_members(taught: Path) -> None:
    rows = rows_by_label(taught)
    row = rows["ume"]
    assert row["metrics"]["epochs"] == 0 and row["metrics"]["selected_epoch"] == -1 and row["record"] == {}
    assert row["metrics"]["own_logits"] == "exact" and row["warnings"] == {}
    for m in ("fou", "zer"):
        alone = rows[f"unimodal: {m}"]["metrics"]
        own = row["metrics"]["modalities"][m]["own"]
        assert {k: own[k] for k in own if k != "word"} == pytest.approx(
            {k: alone[k] for k in ("acc", "macro_f1", "map", "loss")}
        )
    assert {k: row["metrics"][k] for k in ("acc", "loss")} == {k: row["metrics"]["last"][k] for k in ("acc", "loss")}
    assert not (taught / "runs" / row["run_id"] / "history.jsonl").exists()


def test_the_weights_that_are_kept_are_those_that_were_scored(
    taught: Path, plan: MakePlan, catalogue: Catalogue
) -> None:
    kept = {p.parent.name for p in taught.glob(f"runs/*/{WEIGHTS}")}
    rows = rows_by_label(taught)
    assert kept == {rows[f"unimodal: {m}"]["run_id"] for m in ("fou", "zer")}
    student = by_label(plan("umt", epochs=2))["umt"]
    teacher = student.teachers[0]
    data = load_data(catalogue, "mfeat", json.dumps(teacher.spec.as_dict()["data_params"], sort_keys=True)).only(
        ["fou"]
    )
    model = build_model(catalogue, teacher.spec, data)
    model.load_state_dict(load_file(taught / "runs" / teacher.spec.run_id / WEIGHTS))
    batch = next(data.loader("test", batch_size=500).batches())
    with torch.no_grad():
        accuracy = float((model.eval()(batch.inputs).logits.argmax(1) == batch.target).double().mean())
    assert accuracy == pytest.approx(rows["unimodal: fou"]["metrics"]["acc"])


def test_a_row_of_a_teacher_is_that_of_a_plain_reference(taught: Path, tmp_path: Path) -> None:
    assert main(["bench", "--method", "unimodal", "--no-references", *SMALL, "--out", str(tmp_path)]) == 0
    alone, kept = rows_by_label(tmp_path), rows_by_label(taught)
    assert {k: lasting(r) for k, r in alone.items()} == {k: lasting(kept[k]) for k in alone}
    assert not list(tmp_path.glob(f"runs/*/{WEIGHTS}"))


def test_the_report_says_that_teachers_are_counted(taught: Path, mmzoo: Command) -> None:
    out = mmzoo("report", taught, "--details").out
    assert "umt, ume: seconds, forwards and backwards include the training of the teachers" in out
    for form in ("csv", "json", "latex"):
        assert mmzoo("report", taught, "--format", form).code == 0
    assert (
        '"teachers.fou.run_id"' not in out and "teachers.fou.run_id" in mmzoo("report", taught, "--format", "csv").out
    )


def test_alone_in_the_report_means_trained_on_all_items(mmzoo: Command, tmp_path: Path) -> None:
    arguments = (
        "bench",
        "--method",
        "umt+joint_unimodal",
        "--no-references",
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--out",
        tmp_path,
    )
    assert mmzoo(*arguments).code == 0
    rows = rows_by_label(tmp_path)
    folder = tmp_path / "runs" / rows["unimodal: fou"]["run_id"]
    row = json.loads((folder / "result.json").read_text())
    row["spec"]["spare_slice"] = True
    rewrite(folder / "result.json", row)
    lines = [
        line
        for line in mmzoo("report", tmp_path, "--details").out.splitlines()
        if line.startswith("| umt+joint_unimodal")
    ]
    header = next(line for line in mmzoo("report", tmp_path, "--details").out.splitlines() if "fou unimodal" in line)
    cells = dict(zip((c.strip() for c in header.split("|")), (c.strip() for c in lines[1].split("|"))))
    assert cells["fou unimodal"] == "–" and cells["zer unimodal"] != "–"  # noqa: RUF001


# ---------------------------------------------------------------------- once
def test_teachers_are_trained_once_for_all_methods_and_benches(
    copied: Path, mmzoo: Command, trained: list[str]
) -> None:
    before = contents(copied / "runs")
    done = mmzoo(
        "bench", "--method", "ume_logits", "--baselines", "umt+ogm", *SMALL, "--no-references", "--out", copied
    )
    assert done.code == 0 and "there already: 2, to do: 2" in done.out
    assert trained == ["ume_logits", "umt+ogm"]
    assert {k: v for k, v in contents(copied / "runs").items() if k in before} == before


def test_a_finished_bench_needs_no_weights(copied: Path, mmzoo: Command, trained: list[str]) -> None:
    for path in copied.glob(f"runs/*/{WEIGHTS}"):
        path.unlink()
    before = contents(copied / "runs")
    done = mmzoo(*BENCH, "--no-references", "--out", copied)
    assert done.code == 0 and "there already: 4, to do: 0" in done.out and trained == []
    assert contents(copied / "runs") == before


def test_a_bench_before_without_teachers_lends_its_rows(tmp_path: Path, mmzoo: Command, trained: list[str]) -> None:
    """Its unimodal rows have left no weights: they are trained again, and their rows stay what they were."""
    assert mmzoo("bench", "--method", "concat", *SMALL, "--out", tmp_path).code == 0
    first = rows_by_label(tmp_path)
    trained.clear()
    done = mmzoo(*BENCH, "--no-references", "--out", tmp_path)
    assert done.code == 0 and "there already" not in done.out
    assert trained == ["unimodal: fou", "unimodal: zer", "umt", "ume"]
    again = rows_by_label(tmp_path)
    assert all(lasting(again[f"unimodal: {m}"]) == lasting(first[f"unimodal: {m}"]) for m in ("fou", "zer"))

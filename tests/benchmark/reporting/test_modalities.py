"""What a row holds of each modality, and the tables made of it; rows of earlier versions too."""

from __future__ import annotations

import copy
import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.result_files import rewrite

from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.reporting.modalities import modality_tables
from mmzoo.benchmark.reporting.tables import DASH, Table, markdown
from mmzoo.benchmark.results.forms import ABLATIONS
from mmzoo.benchmark.results.store import Store
from mmzoo.data.datasets import mfeat
from mmzoo.errors import CorruptFile
from mmzoo.evaluation.predictions import Fitted
from mmzoo.registry import Catalogue

Command = Callable[..., Any]
Row = dict[str, Any]
ROLES = {"methods": {"concat": "method"}, "refused": []}


@pytest.fixture(scope="module")
def rows(results: Path) -> list[Row]:
    return Store(results).rows()[0]


@pytest.fixture
def row(rows: list[Row]) -> Row:
    return copy.deepcopy(next(r for r in rows if r["label"] == "concat"))


def older(row: Row) -> Row:
    """The row as the version before would have written it."""
    row = copy.deepcopy(row)
    metrics = row["metrics"]
    for scores in (metrics, metrics["holdout"]):
        scores.pop("shapley", None), scores.pop("undefined", None)
        scores["gap"] = {k: scores["gap"][k] for k in ("own", "probe")}
        for m, numbers in scores["modalities"].items():
            scores["modalities"][m] = {k: numbers[k] for k in ("own", "probe")}
            for kept in scores["modalities"][m].values():
                kept.pop("word", None)
    row["cost"].pop("flops"), row["cost"].pop("groups")
    return row


def cells(table: Table, *names: str) -> list[str]:
    return next([c.text for c in line] for line in table.body if tuple(c.text for c in line[: len(names)]) == names)


# ---------------------------------------------------------------------- rows
def numbers_in(value: Any) -> Iterator[Any]:
    """Every innermost mapping that holds a number."""
    if isinstance(value, dict):
        if any(isinstance(v, float) for v in value.values()):
            yield value
        for inner in value.values():
            yield from numbers_in(inner)


def test_every_row_holds_every_measure_with_its_word(rows: list[Row]) -> None:
    for row in rows:
        metrics = row["metrics"]
        assert metrics["undefined"] == {} and set(metrics["shapley"]) == set(ABLATIONS)
        assert set(metrics["gap"]) == {"own", "probe", *ABLATIONS}
        for numbers in metrics["modalities"].values():
            assert set(numbers) == {"own", "probe", *ABLATIONS, "shapley", "utilisation"}
            assert all(isinstance(found["word"], str) for found in numbers_in(numbers))
            assert numbers["own"]["word"] == metrics["own_logits"]
        for key, facts in metrics["shapley"].items():
            shares = [n["shapley"][key]["value"] for n in metrics["modalities"].values()]
            assert sum(shares) == pytest.approx(metrics["acc"] - facts["none"]) and facts["all"] == metrics["acc"]
        cost = row["cost"]
        assert sum(s["parameters"] for s in cost["groups"].values()) == cost["parameters"]
        assert sum(s["flops"] for s in cost["groups"].values()) == cost["flops"] > 0


def test_what_is_fitted_is_fitted_on_training_items_without_the_slice(
    plan: Callable[..., Any], catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[int]] = []
    fit = Fitted.on
    monkeypatch.setattr(Fitted, "on", lambda p, n_classes: (seen.append(p.index.tolist()), fit(p, n_classes))[1])
    (planned,) = plan("concat").runs
    assert run_one(planned, catalogue, Store(tmp_path))["status"] == "ok"
    assert seen == [list(mfeat.load().splits["train"])]


def test_holdout_keeps_own_and_probe_only(rows: list[Row]) -> None:
    for row in rows:
        held = row["metrics"]["holdout"]
        assert set(held) == {"acc", "macro_f1", "map", "loss", "modalities", "gap", "distance"}
        assert all(set(numbers) == {"own", "probe"} for numbers in held["modalities"].values())


def test_the_operations_of_the_bundled_data_by_hand(row: Row) -> None:
    """Two perceptrons (76 and 47 inputs, 64 hidden, 32 out) and 10 classes."""
    groups = row["cost"]["groups"]
    assert groups["encoder:fou"]["flops"] == 2 * (76 * 64 + 64 * 32) and groups["head:fou"]["flops"] == 2 * 32 * 10
    assert groups["encoder:zer"]["flops"] == 2 * (47 * 64 + 64 * 32) and groups["head:zer"]["parameters"] == 320
    assert groups["head:shared"] == {"parameters": 10, "flops": 0}


# ---------------------------------------------------------------------- tables
def test_the_tables_say_what_the_row_says(row: Row) -> None:
    other = copy.deepcopy(row)
    other |= {"seed": 1, "run_id": "other"}
    other["metrics"]["modalities"]["fou"]["zero_input"]["acc"] = 0.5
    row["metrics"]["modalities"]["fou"]["zero_input"]["acc"] = 0.4
    row["metrics"]["modalities"]["zer"]["shapley"]["mean_feature"]["value"] = 0.125
    other["metrics"]["modalities"]["zer"]["shapley"]["mean_feature"]["value"] = 0.125
    measures, contributions, imbalance, sizes = modality_tables([row, other], ROLES)
    assert cells(measures, "concat", "fou")[measures.header.index("zero-input")] == "45.0 ± 7.1"
    assert cells(measures, "concat", "zer")[-2:] == [DASH, "slice"]
    assert cells(contributions, "concat", "zer")[contributions.header.index("φ mean-feature")] == "12.5 ± 0.0"
    metrics = row["metrics"]
    used = metrics["modalities"]["fou"]["utilisation"]["zero_feature"]["value"]
    assert (
        cells(contributions, "concat", "fou")[contributions.header.index("u zero-feature")] == f"{100 * used:.1f} ± 0.0"
    )
    index = metrics["shapley"]["zero_input"]["imbalance"]
    assert cells(imbalance, "concat")[imbalance.header.index("imbalance zero-input")] == f"{index:.3f}"
    assert cells(imbalance, "concat")[-1] == "exact"
    assert [line[1].text for line in sizes.body] == [
        "encoder:fou",
        "encoder:zer",
        "head:fou",
        "head:zer",
        "head:shared",
        "all",
    ]
    assert cells(sizes, "concat", "all")[2:] == ["12,810", "25,216"]


def test_methods_of_one_model_share_its_sizes(rows: list[Row]) -> None:
    sizes = modality_tables(rows, {"methods": {}, "refused": []})[3]
    (models,) = {line[0].text for line in sizes.body}
    assert set(models.split(", ")) == {r["label"] for r in rows if r["modality"] is None}


def test_rows_of_an_earlier_version_are_reported(
    rows: list[Row], tmp_path: Path, results: Path, mmzoo: Command
) -> None:
    shutil.copytree(results, tmp_path / "old")
    for path in (tmp_path / "old" / "runs").glob("*/result.json"):
        rewrite(path, older(json.loads(path.read_text())))
    assert Store(tmp_path / "old").rows()[1] == []
    for form in ("md", "csv", "json", "latex"):
        assert mmzoo("report", tmp_path / "old", "--format", form).code == 0
    assert mmzoo("report", tmp_path / "old").out == mmzoo("report", results).out
    done = mmzoo("report", tmp_path / "old", "--modalities")
    assert done.code == 0 and "earlier version" in done.out and "NaN" not in done.out and "nan" not in done.out
    measures, contributions, imbalance, sizes = modality_tables(
        [older(r) for r in rows], {"methods": {}, "refused": []}
    )
    assert cells(measures, "concat", "fou")[3:6] == [DASH] * 3 and cells(measures, "concat", "fou")[2] != DASH
    assert cells(measures, "concat", "fou")[-1] == "slice"
    assert set(cells(contributions, "concat", "fou")[2:]) == {DASH} and cells(imbalance, "concat")[-1] == DASH
    assert sizes.body == []
    assert not any("earlier version" in note for note in modality_tables(rows, {"methods": {}, "refused": []})[0].notes)


def test_a_measure_that_is_not_defined_is_a_dash_with_its_reason(row: Row) -> None:
    metrics = row["metrics"]
    metrics["undefined"] = {"zero_feature": "stages mix them"}
    del metrics["shapley"]["zero_feature"]
    for numbers in metrics["modalities"].values():
        numbers["own"]["word"] = "slice, coupled"
        for part in (numbers, numbers["shapley"], numbers["utilisation"]):
            del part["zero_feature"]
    measures, contributions, *_ = modality_tables([row], ROLES)
    line = cells(measures, "concat", "fou")
    assert line[measures.header.index("zero-feature")] == DASH != line[measures.header.index("zero-input")]
    assert line[-1] == "slice, coupled" and "concat: no zero-feature: stages mix them" in measures.notes
    assert cells(contributions, "concat", "fou")[2] == DASH


def test_runs_without_scores_and_single_modalities_are_named_or_left_out(row: Row) -> None:
    lost = copy.deepcopy(row) | {
        "label": "lost",
        "config_id": "l",
        "run_id": "l",
        "status": "diverged",
        "metrics": {},
        "cost": {},
    }
    alone = copy.deepcopy(row) | {"label": "alone", "config_id": "a", "run_id": "a", "modality": "fou"}
    tables = modality_tables([row, lost, alone], ROLES)
    assert {line[0].text for table in tables for line in table.body} == {"concat"}
    assert any("none of their runs has scores: lost" in note for note in tables[0].notes)
    (only,) = modality_tables([lost], ROLES)
    assert only.body == [] and markdown(modality_tables([lost], ROLES)[0]).startswith("### mfeat: each modality")


def test_the_command_prints_these_tables_in_place_of_the_usual_ones(
    results: Path, mmzoo: Command, refused: Command
) -> None:
    text = mmzoo("report", results, "--modalities").out
    titles = [line for line in text.splitlines() if line.startswith("### ")]
    assert len(titles) == 4 and all(line.startswith("### mfeat: ") for line in titles)
    assert "| dynamic_gap_lb " in text and "zero-feature" in text and "head:shared" in text
    tex = mmzoo("report", results, "--modalities", "--format", "latex").out
    assert tex.count(r"\begin{tabular}") == 4 and r"$\varphi$ zero-input" in tex
    assert "φ" not in "".join(line for line in tex.splitlines() if not line.startswith("%"))
    for form in ("json", "csv"):
        assert "holds every number" in refused("report", results, "--modalities", "--format", form)
    read = list(csv.DictReader(io.StringIO(mmzoo("report", results, "--format", "csv").out)))
    first = json.loads((results / "runs" / read[0]["run_id"] / "result.json").read_text())
    m = next(iter(first["metrics"]["modalities"]))
    kept = first["metrics"]["modalities"][m]["mean_feature"]
    assert float(read[0][f"metrics.modalities.{m}.mean_feature.acc"]) == kept["acc"]
    assert read[0][f"metrics.modalities.{m}.mean_feature.word"] == "mean-feature"


# ---------------------------------------------------------------------- rows that cannot be used
@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("metrics", "modalities", "fou", "zero_input"), 3, "metrics.modalities.fou.zero_input is not an object"),
        (("metrics", "modalities", "fou", "zero_input", "acc"), "1", "fou.zero_input.acc is not a finite number"),
        (("metrics", "modalities", "zer", "mean_feature", "word"), 1, "zer.mean_feature.word is not a text"),
        (("metrics", "modalities", "zer", "own", "word"), 1, "zer.own.word is not a text"),
        (("metrics", "modalities", "fou", "shapley"), [], "metrics.modalities.fou.shapley is not an object"),
        (
            ("metrics", "modalities", "fou", "shapley", "zero_input", "value"),
            None,
            "fou.shapley.zero_input.value is not",
        ),
        (("metrics", "modalities", "fou", "utilisation", "zero_input"), 0.1, "utilisation.zero_input is not an object"),
        (("metrics", "shapley"), 1, "metrics.shapley is not an object"),
        (("metrics", "shapley", "mean_feature", "imbalance"), "much", "mean_feature.imbalance is not a finite number"),
        (("metrics", "undefined"), [], "metrics.undefined is not an object"),
        (("metrics", "undefined"), {"zero_input": 1}, "metrics.undefined.zero_input is not a text"),
        (("cost", "groups"), "all", "cost.groups is not an object"),
        (("cost", "groups", "head:fou", "flops"), 1.5, "cost.groups.head:fou.flops is not a whole number"),
    ],
)
def test_a_row_whose_measures_are_no_measures_is_named(
    row: Row, tmp_path: Path, path: tuple[str, ...], value: Any, message: str
) -> None:
    inner = row
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    Store(tmp_path).write(row)
    with pytest.raises(CorruptFile, match=message):
        Store(tmp_path).row(row["run_id"])

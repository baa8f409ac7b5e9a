"""Teachers in a plan: first in order, shared, and part of the id of their student."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.result_files import rows_by_label
from helpers.taught_benches import by_label, no_probe

from mmzoo.benchmark.execution.building import build_strategy
from mmzoo.benchmark.planning.planned import Plan
from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.errors import Incompatible, UnknownName
from mmzoo.evaluation import predictions
from mmzoo.registry import Catalogue

MakePlan = Callable[..., Plan]
Command = Callable[..., Any]
SMALL = ("--seeds", "1", "--epochs", "2", "--device", "cpu")
BENCH = ("bench", "--method", "umt", "--baselines", "ume", *SMALL)


@pytest.fixture(autouse=True)
def _no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictions, "fit_probe", no_probe)


# ---------------------------------------------------------------------- the plan
def test_teachers_come_first_and_are_kept(plan: MakePlan) -> None:
    made = plan("umt", baselines=("ogm", "ume"), seeds=(0, 3))
    labels = [p.label for p in made.runs]
    for student in [p for p in made.runs if p.teachers]:
        at = {p.spec.run_id: i for i, p in enumerate(made.runs)}
        assert [t.modality for t in student.teachers] == ["fou", "zer"]
        assert all(at[t.spec.run_id] < at[student.spec.run_id] for t in student.teachers)
        assert all(t.spec.seed == student.spec.seed for t in student.teachers)
        assert all(made.runs[at[t.spec.run_id]].keep for t in student.teachers)
    assert labels.count("unimodal: fou") == 2 and len(labels) == 10
    assert {p.label for p in made.runs if p.keep} == {"unimodal: fou", "unimodal: zer"}
    assert {p.label for p in made.runs if p.teachers} == {"umt", "ume"}
    assert made.methods()["unimodal: fou"] == "teacher"


@pytest.mark.parametrize(
    "how",
    [
        {"references": True},
        {"baselines": ("unimodal",)},
        {"method": "unimodal", "baselines": ("umt",)},
    ],
)
def test_a_teacher_that_is_asked_for_anyway_is_the_same_run(plan: MakePlan, how: dict[str, Any]) -> None:
    plain = {p.label: p.spec.run_id for p in plan("unimodal").runs}
    made = plan(**{"method": "umt", **how})
    runs = by_label(made)
    for label, run_id in plain.items():
        assert runs[label].spec.run_id == run_id and runs[label].keep
        assert [p.label for p in made.runs].index(label) < [p.label for p in made.runs].index("umt")
    role = {"references": "reference", "baselines": "baseline", "method": "method"}
    assert made.methods()["unimodal: fou"] == role[next(iter(how))]


def test_teacher_and_student_share_all_that_matters(plan: MakePlan) -> None:
    pairs = (("mlp.width", 9), ("train.lr", 0.3), ("train.optimizer", "adam"), ("mfeat.labels", 20))
    made = by_label(plan("umt", datasets=("mfeat:six",), preset="release", epochs=4, seeds=(2,), settings=pairs))
    student = made["umt"]
    assert len(student.teachers) == 6
    for t in student.teachers:
        assert t.spec.training == student.spec.training and t.spec.training.optimizer == "adam"
        assert t.spec.data_params == student.spec.data_params and t.spec.data_params["labels"] == 20
        assert t.spec.modalities == (t.modality,) and t.spec.encoders == {t.modality: student.spec.encoders[t.modality]}
        assert t.spec.encoders[t.modality][1]["width"] == 9
        assert (t.spec.seed, t.spec.spare_slice, t.spec.dataset) == (2, False, student.spec.dataset)
        assert [p.strategy for p in t.spec.parts] == ["plain"] and t.dataset == student.dataset


def test_a_student_that_spares_the_slice_has_teachers_that_do(plan: MakePlan) -> None:
    made = by_label(plan("umt+dynamic_gap_lb", references=True))
    student = made["umt+dynamic_gap_lb"]
    assert [t.label for t in student.teachers] == [
        "unimodal (without meta set): fou",
        "unimodal (without meta set): zer",
    ]
    assert all(t.spec.spare_slice for t in student.teachers)
    # The reference rows of each modality are still trained on all items.
    assert not made["unimodal: fou"].spec.spare_slice and not made["unimodal: fou"].keep


def test_what_may_change_a_teacher_changes_the_id_of_its_student(plan: MakePlan) -> None:
    student = by_label(plan("umt"))["umt"]
    assert {"strategies/umt", "strategies/plain", "heads/concat", "encoders/mlp"} <= set(student.spec.versions)
    spec = student.teachers[0].spec
    assert set(spec.versions) <= set(student.spec.versions)


def test_methods_without_teachers_have_the_ids_that_they_had(plan: MakePlan, catalogue: Catalogue) -> None:
    (ogm,) = plan("ogm").runs
    assert ogm.teachers == () and not ogm.keep and "teachers" not in ogm.spec.as_dict()
    assert "strategies/plain" not in ogm.spec.versions
    method = resolve_method(catalogue, "umt:0-5+ogm", Settings(catalogue, ()))
    assert method.needs_teachers and not resolve_method(catalogue, "ogm+pmr", Settings(catalogue, ())).needs_teachers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ume+ogm", "ume is the whole of a method and cannot be combined"),
        ("ogm+ume", "ume is the whole of a method"),
        ("ume:0-3", "ume is the whole of a method and has no window"),
    ],
)
def test_what_stands_alone_is_refused_before_anything_is_trained(plan: MakePlan, text: str, message: str) -> None:
    with pytest.raises(Incompatible, match=message):
        plan(text)


def test_one_modality_has_no_teachers_to_learn_from(plan: MakePlan) -> None:
    for method in ("umt", "ume"):
        with pytest.raises(Incompatible, match="needs at least 2 modalities"):
            plan(method, settings=(("mfeat.views", ["fou"]),))


def test_a_plan_says_who_is_a_teacher(mmzoo: Command) -> None:
    assert "  teachers: unimodal: fou, unimodal: zer" in mmzoo(*BENCH, "--no-references", "--plan").out
    assert "  teachers:" not in mmzoo(*BENCH, "--plan").out
    shown = mmzoo("show", "ume").out
    assert "needs: teachers, unimodal" in shown and "teachers: a unimodal model of each modality" in shown
    assert (
        "cannot be chained with another method" in shown
        and "cannot be chained with another method" not in mmzoo("show", "umt").out
    )


def test_a_weight_of_zero_counts_no_teachers(mmzoo: Command, tmp_path: Path) -> None:
    arguments = (
        "bench",
        "--method",
        "umt",
        "--baselines",
        "concat",
        "--no-references",
        *SMALL,
        "--set",
        "umt.weight=0",
    )
    assert mmzoo(*arguments, "--out", tmp_path).code == 0
    rows = rows_by_label(tmp_path)
    row, plain = rows["umt[weight=0.0]"], rows["concat"]
    assert set(rows) == {"umt[weight=0.0]", "concat"}  # and no teacher is trained for nothing
    assert row["teachers"] == {} and row["cost"] == plain["cost"]
    assert row["metrics"] == plain["metrics"] and row["hashes"] == plain["hashes"]


def test_a_reference_is_called_as_the_recipe_that_it_is(plan: MakePlan) -> None:
    labels = {p.title or p.method for p in plan("ume", references=True).runs if p.role == "reference"}
    assert labels == {"mean", "joint_unimodal@sum[head.reduce=mean]", "unimodal"}


def test_a_head_that_cannot_hold_the_members_makes_a_refused_row(mmzoo: Command, tmp_path: Path) -> None:
    done = mmzoo("bench", "--method", "ume@weight", "--no-references", *SMALL, "--out", tmp_path)
    row = rows_by_label(tmp_path)["ume@weight"]
    assert done.code == 0 and row["status"] == "refused" and "Use the head sum: ume@sum" in row["reason"]


def test_a_window_and_a_chain_have_teachers_too(mmzoo: Command, tmp_path: Path) -> None:
    done = mmzoo("bench", "--method", "umt:0-0+ogm@sum", "--no-references", *SMALL, "--out", tmp_path)
    row = rows_by_label(tmp_path)["umt:0-0+ogm@sum"]
    assert done.code == 0 and row["status"] == "ok" and set(row["teachers"]) == {"fou", "zer"}
    assert row["record"]["loss/task"] and "loss/umt/fou" not in row["record"]  # gone by the last epoch


def test_strategies_say_in_the_catalogue_what_they_are(catalogue: Catalogue) -> None:
    for entry in catalogue.entries("strategies"):
        assert entry.load()().solo == bool(entry.extra.get("solo")), entry.name
    with pytest.raises(UnknownName):
        catalogue.get("strategies", "umf")
    parts = resolve_method(catalogue, "umt:0-80", Settings(catalogue, ())).parts
    assert "teachers" in build_strategy(catalogue, parts).requires

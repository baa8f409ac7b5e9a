"""Teachers in a bench: planned first, trained once, kept, handed over, and counted in the rows that learn from them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from result_files import contents, lasting, rewrite, rows_by_label
from safetensors.torch import load_file

from mmzoo.benchmark.execution import building, session
from mmzoo.benchmark.execution.building import build_model, build_strategy, load_data
from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.planning.plan import Plan, Planned, to_do
from mmzoo.benchmark.results.store import WEIGHTS, Store
from mmzoo.cli import main
from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.errors import Incompatible, UnknownName
from mmzoo.evaluation import scores
from mmzoo.registry import Catalogue

MakePlan = Callable[..., Plan]
Command = Callable[..., Any]
SMALL = ("--seeds", "1", "--epochs", "2", "--device", "cpu")
BENCH = ("bench", "--method", "umt", "--baselines", "ume", *SMALL)


def by_label(plan: Plan) -> dict[str, Planned]:
    return {p.label: p for p in plan.runs}


def no_probe(features: torch.Tensor, target: torch.Tensor, n_classes: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """In place of the linear probe, which takes longer than these short runs and has no part in what is tested here."""
    return lambda z: z.new_zeros(len(z), n_classes)


@pytest.fixture(autouse=True)
def _no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "fit_probe", no_probe)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one small bench with teachers; tests must not change them."""
    out = tmp_path_factory.mktemp("taught") / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMZOO_PLUGINS", "")
        patch.setattr(scores, "fit_probe", no_probe)
        assert main([*BENCH, "--no-references", "--out", str(out)]) == 0
    return out


@pytest.fixture
def copied(taught: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(taught, tmp_path / "results"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of the runs that are trained from now on."""
    seen: list[str] = []
    real = session.Session.train_and_score

    def watched(self: Any) -> Any:
        seen.append(self.planned.label)
        return real(self)

    monkeypatch.setattr(session.Session, "train_and_score", watched)
    return seen


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
    assert [t.label for t in student.teachers] == ["unimodal (slice spared): fou", "unimodal (slice spared): zer"]
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
    assert "needs: teachers, unimodal" in shown and "teachers: each modality alone" in shown
    assert (
        "cannot be chained with another method" in shown
        and "cannot be chained with another method" not in mmzoo("show", "umt").out
    )


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
    out = mmzoo("report", taught).out
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
    lines = [line for line in mmzoo("report", tmp_path).out.splitlines() if line.startswith("| umt+joint_unimodal")]
    header = next(line for line in mmzoo("report", tmp_path).out.splitlines() if "fou alone" in line)
    cells = dict(zip((c.strip() for c in header.split("|")), (c.strip() for c in lines[1].split("|"))))
    assert cells["fou alone"] == "–" and cells["zer alone"] != "–"  # noqa: RUF001


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


def spoil(path: Path, how: str, other: bytes) -> None:
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 0x40
    new = {
        "gone": None,
        "empty": b"",
        "garbage": b"\x08" * 100,
        "cut": whole[: len(whole) // 2],
        "flipped": bytes(flipped),
        "of another run": other,
    }[how]
    path.unlink() if new is None else path.write_bytes(new)


@pytest.mark.parametrize("how", ["gone", "empty", "garbage", "cut", "flipped", "of another run"])
def test_weights_that_cannot_be_used_are_made_again(
    copied: Path, plan: MakePlan, catalogue: Catalogue, trained: list[str], how: str
) -> None:
    student = by_label(plan("umt", epochs=2))["umt"]
    store = Store(copied)
    before = store.row(student.spec.run_id)
    shutil.rmtree(store.folder(student.spec.run_id))
    first, second = (store.folder(t.spec.run_id) / WEIGHTS for t in student.teachers)
    good, row = first.read_bytes(), store.row(student.teachers[0].spec.run_id)
    spoil(first, how, second.read_bytes())
    made = run_one(student, catalogue, store)
    assert made["status"] == "ok" and lasting(made) == lasting(before or {})
    assert trained == ["umt", "unimodal: fou"] and first.read_bytes() == good
    assert lasting(store.row(student.teachers[0].spec.run_id) or {}) == lasting(row or {})
    assert how == "gone" or "training again" in (first.parent / "log.txt").read_text()


def test_a_student_without_a_plan_around_it_has_its_teachers_trained(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, taught: Path, trained: list[str]
) -> None:
    student = by_label(plan("umt", epochs=2))["umt"]
    row = run_one(student, catalogue, Store(tmp_path))
    assert trained == ["umt", "unimodal: fou", "unimodal: zer"]
    assert lasting(row) == lasting(rows_by_label(taught)["umt"])
    assert to_do(plan("umt", epochs=2), Store(tmp_path)) == []


# ---------------------------------------------------------------------- interrupted
def test_a_student_that_was_killed_ends_as_if_it_had_not(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, trained: list[str]
) -> None:
    student = by_label(plan("umt+ogm:1-2", epochs=3))["umt+ogm:1-2"]
    straight = run_one(student, catalogue, Store(tmp_path / "straight"))
    store = Store(tmp_path / "broken")
    trained.clear()
    for stop in (1, 2):

        def interrupt(done: int, of: int, stop: int = stop) -> None:
            if done == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_one(student, catalogue, store, checkpoint_every=0, on_epoch=interrupt)
    saved = torch.load(store.folder(student.spec.run_id) / "checkpoint.pt", weights_only=True)
    held = saved["run"]["teachers"]
    assert held["own"] == {} and held["given"] == ["fou", "zer"]  # they are in the store already
    resumed = run_one(student, catalogue, store, checkpoint_every=0)
    assert lasting(resumed) == lasting(straight)
    assert sorted(trained) == sorted([student.label] * 3 + ["unimodal: fou", "unimodal: zer"])


def test_a_teacher_that_was_killed_goes_on_where_it_was(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = by_label(plan("umt", epochs=3))["umt"]
    straight = run_one(student, catalogue, Store(tmp_path / "straight"))
    store, real, done = Store(tmp_path / "broken"), session.Run.train_epoch, []

    def dies(self: Any) -> None:
        real(self)
        done.append(self.modalities)
        if len(done) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(session.Run, "train_epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        run_one(student, catalogue, store, checkpoint_every=0)
    assert (store.folder(student.teachers[0].spec.run_id) / "checkpoint.pt").exists()
    assert lasting(run_one(student, catalogue, store, checkpoint_every=0)) == lasting(straight)
    assert done.count(("fou",)) == 4  # one epoch was lost, the first was not


def test_weights_lost_between_a_kill_and_the_resume_are_made_again(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, trained: list[str]
) -> None:
    student = by_label(plan("umt", epochs=3))["umt"]
    straight = run_one(student, catalogue, Store(tmp_path / "straight"))
    store = Store(tmp_path / "broken")

    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_one(student, catalogue, store, checkpoint_every=0, on_epoch=interrupt)
    for t in student.teachers:
        (store.folder(t.spec.run_id) / WEIGHTS).unlink()
    assert lasting(run_one(student, catalogue, store, checkpoint_every=0)) == lasting(straight)


# ---------------------------------------------------------------------- what does not end well
def test_a_teacher_that_diverges_refuses_its_student(mmzoo: Command, tmp_path: Path, trained: list[str]) -> None:
    arguments = (
        "bench",
        "--method",
        "umt",
        "--no-references",
        *SMALL,
        "--set",
        "train.lr=1000000000.0",
        "--set",
        "train.momentum=1000000000.0",
        "--out",
        tmp_path,
    )
    assert mmzoo(*arguments).code == 0
    rows = rows_by_label(tmp_path)
    assert rows["unimodal: fou"]["status"] == "diverged" and not list(tmp_path.glob(f"runs/*/{WEIGHTS}"))
    assert rows["umt"]["status"] == "refused"
    assert (
        rows["umt"]["reason"].startswith("its teacher unimodal: fou (run ") and "is diverged" in rows["umt"]["reason"]
    )
    trained.clear()
    assert "to do: 0" in mmzoo(*arguments).out and trained == []


def test_a_teacher_that_fails_fails_its_student_until_it_works(
    mmzoo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("out of paper")

    arguments = ("bench", "--method", "ume", "--no-references", *SMALL, "--out", tmp_path)
    real = building.build_model
    monkeypatch.setattr(
        building, "build_model", lambda c, spec, data: fail() if data.modalities == ("zer",) else real(c, spec, data)
    )
    assert mmzoo(*arguments).code == 1
    assert {k: r["status"] for k, r in rows_by_label(tmp_path).items()} == {
        "unimodal: fou": "ok",
        "unimodal: zer": "failed",
        "ume": "failed",
    }
    monkeypatch.setattr(building, "build_model", real)
    assert mmzoo(*arguments).code == 0
    assert {r["status"] for r in rows_by_label(tmp_path).values()} == {"ok"}


def test_a_scored_row_survives_when_its_weights_cannot_be_made_again(
    copied: Path, plan: MakePlan, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = by_label(plan("umt", epochs=2))["umt"]
    teacher = student.teachers[0]
    store = Store(copied)
    shutil.rmtree(store.folder(student.spec.run_id))
    (store.folder(teacher.spec.run_id) / WEIGHTS).unlink()
    before = store.row(teacher.spec.run_id)

    def fail(*args: Any) -> None:
        raise RuntimeError("the disk is made of cheese")

    monkeypatch.setattr(session, "write_weights", fail)
    row = run_one(student, catalogue, store)
    assert row["status"] == "failed" and "made of cheese" in row["reason"] and teacher.spec.run_id in row["reason"]
    assert store.row(teacher.spec.run_id) == before


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
    labels = {p.method for p in plan("ume", references=True).runs if p.role == "reference"}
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

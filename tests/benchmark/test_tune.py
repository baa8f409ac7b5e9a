"""Tuning: the same trials for every method, on holdout alone, the same again after a kill."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmzoo.benchmark import tune
from mmzoo.benchmark.execution.building import load_data
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.benchmark.planning.planned import Plan, to_do
from mmzoo.benchmark.results import leases
from mmzoo.benchmark.results.records import best_of, summary
from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.tune import search_space, tuned_plan, with_values
from mmzoo.config.spec import BenchSpec
from mmzoo.errors import BadValue
from mmzoo.io.interrupts import Stop
from mmzoo.registry import BUILT_IN, Catalogue, Entry, built_in_path, read_entries

pytest.importorskip("optuna")


Command = Callable[..., Any]
MakePlan = Callable[..., Plan]
BUILT_INS = Catalogue(read_entries(built_in_path(), BUILT_IN))
SEARCHED = [*BUILT_INS.entries("strategies"), *BUILT_INS.entries("heads")]


# ---------------------------------------------------------------------- spaces
@pytest.mark.parametrize("entry", SEARCHED, ids=lambda e: e.id)
def test_everything_with_parameters_declares_a_space_or_says_why_not(entry: Entry) -> None:
    searched = [p for p in entry.params.values() if p.search is not None]
    assert bool(entry.params) == bool(searched or entry.extra.get("untuned"))
    assert not (searched and "untuned" in entry.extra)
    for p in searched:
        for bound in (p.search.low, p.search.high):  # type: ignore[union-attr]
            p.check(int(bound) if p.type == "int" else bound)


def space(plan: MakePlan, catalogue: Catalogue, method: str, *settings: tuple[str, Any]) -> set[str]:
    return set(search_space(plan(method, settings=settings).runs[0], catalogue))


def test_training_is_searched_for_all_alike_and_what_is_chosen_stays(plan: MakePlan, catalogue: Catalogue) -> None:
    training = {"train.lr", "train.weight_decay"}
    assert space(plan, catalogue, "concat") == training
    assert space(plan, catalogue, "ogm") == training | {"0.alpha"}
    assert space(plan, catalogue, "ogm", ("ogm.alpha", 0.5)) == training
    assert space(plan, catalogue, "ogm", ("train.lr", 0.1)) == {"train.weight_decay", "0.alpha"}
    assert space(plan, catalogue, "ogm+pmr") == training | {
        "0.alpha",
        "1.alpha",
        "1.mu",
        "1.momentum",
        "1.entropy_epochs",
    }
    # A recipe is its parameters, and a number that means nothing there is no dimension.
    assert space(plan, catalogue, "weight_unimodal") == training
    assert space(plan, catalogue, "pmr_code") == training | {"0.alpha", "0.momentum"}
    assert "0.eta" in space(plan, catalogue, "dynamic_gap_lb") and "0.eta" not in space(
        plan, catalogue, "dynamic_gap_h"
    )
    assert space(plan, catalogue, "channel") == training | {"head.ratio"}


@pytest.mark.parametrize(
    "method", [e.name for e in BUILT_INS.entries("methods") if e.extra["strategy"] == "dynamic_gap"]
)
def test_a_method_of_a_paper_is_not_tuned_into_the_control(plan: MakePlan, catalogue: Catalogue, method: str) -> None:
    """The paper has no loss of each modality, which is the control's: with it a tuned row would be both."""
    assert "0.unimodal" not in space(plan, catalogue, method)
    assert plan(method, settings=((f"{method}.unimodal", 0.5),)).runs[0].spec.parts[0].params["unimodal"] == 0.5


def test_values_go_where_their_keys_say(plan: MakePlan) -> None:
    spec = plan("ogm+pmr@sum").runs[0].spec
    other = with_values(spec, {"train.lr": 0.5, "1.alpha": 2.0})
    assert other.training.lr == 0.5 and other.parts[1].params["alpha"] == 2.0
    assert (other.parts[0], other.head_params) == (spec.parts[0], spec.head_params)


@pytest.mark.parametrize(
    "search, said",
    [
        ("{low: 1}", "low and high"),
        ("{low: 2, high: 1}", "default between"),
        ("{low: 0.6, high: 1}", "default between"),
        ("{low: 0, high: 1, log: true}", "above zero"),
        ("{low: 0, high: 1, whn: {}}", "low and high"),
        ("{low: 0, high: 1}, when: {other: [1]}", "parameters of the entry"),
        ("[0, 1]", "mapping"),
    ],
)
def test_a_faulty_space_is_named_with_its_line(search: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    path.write_text(
        "heads:\n  h:\n    path: a:B\n    summary: s\n    how: exact\n    params:\n"
        f"      x: {{type: float, default: 0.5, search: {search}}}\n"
    )
    with pytest.raises(BadValue, match=f"line 7.*{said}"):
        read_entries(path, "p")


# ---------------------------------------------------------------------- trials
def fake(planned: Any, catalogue: Catalogue, device: str) -> dict[str, Any]:
    """A score that its settings decide, best at lr 0.1."""
    score = 1 / (1 + abs(planned.spec.training.lr - 0.1) + planned.spec.parts[0].params.get("alpha", 0.0))
    return {
        "score": score,
        "loss": 1.0,
        "epoch": 0,
        "status": "ok",
        "reason": "",
        "seconds": 2.0,
        "forward": 3.0,
        "backward": 4.0,
    }


def lasting(record: dict[str, Any]) -> list[Any]:
    return [(t["number"], t["values"], t["score"], t["loss"]) for t in record["trials"]]


def test_a_study_that_another_bench_is_at_is_waited_for(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, calls = plan("ogm", seeds=(0,)), []
    monkeypatch.setattr(tune, "score_trial", lambda *given: (calls.append(1), fake(*given))[1])
    store = Store(tmp_path)
    tuned_plan(asked, catalogue, store, 2)
    (study,) = (tmp_path / "tuning").iterdir()
    assert not [*study.glob("claim.*")]

    def others(seconds: float) -> None:
        assert seconds == tune.WAIT and len(calls) == 2
        holding.close()

    monkeypatch.setattr("mmzoo.benchmark.tune.time.sleep", others)
    holding = contextlib.ExitStack()
    holding.enter_context(leases.claim(study))
    tuned_plan(asked, catalogue, store, 3)
    assert len(calls) == 3 and not [*study.glob("claim.*")]


def test_a_trial_that_fails_scores_zero_and_says_why(
    plan: MakePlan, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan("ogm").runs[0]

    def fail(error: Exception) -> Any:
        def failing(*given: Any, **named: Any) -> Any:
            raise error

        monkeypatch.setattr("mmzoo.training.loop.fit", failing)
        return tune.score_trial(planned, catalogue, "cpu")

    found = fail(ZeroDivisionError("by nought"))
    assert (found["status"], found["score"]) == ("failed", 0.0)
    assert found["reason"].startswith("ZeroDivisionError: by nought (benchmark/test_tune.py:")
    assert fail(torch.OutOfMemoryError("no room\nat all"))["reason"] == "no room"


def test_a_killed_study_goes_on_and_a_longer_one_begins_alike(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = plan("ogm", seeds=(0, 1))
    monkeypatch.setattr(tune, "score_trial", fake)
    whole = Store(tmp_path / "whole")
    tuned = tuned_plan(asked, catalogue, whole, 14)  # past the random ones: Optuna's model of the trials decides too
    (study,) = {p.spec.tuning["study"] for p in tuned.runs if p.spec.tuning}
    record = whole.tuning(study)

    class Killed(Stop):
        pass

    calls: list[float] = []

    def dying(planned: Any, *rest: Any) -> dict[str, Any]:
        calls.append(planned.spec.training.lr)
        if len(calls) in (3, 13):
            raise Killed
        return fake(planned, *rest)

    monkeypatch.setattr(tune, "score_trial", dying)
    for trials in (5, 14):
        with pytest.raises(Killed):
            tuned_plan(asked, catalogue, Store(tmp_path / "killed"), trials)
        again = tuned_plan(asked, catalogue, Store(tmp_path / "killed"), trials)
    assert len(calls) == 16  # each once, and once more those two that were killed
    assert lasting(Store(tmp_path / "killed").tuning(study)) == lasting(record)
    assert [p.spec for p in again.runs] == [p.spec for p in tuned.runs]
    # The first trial is the method as it was asked for; the best is at least as good.
    first, best = record["trials"][0], best_of(record, 14)
    assert first["values"] == {"train.lr": 0.02, "train.weight_decay": 1e-4, "0.alpha": 0.3}
    assert best["score"] == max(t["score"] for t in record["trials"]) > first["score"]
    assert tuned.runs[0].spec.training.lr == best["values"]["train.lr"]
    assert summary(record, 14) | {"chosen": 0, "holdout": 0} == {
        "trials": 14,
        "seed": 1_000_000,
        "seconds": 28.0,
        "forward": 42.0,
        "backward": 56.0,
        "chosen": 0,
        "holdout": 0,
    }


def test_ties_go_to_the_lower_loss_and_then_to_the_first() -> None:
    trials = [{"number": i, "score": s, "loss": x} for i, (s, x) in enumerate([(0.5, 1), (0.7, 2), (0.7, 1), (0.7, 1)])]
    assert best_of({"trials": trials}, 4)["number"] == 2 and best_of({"trials": trials}, 2)["number"] == 1


def test_every_method_gets_the_same_trials_and_the_same_first_rates(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "score_trial", fake)
    plan = make_plan(BenchSpec("umt", ("ogm",), seeds=(0, 1_000_000), epochs=1), catalogue)
    store = Store(tmp_path)
    tuned = tuned_plan(plan, catalogue, store, 4)
    of = {p.spec.config_id: p for p in tuned.runs if p.spec.tuning}
    records = {p.label: store.tuning(p.spec.tuning["study"]) for p in of.values() if p.spec.tuning}
    assert set(records) == {
        "umt (tuned)",
        "ogm (tuned)",
        "concat (tuned)",
        "joint_unimodal (tuned)",
        "unimodal (tuned): fou",
        "unimodal (tuned): zer",
    }
    assert {len(r["trials"]) for r in records.values()} == {4}
    assert len({json.dumps([t["values"]["train.lr"] for t in r["trials"]]) for r in records.values()}) == 1
    assert {r["seed"] for r in records.values()} == {1_000_001}  # none of the seeds that are reported
    # A method learns from teachers that are trained as it is, and keeps its run apart from an untuned one.
    for planned in tuned.runs:
        assert all(t.spec.training == planned.spec.training and t in tuned.runs for t in planned.teachers)
    assert not {p.spec.run_id for p in plan.runs} & {p.spec.run_id for p in tuned.runs if p.spec.tuning}
    assert "tuning" not in plan.runs[0].spec.as_dict()


def test_a_method_that_is_called_by_its_settings_is_called_tuned(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "score_trial", fake)
    plan = make_plan(BenchSpec("etmc", (), seeds=(0,), epochs=1), catalogue)
    labels = {p.label for p in tuned_plan(plan, catalogue, Store(tmp_path), 2).runs if p.spec.floor is None}
    assert "concat@evidential[head.pseudo=true] (tuned)" in labels and all(" (tuned)" in name for name in labels)


def test_a_trial_has_no_test_items_and_a_hopeless_one_scores_zero(plan: MakePlan, catalogue: Catalogue) -> None:
    planned = plan("ogm", epochs=2).runs[0]
    whole = load_data(catalogue, "mfeat", json.dumps(dict(planned.spec.data_params), sort_keys=True))
    touched: list[tuple[str, ...]] = []
    loader = type(whole).loader

    def watched(self: Any, *splits: str, **kwargs: Any) -> Any:
        touched.append(splits)
        assert "test" not in self.splits
        return loader(self, *splits, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(whole), "loader", watched)
        found = tune.score_trial(planned, catalogue, "cpu")
    assert (
        found["status"] == "ok"
        and 0.2 < found["score"] <= 1
        and {s for each in touched for s in each}
        == {
            "train",
            "slice",
            "holdout",
        }
    )
    assert found["backward"] == 2 * 16 and "test" in whole.splits
    wild = replace(planned, spec=with_values(planned.spec, {"train.lr": 1e9}))
    lost = tune.score_trial(wild, catalogue, "cpu")
    assert (lost["status"], lost["score"]) == ("diverged", 0.0)


# ---------------------------------------------------------------------- the commands
def test_tune_then_bench_reads_the_trials_and_says_what_they_cost(
    mmzoo: Command, refused: Command, tmp_path: Path
) -> None:
    options = (
        "--method",
        "ogm",
        "--no-references",
        "--seeds",
        1,
        "--epochs",
        1,
        "--device",
        "cpu",
        "--datasets",
        "mfeat",
        "--out",
        tmp_path,
    )
    told = mmzoo("tune", *options, "--trials", 2)
    assert told.code == 0 and told.out.count("mfeat ogm [") == 2 and " ogm.alpha=" in told.out
    assert "0.alpha" not in told.out and "| settings " in told.out
    assert not list(tmp_path.rglob("result.json"))
    said = mmzoo("status", tmp_path)
    assert said.code == 0 and said.out.startswith(
        "tuning: 1 study, 2 finished trials\n  tuned    mfeat ogm: 2 trials\n"
    )
    assert "mmzoo bench --tune" in said.out
    done = mmzoo("bench", *options, "--tune", 2)
    assert done.code == 0 and "[1/2]" not in done.out
    report = mmzoo("report", tmp_path, "--details").out
    assert "tuning trials" in report and "mfeat: settings chosen on validation, of tuned methods" in report
    assert "ogm.alpha=" in report and "resumes" not in mmzoo("status", tmp_path).out
    (row,), _ = Store(tmp_path).rows()
    assert row["label"] == "ogm (tuned)" and row["tuning"]["trials"] == 2 and row["tuning"]["backward"] == 32
    assert row["spec"]["training"]["lr"] == row["tuning"]["chosen"]["train.lr"]
    assert (
        "0 runs" in mmzoo("bench", *options, "--tune", 2).out or "to do: 0" in mmzoo("bench", *options, "--tune", 2).out
    )
    for flags in (("bench", *options, "--tune", 0), ("tune", *options, "--trials", 0)):
        assert "at least 1 trial" in refused(*flags)
    record = next(tmp_path.rglob("record.json"))
    record.write_text("[]")
    assert "record of tuning" in mmzoo("bench", *options, "--tune", 2).err


def test_without_optuna_it_says_how_to_get_it(mmzoo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    done = mmzoo("tune", "--method", "ogm", "--trials", 2, "--datasets", "mfeat", "--out", tmp_path)
    assert done.code == 2 and "pip install 'mmzoo[tune]'" in done.err


def test_a_tuned_plan_is_done_once(catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune, "score_trial", fake)
    plan = make_plan(BenchSpec("ogm", seeds=(0,), epochs=1, references=False, tune=1), catalogue)
    tuned = tuned_plan(plan, catalogue, Store(tmp_path), 1)
    assert [p.spec.run_id for p in to_do(tuned, Store(tmp_path))] == [p.spec.run_id for p in tuned.runs]

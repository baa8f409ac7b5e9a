"""`--selection last`: trained on every published training item, scored once after the last epoch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmzoo.benchmark.execution.building import Kit, data_of
from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.benchmark.planning.planned import Plan
from mmzoo.benchmark.report import VIEWS, tables
from mmzoo.benchmark.reporting.groups import selection_note
from mmzoo.benchmark.results.comparable import separated
from mmzoo.benchmark.results.store import Store
from mmzoo.config.spec import BenchSpec, RunSpec
from mmzoo.errors import BadValue
from mmzoo.registry import Catalogue
from mmzoo.training.loop import fit

MakePlan = Callable[..., Plan]


def test_last_trains_on_all_and_scores_the_last_epoch_once(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[str, ...]] = []
    loader = Kit.loader
    monkeypatch.setattr(
        Kit, "loader", lambda kit, *splits, **options: loaded.append(splits) or loader(kit, *splits, **options)
    )
    planned = plan("concat", epochs=3, selection="last").runs[0]
    row = run_one(planned, catalogue, store := Store(tmp_path))
    assert row["status"] == "ok" and planned.dataset == row["dataset"] == "mfeat (last epoch)"
    assert row["cost"]["train_items"] == 1500 and ("train", "slice", "holdout") in loaded
    assert loaded.count(("test",)) == 1 and ("holdout",) not in loaded
    metrics = row["metrics"]
    assert metrics["selected_epoch"] == 2 and "holdout" not in metrics
    assert {k: metrics[k] for k in metrics["last"]} == metrics["last"]
    assert not any("chosen epoch" in text for text in row["still_improving"])
    history = (store.folder(row["run_id"]) / "history.jsonl").read_text().splitlines()
    assert len(history) == 3 and "holdout" not in json.loads(history[0])


def test_ids_of_other_selections_are_what_they_were(plan: MakePlan) -> None:
    usual, older, tested, last = (
        plan("ogm", **given).runs[0]
        for given in ({}, {"protocol": "peers"}, {"selection": "test"}, {"selection": "last"})
    )
    assert usual.spec.run_id == older.spec.run_id == tested.spec.run_id != last.spec.run_id
    assert not usual.peers and older.peers and tested.peers and not last.peers
    assert "selection" not in usual.spec.as_dict() and last.spec.as_dict()["selection"] == "last"
    assert RunSpec.from_dict(last.spec.as_dict()).run_id == last.spec.run_id


def test_a_published_validation_split_is_not_trained_on(plan: MakePlan, catalogue: Catalogue) -> None:
    spec = plan("concat", selection="last").runs[0].spec
    whole = data_of(catalogue, spec)
    assert Kit(catalogue, spec, whole, "cpu").train.n_items == 1500
    given = Kit(catalogue, spec, replace(whole, given_holdout=True), "cpu")
    assert given.train.n_items == 1000 and given.held_out


def test_what_learns_from_a_meta_set_learns_from_training_items_where_it_can(
    plan: MakePlan, catalogue: Catalogue
) -> None:
    found = plan("dynamic_gap_lb", baselines=("mses",), selection="last")
    learned, mses = found.runs
    assert learned.spec.parts[0].params["upper"] == "train" and learned.label == "dynamic_gap_lb[upper=train]"
    whole = data_of(catalogue, learned.spec)
    kits = [Kit(catalogue, run.spec, whole, "cpu") for run in (learned, mses)]
    assert [(k.train.n_items, k.slice is None) for k in kits] == [(1500, True), (1300, False)]
    own = plan("dynamic_gap_lb", settings=(("dynamic_gap_lb.upper", "slice"),), selection="last").runs[0]
    assert own.spec.parts[0].params["upper"] == "slice"  # what the user has said stands
    assert plan("dynamic_gap_lb").runs[0].spec.parts[0].params["upper"] == "slice"


def test_teachers_see_the_same_items(plan: MakePlan) -> None:
    run = plan("umt", selection="last").runs[-1]
    assert run.teachers and all(t.spec.selection == "last" for t in run.teachers)


def test_what_chooses_on_holdout_is_refused(plan: MakePlan, catalogue: Catalogue) -> None:
    found = plan("concat", baselines=("refit",), selection="last")
    assert [(r.method, "chooses on the validation set" in r.reason) for r in found.refused] == [("refit", True)]
    for given in ({"tune": 2}, {"floor": True}):
        with pytest.raises(BadValue, match="on the validation set, and --selection last trains on it"):
            make_plan(BenchSpec("ogm", selection="last", **given), catalogue)  # type: ignore[arg-type]
    for key in ("train.choose_from", "mfeat.train.choose_from"):
        with pytest.raises(BadValue, match="selection last has none"):
            BenchSpec("ogm", selection="last", settings=((key, 0.5),))
    assert BenchSpec("ogm", selection="holdout", settings=(("train.choose_from", 0.5),)).settings


def test_tables_say_which_epochs_were_no_candidates(plan: MakePlan, catalogue: Catalogue, tmp_path: Path) -> None:
    row = run_one(plan("concat", settings=(("train.choose_from", 0.5),)).runs[0], catalogue, Store(tmp_path))
    assert row["metrics"]["selected_epoch"] >= row["spec"]["training"]["epochs"] // 2
    assert not any("last tenth" in words for words in row["still_improving"])
    assert "Epochs of the first 50 % of training are not selected." in selection_note([row])
    assert "are not selected" not in selection_note([{**row, "spec": {**row["spec"], "training": {}}}])


def test_tables_mark_it_and_nothing_is_compared_across(plan: MakePlan, catalogue: Catalogue, tmp_path: Path) -> None:
    store = Store(tmp_path)
    rows = [run_one(plan("concat", selection=s).runs[0], catalogue, store) for s in ("holdout", "last")]
    bench = {"methods": {}, "refused": []}
    for table in tables(rows[1:], bench, store, [v for v in VIEWS if v != "map"]):
        assert "(last epoch)" in " ".join([table.title, *table.header]), table.title
    overview = tables(rows, bench, store)[0]
    assert {"mfeat", "mfeat (last epoch)"} <= set(overview.header)
    assert any("without a validation set" in note for note in overview.notes)
    same_name: list[Any] = [{**row, "dataset": "mfeat"} for row in rows]
    assert any("another choice of the epoch" in note for note in separated(same_name)[1])


def test_plateau_watches_the_training_loss_where_there_is_no_holdout(plan: MakePlan, catalogue: Catalogue) -> None:
    settings = (("train.schedule", "plateau"), ("train.patience", 0), ("train.lr", 1e-12))
    spec = plan("concat", epochs=4, selection="last", settings=settings).runs[0].spec
    run = Kit(catalogue, spec, data_of(catalogue, spec), "cpu").run()
    watched: list[float] = []
    fit(run, None, choose=False, on_epoch=lambda record, _: watched.append(record["train"]["loss/task"]))
    shadow = torch.optim.SGD([torch.zeros(1)], lr=1e-12)
    expected = torch.optim.lr_scheduler.ReduceLROnPlateau(shadow, factor=0.1, patience=0, eps=0)
    for loss in watched:
        expected.step(loss)
    reached = run.state_dict()["schedule"]["scheduler"]
    assert (reached["best"], reached["num_bad_epochs"]) == (expected.best, expected.num_bad_epochs)
    assert reached["best"] == pytest.approx(min(watched), rel=1e-3)

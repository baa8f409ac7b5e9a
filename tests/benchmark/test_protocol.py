"""What a bench may ask for beside its rows: the peers' protocol, heads and overrides, weights, trackers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import result_files

from mmzoo.benchmark.execution.artifacts import weights_hash
from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.benchmark.planning.planned import Plan
from mmzoo.benchmark.reporting.details import detail_tables
from mmzoo.benchmark.results.store import Store
from mmzoo.config.grammar import parse_override
from mmzoo.config.spec import BenchSpec
from mmzoo.config.suites import read_suite
from mmzoo.errors import BadValue, MmzooError, UnknownName
from mmzoo.io.interrupts import Stop
from mmzoo.registry import BUILT_IN, Catalogue, built_in_path, read_entries
from mmzoo.trackers.base import Tracker

Command = Callable[..., Any]
MakePlan = Callable[..., Plan]


def lasting(row: dict[str, Any]) -> dict[str, Any]:
    """A row without clock and machine, and without what the peers' protocol adds."""
    return result_files.lasting(row) | {"metrics": {k: v for k, v in row["metrics"].items() if k != "peers"}}


# ---------------------------------------------------------------------- the peers' protocol
@pytest.mark.parametrize("method", ["ogm", "mses"])  # mses puts other weights in place when an epoch ends
def test_the_peers_protocol_changes_no_honest_number(
    method: str, plan: MakePlan, catalogue: Catalogue, tmp_path: Path
) -> None:
    honest, both = (plan(method, epochs=6, protocol=p).runs[0] for p in ("holdout", "peers"))
    assert honest.spec.run_id == both.spec.run_id
    plain = run_one(honest, catalogue, Store(tmp_path / "a"))
    row = run_one(both, catalogue, Store(tmp_path / "b"))
    assert lasting(plain) == lasting(row) and "peers" not in plain["metrics"]
    peers, metrics = row["metrics"]["peers"], row["metrics"]
    assert peers["protocol"] == "epoch chosen on test"
    assert peers["flatters"] == peers["acc"] - metrics["acc"] >= 0  # the honest epoch is among those it chooses from
    assert peers["acc"] >= metrics["last"]["acc"]
    # On one store the row without is not taken for the row with, which then replaces it and serves both.
    mixed = Store(tmp_path / "a")
    assert run_one(both, catalogue, mixed)["metrics"]["peers"] == peers
    assert run_one(honest, catalogue, mixed)["metrics"]["peers"] == peers
    table = detail_tables([row], {"methods": {}, "refused": []})[0]
    assert "test-set selection" in table.header and any("biased upwards" in n for n in table.notes)
    assert not any("test" in h for h in detail_tables([plain], {"methods": {}, "refused": []})[0].header)


def test_a_killed_run_under_the_peers_protocol_goes_on(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan("ogm", epochs=4, protocol="peers").runs[0]
    whole = run_one(planned, catalogue, Store(tmp_path / "whole"))

    class Killed(Stop):
        pass

    def kill(done: int, of: int) -> None:
        if done == 2:
            raise Killed

    for resumed in (planned, replace(planned, peers=False)):
        store = Store(tmp_path / f"killed{resumed.peers}")
        with pytest.raises(Killed):
            run_one(planned, catalogue, store, checkpoint_every=0.0, on_epoch=kill)
        epochs: list[int] = []
        row = run_one(resumed, catalogue, store, on_epoch=lambda done, of, epochs=epochs: epochs.append(done))
        assert lasting(row) == lasting(whole)
        # A checkpoint with test scores is not that of a run without: it starts anew.
        assert epochs == ([3, 4] if resumed.peers else [1, 2, 3, 4])
        assert row["metrics"].get("peers") == (whole["metrics"]["peers"] if resumed.peers else None)


def test_every_row_names_what_its_numbers_rest_on(results: Path) -> None:
    for row in Store(results).rows()[0]:
        assert set(row["hashes"]) == {"split", "recipe", "initial_weights", "weights", "batch_order", "predictions"}
        assert row["metrics"]["n_scored"] == row["metrics"]["n_total"]
        path = results / "runs" / row["run_id"] / "predictions.npz"
        assert len(set(np.load(path)["index"].tolist())) == row["metrics"]["n_total"]


# ---------------------------------------------------------------------- heads, overrides, suites
def test_heads_and_overrides_multiply_and_a_suite_says_the_same(catalogue: Catalogue, tmp_path: Path) -> None:
    overrides = (parse_override("train.lr=0.01"), parse_override("train.lr=0.05 ogm.alpha=0.5"))
    spec = BenchSpec(
        "ogm",
        ("pmr@sum",),
        seeds=(0,),
        heads=("concat", "sum"),
        overrides=overrides,
        references=False,
        protocol="peers",
        keep_weights=True,
    )
    plan = make_plan(spec, catalogue)
    assert sorted({(p.spec.head, p.spec.parts[0].strategy) for p in plan.runs}) == [
        ("concat", "ogm"),
        ("sum", "ogm"),
        ("sum", "pmr"),
    ]
    found = {(p.spec.training.lr, p.spec.parts[0].params["alpha"]) for p in plan.runs if p.method.startswith("ogm")}
    assert found == {(0.01, 0.3), (0.05, 0.5)} and len(plan.runs) == 6
    assert all(p.keep and p.peers for p in plan.runs)
    suite = tmp_path / "suite.yaml"
    suite.write_text("""
schema: 1
method: ogm
baselines: [pmr@sum]
heads: [concat, sum]
seeds: [0]
overrides: [{train.lr: 0.01}, {train.lr: 0.05, ogm.alpha: 0.5}]
references: false
protocol: peers
keep_weights: true
""")
    assert BenchSpec(**read_suite(suite, catalogue)) == spec


def test_a_suite_names_all_its_faults_and_runs_nothing(catalogue: Catalogue, tmp_path: Path) -> None:
    suite, marker = tmp_path / "suite.yaml", tmp_path / "ran"
    suite.write_text("method: ogm\nheads: [sun]\noverrides: [{train.lr: fast}, {ogm.alpa: 1}]\nprotocol: peer\n")
    with pytest.raises(BadValue, match="4 faults") as error:
        read_suite(suite, catalogue)
    for part in (
        "line 2",
        "'sun'",
        "overrides.0.train.lr",
        "overrides.1.ogm.alpa",
        "Did you mean 'alpha'",
        "Did you mean 'peers'",
    ):
        assert part in str(error.value)
    suite.write_text(f"method: !!python/object/apply:os.system ['touch {marker}']\n")
    with pytest.raises(BadValue, match="not valid YAML"):
        read_suite(suite, catalogue)
    assert not marker.exists()


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--selection", "best"], "no selection 'best'"),
        (["--heads", "sun"], "no head 'sun'"),
        (["--override", ""], "--override is empty"),
        (["--override", "ogm.alpha='"], "No closing quotation"),
        (["--track", "tensorbord"], "Did you mean 'tensorboard'"),
        (["--track", "tensorboard", "--track", "tensorboard"], "given twice"),
    ],
)
def test_bad_flags_are_one_message(refused: Command, tmp_path: Path, flags: list[str], said: str) -> None:
    assert said in refused("bench", "--method", "ogm", "--out", tmp_path / "r", *flags)


# ---------------------------------------------------------------------- trackers
class Spy(Tracker):
    """Keeps what it is told; raises where its target says."""

    told: list[tuple[str, Any]] = []  # noqa: RUF012

    def __init__(self, target: str | None, folder: Path, run: Any) -> None:
        self.target = target
        self._tell("start", run["run_id"])

    def epoch(self, record: Any) -> None:
        self._tell("epoch", record["epoch"])

    def end(self, row: Any) -> None:
        self._tell("end", row["status"])

    def _tell(self, what: str, value: Any) -> None:
        self.told.append((what, value))
        if what == self.target:
            raise RuntimeError(f"no {what}")


@pytest.fixture
def with_spy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Catalogue:
    """The catalogue with a tracker of a third party."""
    registry = tmp_path / "registry.yaml"
    registry.write_text("trackers:\n  spy: {path: 'test_protocol:Spy', summary: Keeps what it is told.}\n")
    monkeypatch.setattr(Spy, "told", [])
    monkeypatch.setitem(__import__("sys").modules, "test_protocol", __import__("sys").modules[__name__])
    return Catalogue([*read_entries(built_in_path(), BUILT_IN), *read_entries(registry, "spies")])


@pytest.mark.parametrize("fails", ["", "start", "epoch", "end"])
def test_a_tracker_is_told_and_its_failure_costs_nothing(
    fails: str, plan: MakePlan, with_spy: Catalogue, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = plan("ogm", epochs=2, track=(f"spy:{fails}".rstrip(":"),)).runs[0]
    row = run_one(planned, with_spy, Store(tmp_path / "tracked"))
    alone = run_one(replace(planned, track=()), with_spy, Store(tmp_path / "alone"))
    assert lasting(row) == lasting(alone) and row["status"] == "ok"
    every = [("start", row["run_id"]), ("epoch", 0), ("epoch", 1), ("end", "ok")]
    assert Spy.told == {"": every, "start": every[:1], "epoch": every[:2], "end": every}[fails]
    warned = capsys.readouterr().err
    assert warned == (
        f"mmzoo: warning: tracker spy:{fails} failed and is disabled for this run: RuntimeError: no {fails}\n"
        if fails
        else ""
    )


def test_a_run_that_diverges_ends_its_trackers_too(plan: MakePlan, with_spy: Catalogue, tmp_path: Path) -> None:
    planned = plan("ogm", settings=(("train.lr", 1e9),), epochs=2, track=("spy",)).runs[0]
    assert run_one(planned, with_spy, Store(tmp_path))["status"] == "diverged"
    assert Spy.told[-1] == ("end", "diverged")


def test_tensorboard_holds_what_the_record_holds(mmzoo: Command, tmp_path: Path) -> None:
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    out = tmp_path / "results"
    done = mmzoo(
        "bench",
        "--method",
        "ogm",
        "--no-references",
        "--seeds",
        "1",
        "--epochs",
        "2",
        "--out",
        out,
        "--device",
        "cpu",
        "--set",
        "ogm.alpha=0.5",
        "--track",
        "tensorboard",
    )
    assert done.code == 0 and done.err == ""
    (row,), _ = Store(out).rows()
    (folder,) = {p.parent for p in out.rglob("events.out.tfevents.*")}
    assert folder == out / "tensorboard" / "mfeat" / "ogm_alpha=0_5_" / f"seed0-{row['run_id']}"
    events = reading.EventAccumulator(str(folder)).Reload()
    history = [json.loads(s) for s in (out / "runs" / row["run_id"] / "history.jsonl").read_text().splitlines()]
    for name, of in (
        ("train/loss/task", lambda r: r["train"]["loss/task"]),
        ("holdout/acc", lambda r: r["holdout"]["acc"]),
    ):
        told = [(e.step, e.value) for e in events.Scalars(name)]
        assert told == [(r["epoch"], pytest.approx(of(r), rel=1e-6)) for r in history]
    (test,) = events.Scalars("test/acc")
    assert (test.step, test.value) == (row["metrics"]["selected_epoch"], pytest.approx(row["metrics"]["acc"]))


def test_a_tracker_that_is_not_installed_is_refused_before_anything_runs(
    refused: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mmzoo.trackers.tensorboard", None)
    said = refused("bench", "--method", "ogm", "--track", "tensorboard", "--out", tmp_path / "r")
    assert "pip install 'mmzoo[track]'" in said and not list((tmp_path / "r").glob("runs/*"))


# ---------------------------------------------------------------------- weights
def test_kept_weights_are_those_that_were_scored(plan: MakePlan, catalogue: Catalogue, tmp_path: Path) -> None:
    from safetensors import safe_open

    store = Store(tmp_path)
    first = run_one(plan("gblend").runs[0], catalogue, store)
    planned = plan("gblend", keep_weights=True).runs[0]
    assert planned.spec.run_id == first["run_id"] and not list(tmp_path.rglob("*.safetensors"))
    row = run_one(planned, catalogue, store)
    assert row["hashes"].keys() - first["hashes"].keys() == {"strategy", "inputs"} and lasting(row) == lasting(first)
    with safe_open(next(tmp_path.rglob("*.safetensors")), "pt") as file:
        order = json.loads(file.metadata()["order"])
        tensors = {name: file.get_tensor(name) for name in order}
    assert weights_hash(tensors) == row["hashes"]["weights"]
    assert any(name.startswith("extra.") for name in tensors)
    torch.load(next(tmp_path.rglob("strategy.pt")), weights_only=True)


def test_unknown_trackers_in_a_plan_raise(with_spy: Catalogue) -> None:
    from mmzoo.trackers.base import check_trackers

    check_trackers(with_spy, ["spy:anything"])
    with pytest.raises(UnknownName, match="Did you mean 'spy'"):
        check_trackers(with_spy, ["spi"])
    with pytest.raises(MmzooError):
        check_trackers(with_spy, ["spy", "spy"])

"""The bench from plan to rows: what is kept, what is repeated, and what a row depends on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.result_files import contents, lasting, rows_of

from mmzoo.benchmark.execution import runner
from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.planning.planned import Plan, Planned
from mmzoo.benchmark.results.store import Store
from mmzoo.cli import main
from mmzoo.registry import Catalogue

Command = Callable[..., Any]
MakePlan = Callable[..., Plan]
SMALL = ("--seeds", "1", "--epochs", "1", "--device", "cpu")


# ---------------------------------------------------------------------- the rows of a bench
def test_a_bench_leaves_one_complete_row_a_run(results: Path) -> None:
    rows = rows_of(results)
    assert sorted(r["label"] for r in rows.values()) == [
        "concat",
        "concat (without meta set)",
        "dynamic_gap_lb",
        "joint_unimodal",
        "joint_unimodal (without meta set)",
        "ogm",
        "pmr",
        "unimodal: fou",
        "unimodal: zer",
    ]
    for run_id, row in rows.items():
        assert (results / "runs" / run_id / "result.json").exists()
        assert row["status"] == "ok" and row["reason"] == "" and row["dataset"] == "mfeat" and row["seed"] == 0
        assert row["metrics"]["n_scored"] == row["metrics"]["n_total"] == 500
        assert set(row["metrics"]["modalities"]) == set(row["spec"]["encoders"])
        assert set(row["timing"]) == {"seconds", "seconds_total", "finished"} and row["environment"]["device"] == "cpu"
        folder = results / "runs" / run_id
        assert sorted(p.name for p in folder.iterdir()) == [
            "history.jsonl",
            "log.txt",
            "planned.json",
            "predictions.npz",
            "result.json",
        ]
    assert len({json.dumps(r["hashes"]["split"]) for r in rows.values()}) == 1
    joint = [r for r in rows.values() if r["modality"] is None]
    # The methods start from the same weights and see the same batches; those that spare the slice, among themselves.
    assert len({r["hashes"]["initial_weights"] for r in joint}) == 1
    orders = {(r["cost"]["train_items"], r["hashes"]["batch_order"]) for r in joint}
    assert {n for n, _ in orders} == {800, 1000} and len(orders) == 2
    assert {r["label"] for r in joint if r["cost"]["train_items"] == 800} == {
        "dynamic_gap_lb",
        "concat (without meta set)",
        "joint_unimodal (without meta set)",
    }


def test_the_predictions_give_back_the_scores(results: Path) -> None:
    for run_id, row in rows_of(results).items():
        kept = np.load(results / "runs" / run_id / "predictions.npz")
        assert len(kept["index"]) == 500
        accuracy = float((kept["scores"].argmax(1) == kept["target"]).mean())
        assert accuracy == pytest.approx(row["metrics"]["acc"], abs=1e-9)
        for m, scores in row["metrics"]["modalities"].items():
            own = float((kept[f"unimodal.{m}"].argmax(1) == kept["target"]).mean())
            assert own == pytest.approx(scores["own"]["acc"], abs=1e-9)


def test_the_same_bench_in_two_folders_gives_the_same_rows(results: Path, tmp_path: Path) -> None:
    assert (
        main(
            [
                "bench",
                "--method",
                "dynamic_gap_lb",
                "--baselines",
                "ogm,pmr",
                "--no-references",
                *SMALL,
                "--out",
                str(tmp_path),
            ]
        )
        == 0
    )
    first, second = rows_of(results), rows_of(tmp_path)
    assert len(second) == 3
    for run_id, row in second.items():
        assert lasting(row) == lasting(first[run_id])
        for name in ("history.jsonl", "predictions.npz"):
            assert (tmp_path / "runs" / run_id / name).read_bytes() == (results / "runs" / run_id / name).read_bytes()


def test_what_is_there_is_not_run_again(copied: Path, mmzoo: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(copied / "runs")
    monkeypatch.setattr(runner, "run_one", None)  # calling it would fail
    arguments = ("bench", "--method", "dynamic_gap_lb", "--baselines", "ogm,pmr", *SMALL, "--out", copied)
    done = mmzoo(*arguments)
    assert done.code == 0 and "there already: 9, to do: 0" in done.out and "| dynamic_gap_lb " in done.out
    assert contents(copied / "runs") == before


def test_only_what_is_missing_is_run(copied: Path, mmzoo: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(copied / "runs")
    gone = next(i for i, r in rows_of(copied).items() if r["label"] == "ogm")
    shutil.rmtree(copied / "runs" / gone)
    done = mmzoo("bench", "--method", "dynamic_gap_lb", "--baselines", "ogm,pmr", *SMALL, "--out", copied)
    assert done.code == 0 and "there already: 8, to do: 1" in done.out and "[1/1] mfeat ogm seed 0: " in done.out
    after = contents(copied / "runs")
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed <= {f"{gone}/result.json", f"{gone}/log.txt"} and after.keys() == before.keys()
    assert lasting(json.loads(after[f"{gone}/result.json"])) == lasting(json.loads(before[f"{gone}/result.json"]))


def test_ctrl_c_keeps_every_finished_row(mmzoo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, real = [], run_one

    def second_is_interrupted(planned: Planned, *args: Any, **kwargs: Any) -> Any:
        calls.append(planned.label)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(planned, *args, **kwargs)

    monkeypatch.setattr(runner, "run_one", second_is_interrupted)
    arguments = ("bench", "--method", "ogm", "--baselines", "concat", "--no-references", *SMALL, "--out", tmp_path)
    stopped = mmzoo(*arguments)
    assert stopped.code == 130 and calls == ["ogm", "concat"]
    assert f"All finished rows are kept in {tmp_path}" in stopped.err and "Traceback" not in stopped.err
    kept = contents(tmp_path / "runs")
    assert [r["label"] for r in rows_of(tmp_path).values()] == ["ogm"]
    assert mmzoo("report", tmp_path, "--format", "json").code == 0
    monkeypatch.setattr(runner, "run_one", real)
    resumed = mmzoo(*arguments)
    assert resumed.code == 0 and "there already: 1, to do: 1" in resumed.out
    assert {k: v for k, v in contents(tmp_path / "runs").items() if k in kept} == kept
    assert len(rows_of(tmp_path)) == 2


# ---------------------------------------------------------------------- resume
@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("dynamic_gap_lb", (("dynamic_gap_lb.iterations", 2),)),
        ("ogm_ge+pmr", ()),
        ("pmr:50%-", ()),
        ("concat", (("train.schedule", "plateau"), ("train.optimizer", "adam"), ("mlp.dropout", 0.5))),
    ],
)
def test_a_run_that_was_interrupted_ends_as_if_it_had_not(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, method: str, settings: tuple[tuple[str, Any], ...]
) -> None:
    (planned,) = plan(method, epochs=3, settings=settings).runs
    straight = run_one(planned, catalogue, Store(tmp_path / "straight"))
    store = Store(tmp_path / "broken")
    for stop in (1, 2):

        def interrupt(done: int, of: int, stop: int = stop) -> None:
            if done == stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_one(planned, catalogue, store, checkpoint_every=0, on_epoch=interrupt)
        assert store.row(planned.spec.run_id) is None
        assert (store.folder(planned.spec.run_id) / "checkpoint.pt").exists()
    seen: list[int] = []
    resumed = run_one(planned, catalogue, store, checkpoint_every=0, on_epoch=lambda done, of: seen.append(done))
    assert seen == [3] and lasting(resumed) == lasting(straight) and straight["status"] == "ok"
    folders = [s.folder(planned.spec.run_id) for s in (Store(tmp_path / "straight"), store)]
    for name in ("history.jsonl", "predictions.npz"):
        assert folders[0].joinpath(name).read_bytes() == folders[1].joinpath(name).read_bytes()
    assert not (folders[1] / "checkpoint.pt").exists()


@pytest.mark.parametrize("spoil", ["garbage", "cut", "other"])
def test_a_checkpoint_that_cannot_be_used_is_set_aside(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, spoil: str
) -> None:
    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    (planned,), (other,) = plan("concat", epochs=2).runs, plan("sum", epochs=2).runs
    store = Store(tmp_path)
    for p in (planned, other):
        with pytest.raises(KeyboardInterrupt):
            run_one(p, catalogue, store, checkpoint_every=0, on_epoch=interrupt)
    folder = store.folder(planned.spec.run_id)
    saved = (folder / "checkpoint.pt").read_bytes()
    theirs = (store.folder(other.spec.run_id) / "checkpoint.pt").read_bytes()
    (folder / "checkpoint.pt").write_bytes({"garbage": b"no", "cut": saved[: len(saved) // 2], "other": theirs}[spoil])
    row = run_one(planned, catalogue, store)
    assert row["status"] == "ok" and row["metrics"]["epochs"] == 2
    assert "starting from epoch 0" in (folder / "log.txt").read_text()
    assert (folder / "checkpoint.unreadable").exists()


def test_a_finished_run_is_handed_back_as_it_is(results: Path, plan: MakePlan, catalogue: Catalogue) -> None:
    (planned,) = plan("ogm").runs
    before = contents(results)
    assert run_one(planned, catalogue, Store(results)) == rows_of(results)[planned.spec.run_id]
    assert contents(results) == before


def test_warnings_of_a_run_reach_its_row_and_the_table(tmp_path: Path, mmzoo: Command) -> None:
    done = mmzoo(
        "bench",
        "--method",
        "dynamic_gap_lb",
        "--no-references",
        *SMALL,
        "--out",
        tmp_path,
        "--set",
        "dynamic_gap_lb.iterations=1",
        "--set",
        "dynamic_gap_lb.fallback=null",
    )
    (row,) = rows_of(tmp_path).values()
    assert row["warnings"]["the solve for alpha did not converge: alpha is unchanged"] == 1
    assert row["record"]["dynamic_gap/alpha"] == {"first": 0.5, "last": 0.5}
    assert "the solve for alpha did not converge: alpha is unchanged" in done.out

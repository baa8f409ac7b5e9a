"""The bench from plan to rows: what is kept, what is repeated, and what a row depends on."""

from __future__ import annotations

import errno
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from result_files import contents, lasting, rows_of

from mmzoo.benchmark.execution import building, runner, session
from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.planning.planned import Plan, Planned
from mmzoo.benchmark.results.store import Store
from mmzoo.cli import main
from mmzoo.errors import CorruptFile, MmzooError
from mmzoo.registry import Catalogue
from mmzoo.training.strategy import Strategy

Command = Callable[..., Any]
MakePlan = Callable[..., Plan]
SMALL = ("--seeds", "1", "--epochs", "1", "--device", "cpu")


@pytest.fixture
def copied(results: Path, tmp_path: Path) -> Path:
    """A copy of the small bench that a test may spoil."""
    return Path(shutil.copytree(results, tmp_path / "results"))


# ---------------------------------------------------------------------- the rows of a bench
def test_a_bench_leaves_one_complete_row_a_run(results: Path) -> None:
    rows = rows_of(results)
    assert sorted(r["label"] for r in rows.values()) == [
        "concat",
        "concat (slice spared)",
        "dynamic_gap_lb",
        "joint_unimodal",
        "joint_unimodal (slice spared)",
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
        "concat (slice spared)",
        "joint_unimodal (slice spared)",
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


# ---------------------------------------------------------------------- runs that do not end well
def test_a_run_that_diverges_says_so_and_is_final(mmzoo: Command, tmp_path: Path) -> None:
    arguments = (
        "bench",
        "--method",
        "concat",
        "--no-references",
        *SMALL,
        "--set",
        "train.lr=1000000000.0",
        "--set",
        "train.momentum=1000000000.0",
        "--out",
        tmp_path,
    )
    done = mmzoo(*arguments)
    assert done.code == 0
    (row,) = rows_of(tmp_path).values()
    assert row["status"] == "diverged" and row["metrics"] == {} and "epoch 0: loss/task is" in row["reason"]
    assert "diverged: epoch 0" in done.out and "A smaller learning rate" in done.out
    assert "there already: 1, to do: 0" in mmzoo(*arguments).out
    for form in ("md", "csv", "json", "latex"):
        assert mmzoo("report", tmp_path, "--format", form).code == 0


def test_scores_that_are_not_finite_make_a_diverged_run(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmzoo.evaluation.scores.gap", lambda scores: float("nan"))
    (planned,) = plan("concat").runs
    row = run_one(planned, catalogue, Store(tmp_path))
    assert row["status"] == "diverged" and row["reason"] == "test gap own is nan"
    assert rows_of(tmp_path) == {planned.spec.run_id: row}


def test_a_run_that_fails_is_logged_and_tried_again(
    mmzoo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise RuntimeError("out of <paper> | ink")

    arguments = ("bench", "--method", "ogm", "--baselines", "concat", "--no-references", *SMALL, "--out", tmp_path)
    real = building.build_strategy
    monkeypatch.setattr(
        building, "build_strategy", lambda c, parts: fail() if parts[0].strategy == "ogm" else real(c, parts)
    )
    done = mmzoo(*arguments)
    assert done.code == 1 and "1 run failed" in done.err and "Traceback" not in done.err
    failed = next(r for r in rows_of(tmp_path).values() if r["label"] == "ogm")
    assert failed["status"] == "failed" and re.fullmatch(
        r"RuntimeError: out of <paper> \| ink \(tests/test_bench\.py:\d+\)", failed["reason"]
    )
    assert "Traceback" in (tmp_path / "runs" / failed["run_id"] / "log.txt").read_text()
    assert r"out of &lt;paper&gt; \| ink" in done.out
    monkeypatch.setattr(building, "build_strategy", real)
    again = mmzoo(*arguments)
    assert again.code == 0 and "there already: 1, to do: 1" in again.out
    assert {r["status"] for r in rows_of(tmp_path).values()} == {"ok"}


def test_what_only_the_class_knows_makes_a_refused_row(
    mmzoo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Choosy(Strategy):
        min_modalities = 3

    monkeypatch.setattr(building, "build_strategy", lambda catalogue, parts: Choosy())
    arguments = ("bench", "--method", "concat", "--no-references", *SMALL, "--out", tmp_path)
    done = mmzoo(*arguments)
    (row,) = rows_of(tmp_path).values()
    assert done.code == 0 and row["status"] == "refused" and row["metrics"] == {}
    assert row["reason"].startswith("Choosy needs at least 3 modalities") and row["reason"] in done.out
    monkeypatch.undo()
    assert "there already: 1, to do: 0" in mmzoo(*arguments).out
    monkeypatch.setattr("mmzoo.benchmark.results.store.__version__", "99")  # another version, which takes it
    assert "there already" not in mmzoo(*arguments).out
    assert {r["status"] for r in rows_of(tmp_path).values()} == {"ok"}


def test_a_disk_that_is_full_stops_with_the_rows_kept(
    copied: Path, mmzoo: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = contents(copied / "runs")
    monkeypatch.setattr("mmzoo.benchmark.results.store.write_json", full)
    monkeypatch.setattr(session.Session, "train_and_score", lambda self: {})
    done = mmzoo("bench", "--method", "sum", "--no-references", *SMALL, "--out", copied)
    assert done.code == 2 and "No space left on device" in done.err and "All finished rows are kept" in done.err
    assert "Traceback" not in done.err and contents(copied / "runs") == before


# ---------------------------------------------------------------------- the folder of results
def spoiled(row: dict[str, Any]) -> dict[str, bytes]:
    """A row in many kinds of brokenness, and in each case a part of the message."""

    def with_value(value: Any, *path: str) -> bytes:
        changed = json.loads(json.dumps(row))
        inner = changed
        for key in path[:-1]:
            inner = inner[key]
        if value is KeyError:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        return json.dumps(changed).encode()

    whole = json.dumps(row).encode()
    return {
        "not JSON": whole[: len(whole) // 2],
        "not JSON (Expecting value, line 1)": b"",
        "not UTF-8": b"\xff\xfe{}",
        "not a JSON object": b"[1]",
        "not JSON (NaN is no": with_value(float("nan"), "metrics", "acc"),
        "not JSON (Exceeds": b'{"schema": ' + b"9" * 5000 + b"}",
        "not JSON (maximum": b"[" * 200_000,
        "schema 2, while": with_value(2, "schema"),
        "schema is missing": with_value(KeyError, "schema"),
        "it says run_id '0123'": with_value("0123", "run_id"),
        "seed is not a whole": with_value("0", "seed"),
        "seed is missing": with_value(KeyError, "seed"),
        "status 'fine' is none": with_value("fine", "status"),
        "metrics is not an object": with_value([], "metrics"),
        "metrics.acc is not a finite number": with_value("1", "metrics", "acc"),
        "metrics.map is missing": with_value(KeyError, "metrics", "map"),
        "metrics.last is not an object": with_value(3, "metrics", "last"),
        "metrics.gap.own is missing": with_value({}, "metrics", "gap"),
        "metrics.main_metric '<b>' is none": with_value("<b>", "metrics", "main_metric"),
        "metrics.n_scored is 0": with_value(0, "metrics", "n_scored"),
        "metrics.modalities.m.own is missing": with_value({"m": {}}, "metrics", "modalities"),
        "cost.forward is missing": with_value({}, "cost"),
        "timing.seconds is not": with_value("long", "timing", "seconds"),
        "spec.training.lr is missing": with_value({"optimizer": "sgd"}, "spec", "training"),
        "spec.parts.0.strategy is missing": with_value([{}], "spec", "parts"),
        "spec.parts.0 is not an object": with_value([1], "spec", "parts"),
        "modality is not a text or null": with_value(3, "modality"),
        "reason is missing": with_value(KeyError, "reason"),
        "label is not a text": with_value(None, "label"),
    }


def test_a_row_that_cannot_be_used_is_named_and_the_others_stay(copied: Path, mmzoo: Command) -> None:
    victim = next(r for r in rows_of(copied).values() if r["label"] == "ogm")
    path = copied / "runs" / victim["run_id"] / "result.json"
    bench = ("bench", "--method", "ogm", "--no-references", *SMALL, "--out", copied)
    for part, data in spoiled(victim).items():
        path.write_bytes(data)
        before = contents(copied)
        with pytest.raises(CorruptFile) as caught:
            Store(copied).row(victim["run_id"])
        message = str(caught.value)
        assert part in message and str(path) in message and f"Move the folder {victim['run_id']} away" in message
        done = mmzoo("report", copied, "--format", "json")
        assert done.code == 2 and message in done.err and len(json.loads(done.out)["rows"]) == 8, part
        stopped = mmzoo(*bench)
        assert stopped.code == 2 and stopped.err == f"mmzoo: {message}\n"
        assert contents(copied) == before, part
    (copied / "runs" / victim["run_id"]).rename(copied / "away")
    assert mmzoo(*bench).code == 0
    assert lasting(rows_of(copied)[victim["run_id"]]) == lasting(victim)


def test_a_row_in_the_folder_of_another_run_is_not_taken(copied: Path) -> None:
    one, other = sorted(rows_of(copied))[:2]
    shutil.copy(copied / "runs" / one / "result.json", copied / "runs" / other / "result.json")
    rows, errors = Store(copied).rows()
    assert len(rows) == 8 and len(errors) == 1
    assert f"it says run_id '{one}', but is in the folder of {other}" in str(errors[0])


def test_a_result_that_is_a_folder_is_named(copied: Path) -> None:
    run_id = sorted(rows_of(copied))[0]
    path = copied / "runs" / run_id / "result.json"
    path.unlink()
    path.mkdir()
    with pytest.raises(CorruptFile, match="Is a directory"):
        Store(copied).row(run_id)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"methods": 3, "refused": []}', '{"methods": [[1, 2, 3]]}', "\xff", "[" * 200_000]
)
def test_the_note_of_the_last_bench_may_be_lost(copied: Path, mmzoo: Command, text: str) -> None:
    (copied / "bench.json").write_text(text, encoding="latin-1")
    assert Store(copied).bench() == {"methods": {}, "refused": []}
    assert "| dynamic_gap_lb " in mmzoo("report", copied).out


def test_writing_a_row_leaves_the_old_one_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.write({"run_id": "r", "a": 1})
    before = contents(tmp_path)

    def fail(*args: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("mmzoo.io.files.os.replace", fail)
    with pytest.raises(MmzooError, match="Input/output error"):
        store.write({"run_id": "r", "a": 2})
    assert contents(tmp_path) == before  # no temporary file stays either


# ---------------------------------------------------------------------- what a plan refuses and adds
@pytest.mark.parametrize(
    ("method", "epochs", "message"),
    [
        ("ogm:100-200", 3, "never opens in 3 epochs"),
        ("ogm:50%-10", 30, "never opens in 30 epochs"),
        ("ogm+ogm", 3, "ogm would act twice"),
        ("ogm:0-2+ogm_ge:2-", 6, "ogm would act twice"),
    ],
)
def test_a_window_that_cannot_act_or_acts_twice_is_refused(
    method: str, epochs: int, message: str, mmzoo: Command
) -> None:
    done = mmzoo("bench", "--method", method, "--epochs", str(epochs), "--plan")
    assert done.code == 2 and message in done.err


def test_two_windows_of_one_strategy_may_follow_each_other(mmzoo: Command) -> None:
    assert mmzoo("bench", "--method", "ogm:0-2+ogm_ge:3-", "--epochs", "6", "--plan").code == 0


def test_references_that_spare_the_slice_come_with_a_method_that_uses_it(mmzoo: Command) -> None:
    assert "slice spared" in mmzoo("bench", "--method", "dynamic_gap_lb", "--plan").out
    assert "slice spared" not in mmzoo("bench", "--method", "dynamic_gap_h", "--plan").out


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
        "dynamic_gap_lb.damping=0",
        "--set",
        "dynamic_gap_lb.solver=hessian",
    )
    (row,) = rows_of(tmp_path).values()
    assert row["warnings"] == {"the solve for alpha did not converge, and alpha was left alone": 1}
    assert row["record"]["dynamic_gap/alpha"] == {"first": 0.5, "last": 0.5}
    assert "alpha was left alone; times: 1 (seed 0)" in done.out

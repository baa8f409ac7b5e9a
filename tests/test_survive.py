"""What goes wrong around a run, and what is left of it: workers killed, memory, disks, files from strangers."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import result_files
import torch
from result_files import lasting, rewrite

from mmzoo.benchmark.execution import building, memory, session
from mmzoo.benchmark.execution.checkpoint import sealed, unsealed
from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.planning.plan import Plan, Planned, planned_runs
from mmzoo.benchmark.results import leases
from mmzoo.benchmark.results.leases import Claimed, read_claim
from mmzoo.benchmark.results.store import Store
from mmzoo.benchmark.scheduling.launchers import launch, local
from mmzoo.benchmark.scheduling.worker_loop import Order, Progress
from mmzoo.config.spec import RunSpec
from mmzoo.core.model import MultimodalModel
from mmzoo.errors import BadValue, CorruptFile, MmzooError
from mmzoo.registry import Catalogue

Command = Callable[..., Any]
MakePlan = Callable[..., Plan]
ROOT = Path(__file__).resolve().parent.parent
SMALL = ("--seeds", "1", "--epochs", "1", "--device", "cpu")


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {run: lasting(row) for run, row in result_files.rows_of(folder).items()}


def stop_after(epochs: int) -> Callable[[int, int], None]:
    def stop(done: int, of: int) -> None:
        if done == epochs:
            raise KeyboardInterrupt

    return stop


# ---------------------------------------------------------------------- worker processes
class Killing(Progress):
    """Kills the worker that is at a run, once, when the first row is there."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store, self.killed, self.rows = store, 0, 0

    def settled(self, planned: Planned, row: dict[str, Any]) -> None:
        self.rows += 1

    def epoch(self, planned: Planned, done: int) -> None:
        held = read_claim(self.store.folder(planned.spec.run_id))
        if self.rows and not self.killed and held is not None and held.alive and held.pid != os.getpid():
            self.killed = held.pid
            os.kill(held.pid, signal.SIGKILL)


def test_a_worker_that_is_killed_costs_no_row(results: Path, tmp_path: Path, plan: MakePlan) -> None:
    """Two processes, one of them killed at a run, give the rows of one process to the bit."""
    runs = plan("dynamic_gap_lb", baselines=("ogm", "pmr"), references=True).runs
    store = Store(tmp_path)
    progress = Killing(store)
    launch(Order.of(runs, store, device="cpu", checkpoint_every=0), store, progress, workers=2)
    assert progress.killed and progress.rows == len(runs) and progress.unsaved == {}
    assert rows_of(tmp_path) == rows_of(results)
    logs = "".join(p.read_text() for p in tmp_path.glob("runs/*/log.txt"))
    assert logs.count("ends: ok") == len(runs) and f"taken over from process {progress.killed} on" in logs
    assert not [*tmp_path.rglob("claim.*"), *tmp_path.rglob("*.tmp")]


def _mind_ctrl_c() -> None:
    """A shell starts what it runs in the background deaf to Ctrl-C, and so would tests that are run there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_bench(tmp_path: Path, sign: signal.Signals) -> None:
    command = [
        sys.executable,
        "-m",
        "mmzoo",
        "bench",
        "--method",
        "concat",
        "--no-references",
        "--seeds",
        "4",
        "--epochs",
        "400",
        "--device",
        "cpu",
        "--workers",
        "2",
        "--out",
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, preexec_fn=_mind_ctrl_c
    )
    at_work: dict[str, Any] = {}
    until = time.monotonic() + 240
    while len(at_work) < 2 and time.monotonic() < until and process.poll() is None:
        found = {i: read_claim(Store(tmp_path).folder(i)) for i in Store(tmp_path).run_ids()}
        at_work = {k: held for k, held in found.items() if held is not None and held.alive and held.of}
        time.sleep(0.1)
    process.send_signal(sign)
    out, err = process.communicate(timeout=120)
    assert len(at_work) == 2, out + err
    while any(leases.start_of(h.pid) for h in at_work.values()) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(leases.start_of(h.pid) for h in at_work.values())
    # Told to stop, they let go: the next bench need not wait, and this counts as nobody's death.
    assert all((held := read_claim(tmp_path / "runs" / k)) and held.released for k in at_work)
    if sign == signal.SIGINT:
        assert process.returncode == 130 and "All finished rows are kept" in err and "Traceback" not in err


def test_what_stops_a_worker_from_starting_is_told(
    tmp_path: Path, plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    order = Order.of(plan("concat").runs, store, device="cpu", checkpoint_every=0)
    monkeypatch.setattr(local, "_environment", lambda: {**os.environ, "PYTHONPATH": str(tmp_path)})
    (tmp_path / "mmzoo").mkdir()
    (tmp_path / "mmzoo" / "__init__.py").write_text("raise RuntimeError('half an installation')")
    with pytest.raises(MmzooError, match="half an installation"):
        launch(order, store, Progress(), workers=2)


def test_how_many_workers_there_are_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert [local.default_workers(n) for n in (1, 4, 60)] == [1, 4, 6]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert local.default_workers(60) == 2
    monkeypatch.setattr(local, "cores", lambda: 200)
    assert local.default_workers(60) == local.MOST


def test_large_models_are_left_to_one_worker(
    tmp_path: Path, plan: MakePlan, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from mmzoo.benchmark.scheduling.worker_loop import work

    store = Store(tmp_path)
    order = replace(Order.of(plan("concat").runs, store, device="cpu", checkpoint_every=0), small_only=True)
    monkeypatch.setattr(building, "SMALL", 10)
    assert work(order, store, catalogue) == {} and rows_of(tmp_path) == {}
    monkeypatch.undo()
    assert work(order, store, catalogue) == {} and len(rows_of(tmp_path)) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--launcher", "rey"), "Did you mean 'ray'?"),
        (("--workers", "0"), "--workers must be a whole number from 1"),
        (("--workers", "many"), "--workers must be"),
        (("--checkpoint-every", "-1"), "--checkpoint-every must be"),
        (("--checkpoint-every", "nan"), "--checkpoint-every must be"),
        (("--launcher-arg", "x=1"), "local takes no"),
    ],
)
def test_what_cannot_be_launched_is_refused(
    refused: Callable[..., str], tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    message = refused("bench", "--method", "concat", *SMALL, "--out", tmp_path / "out", *arguments)
    assert says in message and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("launcher", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_launcher_that_is_not_installed_says_how_to(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str, package: str
) -> None:
    real = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else real(name))
    message = refused("bench", "--method", "concat", *SMALL, "--out", tmp_path, "--launcher", launcher)
    assert f"pip install 'mmzoo[{launcher}]'" in message and package in message


def test_jobs_of_submitit_give_the_same_rows(results: Path, tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="needs submitit: pip install 'mmzoo[slurm]'")
    command = [
        sys.executable,
        "-m",
        "mmzoo",
        "bench",
        "--method",
        "ogm",
        "--no-references",
        *SMALL,
        "--launcher",
        "slurm",
        "--launcher-arg",
        "cluster=local",
        "--workers",
        "1",
        "--out",
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MMZOO_PLUGINS": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    ours, theirs = rows_of(tmp_path), rows_of(results)
    assert len(ours) == 1 and all(theirs[k] == row for k, row in ours.items())


def test_an_option_that_submitit_does_not_know_is_refused(refused: Callable[..., str], tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="needs submitit: pip install 'mmzoo[slurm]'")
    arguments = ("bench", "--method", "ogm", *SMALL, "--out", tmp_path, "--launcher", "slurm", "--launcher-arg")
    assert "one of slurm, local, debug" in refused(*arguments, "cluster=cloud")
    message = refused(*arguments, "cluster=local", "--launcher-arg", "slurm_partitoin=gpu")
    assert "slurm_partitoin" in message and "AutoExecutor" in message


# ---------------------------------------------------------------------- two at once
def test_a_run_that_another_is_at_is_left_alone(plan: MakePlan, catalogue: Catalogue, tmp_path: Path) -> None:
    (planned,) = plan("concat").runs
    store = Store(tmp_path)
    with leases.claim(store.folder(planned.spec.run_id)):
        with pytest.raises(Claimed):
            run_one(planned, catalogue, store)
        assert store.row(planned.spec.run_id) is None
    assert run_one(planned, catalogue, store)["status"] == "ok"


def test_a_student_waits_for_a_teacher_that_another_is_at(plan: MakePlan, catalogue: Catalogue, tmp_path: Path) -> None:
    student = next(p for p in plan("umt").runs if p.teachers)
    store = Store(tmp_path)
    with leases.claim(store.folder(student.teachers[1].spec.run_id)), pytest.raises(Claimed):
        run_one(student, catalogue, store)
    assert store.row(student.spec.run_id) is None
    assert not (held := read_claim(store.folder(student.spec.run_id))) or not held.alive


def test_a_row_that_came_between_two_looks_is_taken(
    results: Path, plan: MakePlan, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    (planned,) = plan("ogm").runs
    store, run_id = Store(tmp_path), planned.spec.run_id
    real = leases.claim

    def late(folder: Path, bench: str) -> Any:
        shutil.copytree(results / "runs" / run_id, folder)  # another has just ended it
        return real(folder, bench)

    monkeypatch.setattr(leases, "claim", late)
    monkeypatch.setattr(building, "build_model", None)
    assert run_one(planned, catalogue, store) == Store(results).row(run_id)
    assert not list(store.folder(run_id).glob("claim.*"))


def test_a_run_that_takes_processes_down_with_it_becomes_a_row(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path
) -> None:
    (planned,) = plan("concat").runs
    store = Store(tmp_path)
    folder = store.folder(planned.spec.run_id)
    folder.mkdir(parents=True)
    facts = {"place": leases.here(), "pid": 2**22 + 1, "started": "1", "bench": "b", "deaths": 2}
    (folder / "claim.3").write_text(json.dumps(facts))
    row = run_one(planned, catalogue, store, bench="b")
    assert row["status"] == "failed" and "3 processes in a row were killed" in row["reason"]
    assert run_one(planned, catalogue, store, bench="the next")["status"] == "ok"


# ---------------------------------------------------------------------- memory
def small_machine(monkeypatch: pytest.MonkeyPatch, most: int, error: Callable[[], Exception]) -> None:
    """Encoding more than `most` items in training fails as an allocator would."""
    real = MultimodalModel.encode

    def encode(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if self.training and max(len(x) for x in inputs.values()) > most:
            raise error()
        return real(self, inputs, *args, **kwargs)

    monkeypatch.setattr(MultimodalModel, "encode", encode)


OUT = {
    "gpu": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "cpu": lambda: RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
    "numpy": lambda: MemoryError("Unable to allocate 3 GiB"),
}


@pytest.mark.parametrize("where", OUT)
def test_memory_that_runs_out_costs_a_smaller_micro_batch(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    first, second = plan("concat", baselines=("joint_unimodal",)).runs
    with monkeypatch.context() as patch:
        small_machine(patch, 20, OUT[where])
        store = Store(tmp_path / "small")
        row = run_one(first, catalogue, store)
        seen = []
        real = session.Session._smaller
        patch.setattr(session.Session, "_smaller", lambda *a: seen.append(a) or real(*a))
        other = run_one(second, catalogue, store)
    assert row["status"] == other["status"] == "ok" and row["micro_batch"] == other["micro_batch"] == 16
    assert not seen  # what the first has found out, the second keeps to from its start
    (note,) = row["warnings"]
    assert note.startswith("memory ran out: trained in micro-batches of 16") and "batch statistics" not in note
    assert row["metrics"]["n_scored"] == 500
    log = (store.folder(first.spec.run_id) / "log.txt").read_text()
    assert "starts anew in micro-batches of 32" in log and "starts anew in micro-batches of 16" in log
    if where != "gpu":
        return
    # The same mathematics: the very numbers of a bench that asks for it, up to the order of sums.
    (asked,) = plan("concat", settings=(("train.micro_batch", 16),)).runs
    as_asked = run_one(asked, catalogue, Store(tmp_path / "asked"))
    assert row["hashes"] == as_asked["hashes"] and asked.spec.run_id != first.spec.run_id
    assert row["metrics"]["acc"] == as_asked["metrics"]["acc"]
    assert row["metrics"]["loss"] == pytest.approx(as_asked["metrics"]["loss"], abs=1e-6)
    whole = run_one(first, catalogue, Store(tmp_path / "large"))
    assert row["metrics"]["loss"] == pytest.approx(whole["metrics"]["loss"], abs=1e-4) and whole["micro_batch"] is None


def test_memory_that_is_never_enough_is_a_failed_row(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_machine(monkeypatch, 0, OUT["gpu"])
    (planned,) = plan("concat").runs
    store = Store(tmp_path)
    row = run_one(planned, catalogue, store)
    assert row["status"] == "failed" and "even in micro-batches of 1" in row["reason"]
    assert store.micro_batch(planned.spec.data_id) is None  # others are not held to what did not help


def test_a_run_that_was_killed_goes_on_in_the_pieces_that_it_began_with(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (planned,) = plan("concat", epochs=3).runs
    small_machine(monkeypatch, 20, OUT["gpu"])
    straight = run_one(planned, catalogue, Store(tmp_path / "straight"))
    store = Store(tmp_path / "killed")
    with pytest.raises(KeyboardInterrupt):
        run_one(planned, catalogue, store, checkpoint_every=0, on_epoch=stop_after(2))
    row = run_one(planned, catalogue, store, checkpoint_every=0)
    assert lasting(row) == lasting(straight) and row["micro_batch"] == 16


def test_batch_statistics_are_mentioned_and_need_two_items() -> None:
    import helpers

    plain, norm = helpers.model(), helpers.model(norm=True)
    assert memory.least(plain) == 1 and memory.least(norm) == 2
    assert "batch statistics, which are those of so many items" in memory.note(norm, 8)


def test_an_error_that_is_none_of_memory_is_left_alone() -> None:
    assert not memory.ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    wrapped = ValueError("in a strategy")
    wrapped.__cause__ = OUT["gpu"]()
    assert memory.ran_out(wrapped)


# ---------------------------------------------------------------------- disks
def test_a_checkpoint_that_the_disk_does_not_take_costs_nothing_else(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (planned,) = plan("concat", epochs=2).runs
    real = Store.write_file

    def full(self: Store, run_id: str, name: str, data: bytes) -> None:
        if name == "checkpoint.pt":
            with self.guard():
                raise OSError(errno.ENOSPC, "No space left on device")
        real(self, run_id, name, data)

    monkeypatch.setattr(Store, "write_file", full)
    store = Store(tmp_path)
    assert run_one(planned, catalogue, store, checkpoint_every=0)["status"] == "ok"
    assert "no checkpoint after epoch 1: cannot write" in (store.folder(planned.spec.run_id) / "log.txt").read_text()


def test_a_folder_that_cannot_be_written_to_costs_one_row(mmzoo: Command, tmp_path: Path, plan: MakePlan) -> None:
    arguments = ("bench", "--method", "ogm", "--baselines", "concat", "--no-references", *SMALL, "--out", tmp_path)
    ogm = next(p for p in plan("ogm").runs)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / ogm.spec.run_id).mkdir()
    planned = tmp_path / "runs" / ogm.spec.run_id / "planned.json"
    planned.write_text(json.dumps(ogm.as_dict()))
    real = os.link

    def read_only(source: Any, target: Any) -> None:
        if ogm.spec.run_id in str(target):
            raise OSError(errno.EROFS, "Read-only file system", str(target))
        real(source, target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", read_only)
        done = mmzoo(*arguments)
    assert done.code == 1 and done.err.count("Read-only file system") == 1 and "Traceback" not in done.err
    assert [r["label"] for r in rows_of(tmp_path).values()] == ["concat"]
    assert mmzoo(*arguments).code == 0 and len(rows_of(tmp_path)) == 2


def test_a_data_set_that_is_gone_is_one_message_and_the_rest_goes_on(
    mmzoo: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = building.load_data

    def load(catalogue: Catalogue, name: str, params: str) -> Any:
        if "low" in params or "0.1" in params or json.loads(params) != json.loads(first):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/data/gone.npz")
        return real(catalogue, name, params)

    spec = next(iter(_plan_of(mmzoo, monkeypatch).runs)).spec
    first = json.dumps(spec.as_dict()["data_params"])
    monkeypatch.setattr(building, "load_data", load)
    done = mmzoo(
        "bench",
        "--method",
        "ogm",
        "--baselines",
        "concat",
        "--datasets",
        "mfeat,mfeat:six",
        "--no-references",
        *SMALL,
        "--out",
        tmp_path,
    )
    assert done.code == 1 and done.err.count("/data/gone.npz") == 1 and "2 runs: FileNotFoundError" in done.err
    assert sorted((r["dataset"], r["status"]) for r in rows_of(tmp_path).values()) == [
        ("mfeat", "ok"),
        ("mfeat", "ok"),
        ("mfeat:six", "failed"),
        ("mfeat:six", "failed"),
    ]


def _plan_of(mmzoo: Command, monkeypatch: pytest.MonkeyPatch) -> Plan:
    from mmzoo.benchmark.planning.plan import make_plan
    from mmzoo.config.spec import BenchSpec
    from mmzoo.registry.plugins import catalogue

    return make_plan(BenchSpec("ogm", seeds=(0,), epochs=1, references=False), catalogue())


def test_the_log_of_a_run_is_kept_and_holds_warnings(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import warnings

    (planned,) = plan("concat").runs
    store, real = Store(tmp_path), building.build_strategy

    def fails(*args: Any) -> Any:
        raise RuntimeError("the first time")

    monkeypatch.setattr(building, "build_strategy", fails)
    assert run_one(planned, catalogue, store)["status"] == "failed"

    def warns(*args: Any) -> Any:
        warnings.warn("something is odd", stacklevel=1)
        return real(*args)

    monkeypatch.setattr(building, "build_strategy", warns)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert run_one(planned, catalogue, store)["status"] == "ok"
    log = (store.folder(planned.spec.run_id) / "log.txt").read_text()
    for part in ("RuntimeError: the first time", "Traceback", "UserWarning: something is odd", "ends: ok"):
        assert part in log
    assert log.index("the first time") < log.index("ends: ok")


# ---------------------------------------------------------------------- files from strangers
class Payload:
    """What pickle would run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def test_a_checkpoint_with_a_payload_is_not_run(plan: MakePlan, catalogue: Catalogue, tmp_path: Path) -> None:
    (planned,) = plan("concat").runs
    store, trap = Store(tmp_path / "store"), tmp_path / "sprung"
    buffer = io.BytesIO()
    torch.save({"run": Payload(trap), "spec": Payload(trap)}, buffer)
    store.write_file(planned.spec.run_id, "checkpoint.pt", sealed(buffer.getvalue()))
    assert run_one(planned, catalogue, store)["status"] == "ok" and not trap.exists()
    assert "could not be used" in (store.folder(planned.spec.run_id) / "log.txt").read_text()


@pytest.mark.parametrize("key", ["run", "selection", "history", "seconds"])
@pytest.mark.parametrize("value", [None, {}, "x", [1]], ids=str)
def test_a_checkpoint_that_does_not_fit_is_set_aside(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path, key: str, value: Any, results: Path
) -> None:
    (planned,) = plan("ogm").runs
    store = Store(tmp_path)
    spec = json.dumps(planned.spec.as_dict(), sort_keys=True)
    state = {"run": {}, "selection": {}, "history": [], "seconds": 0.0, "spec": spec, "micro_batch": None, key: value}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    store.write_file(planned.spec.run_id, "checkpoint.pt", sealed(buffer.getvalue()))
    assert lasting(run_one(planned, catalogue, store)) == lasting(Store(results).row(planned.spec.run_id))


def test_a_checkpoint_with_a_flipped_bit_is_never_gone_on_from(
    plan: MakePlan, catalogue: Catalogue, tmp_path: Path
) -> None:
    (planned,) = plan("concat", epochs=2).runs
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run_one(planned, catalogue, store, checkpoint_every=0, on_epoch=stop_after(1))
    path = store.folder(planned.spec.run_id) / "checkpoint.pt"
    good = path.read_bytes()
    for where in (0, 0.1, 0.3, 0.5, 0.7, 0.9, 1):
        data = bytearray(good)
        data[int((len(data) - 1) * where)] ^= 0x10
        with pytest.raises(CorruptFile, match="damaged"):
            unsealed(bytes(data))
    path.write_bytes(data)
    row = run_one(planned, catalogue, store, checkpoint_every=0)
    assert lasting(row) == lasting(run_one(planned, catalogue, Store(tmp_path / "straight")))


@pytest.mark.parametrize("run_id", ["../evil", "..", "/etc", "a/b", "", ".hidden", "a\x00b", "a\n"])
def test_an_id_that_leads_elsewhere_is_refused(tmp_path: Path, run_id: str) -> None:
    with pytest.raises(BadValue, match="is not the id of a run"):
        Store(tmp_path).folder(run_id)


def test_a_plan_comes_back_from_its_folders_as_it_was(tmp_path: Path, plan: MakePlan) -> None:
    runs = plan("dynamic_gap_lb", baselines=("umt", "ogm:0-50%+pmr@sum"), references=True, epochs=4).runs
    store = Store(tmp_path)
    order = Order.of(runs, store, device="cpu", checkpoint_every=5.0)
    back = Order.from_dict(json.loads(json.dumps(order.as_dict())), store)
    assert [p.spec.run_id for p in back.runs] == [p.spec.run_id for p in runs]
    assert [p.as_dict() for p in back.runs] == [p.as_dict() for p in runs]
    assert [[t.spec.run_id for t in p.teachers] for p in back.runs] == [
        [t.spec.run_id for t in p.teachers] for p in runs
    ]
    assert (back.bench, back.device, back.checkpoint_every) == (order.bench, "cpu", 5.0)


def spoil(kept: dict[str, Any], how: str, other: str) -> Any:
    return {
        "another seed": {**kept, "spec": {**kept["spec"], "seed": 9}},
        "no spec": {**kept, "spec": {}},
        "a list": [kept],
        "a path": {**kept, "teachers": ["../../x"]},
        "no keep": {**kept, "keep": "yes"},
        "an unknown teacher": {**kept, "teachers": ["0" * 16]},
        "its own teacher": {**kept, "teachers": [other]},
        "a number for a name": {**kept, "method": 3},
    }[how]


@pytest.mark.parametrize(
    "how",
    [
        "another seed",
        "no spec",
        "a list",
        "a path",
        "no keep",
        "an unknown teacher",
        "its own teacher",
        "a number for a name",
    ],
)
def test_a_plan_that_was_tampered_with_is_not_run(tmp_path: Path, plan: MakePlan, how: str) -> None:
    (planned,) = plan("concat").runs
    store, run_id = Store(tmp_path), planned.spec.run_id
    store.note_planned(run_id, planned.as_dict())
    path = store.folder(run_id) / "planned.json"
    path.write_text(json.dumps(spoil(planned.as_dict(), how, run_id)))
    with pytest.raises(CorruptFile, match=r"planned\.json cannot be used"):
        planned_runs(store, [run_id])
    store.note_planned(run_id, planned.as_dict())  # the next bench writes it anew
    assert planned_runs(store, [run_id])[0].spec == RunSpec.from_dict(planned.spec.as_dict())


# ---------------------------------------------------------------------- status
def test_status_tells_what_is_going_on(
    mmzoo: Command, tmp_path: Path, plan: MakePlan, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = plan("concat", baselines=("ogm", "pmr", "sum"), epochs=2).runs
    store = Store(tmp_path)
    Order.of(runs, store, device="cpu", checkpoint_every=0)
    done, failed, at_work, _ = runs
    run_one(done, catalogue, store)
    monkeypatch.setattr(building, "build_strategy", None)
    run_one(failed, catalogue, store)
    (store.folder("waiting") / "x").mkdir(parents=True)  # no run's
    with leases.claim(store.folder(at_work.spec.run_id)) as held:
        held.note(1, 2, began=True)
        text = mmzoo("status", tmp_path)
        found = json.loads(mmzoo("status", tmp_path, "--json").out)
    assert text.code == 0 and text.out.startswith("4 runs: 1 running, 1 failed, 1 waiting, 1 done\ntime left: about ")
    assert f"pmr seed 0 ({at_work.spec.run_id}): epoch 1 of 2, process {os.getpid()} on" in text.out
    assert "failed   mfeat ogm seed 0" in text.out and "TypeError" in text.out and "waiting  mfeat sum" in text.out
    assert found["counts"] == {"running": 1, "done": 1, "failed": 1, "waiting": 1}
    seconds = next(s["seconds"] for s in found["runs"] if s["state"] == "done")
    assert found["seconds_left"] == pytest.approx(1.5 * seconds)  # half of the one that runs, and one that waits
    assert "nobody is at work" in mmzoo("status", tmp_path).out


def test_status_of_what_is_no_folder_of_results(refused: Callable[..., str], tmp_path: Path) -> None:
    assert "there are no runs in the folder" in refused("status", tmp_path / "none")
    (tmp_path / "file").write_text("")
    assert "is a file" in refused("status", tmp_path / "file")


def test_status_lets_no_name_steer_the_terminal(mmzoo: Command, tmp_path: Path, results: Path) -> None:
    import shutil

    out = Path(shutil.copytree(results, tmp_path / "out"))
    path = next(out.glob("runs/*/result.json"))
    row = json.loads(path.read_text()) | {"status": "failed", "reason": "\x1b[2J\nall is well", "label": "\x07<b>"}
    rewrite(path, row)
    text = mmzoo("status", out).out
    assert "\x1b" not in text and "\x07" not in text and r"\x1b[2J all is well" in text

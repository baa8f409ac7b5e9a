"""One run over two processes that torchrun has started: the single process's numbers, one voice, and no hang."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mmzoo.api import Batch, Loader, MultimodalModel, Run, Strategy
from mmzoo.benchmark.execution import building, torchrun
from mmzoo.benchmark.execution.building import Kit, data_of
from mmzoo.benchmark.execution.device import check_device
from mmzoo.benchmark.execution.process_notes import per_process
from mmzoo.benchmark.execution.runner import run_one
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.benchmark.planning.planned import Plan
from mmzoo.benchmark.results.store import Store
from mmzoo.cli import main
from mmzoo.config.spec import BenchSpec
from mmzoo.core import distributed
from mmzoo.encoders.mlp import MLP
from mmzoo.errors import BadValue
from mmzoo.evaluation import scores
from mmzoo.evaluation.scores import predict
from mmzoo.heads.concat import Concat
from mmzoo.registry import Catalogue
from mmzoo.testing.harness.ranks import in_processes

Command = Callable[..., Any]
#: the program itself, but in float64, without linear probes, and with an end at the start of epoch DIE in the second process
PROGRAM = """
import os, signal, sys
from dataclasses import replace
from mmzoo.evaluation import scores
from mmzoo.benchmark.execution import building
from mmzoo.training.run import Run

load, build, epoch = building.load_data, building.build_model, Run.train_epoch

def load_data(*given):
    data = load(*given)
    return replace(data, inputs={m: x.double() for m, x in data.inputs.items()})

def train_epoch(run):
    if os.environ.get("DIE") == str(run.epoch) and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    epoch(run)

building.load_data, building.build_model = load_data, lambda *given: build(*given).double()
scores.fit_probe = lambda features, target, n: lambda z: z.new_zeros(len(z), n)
Run.train_epoch = train_epoch
from mmzoo.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""
METHODS = """
from mmzoo.api import Strategy

class Single(Strategy):
    single_process = "it says so"

class Stumbles(Strategy):
    def epoch_start(self, run):
        import torch.distributed as dist
        if dist.is_initialized() and dist.get_rank() == 1:
            1 / 0

class Apart(Strategy):
    def gradients(self, step, out, grads):
        for group in grads: grads.scale(group, out.logits.detach().softmax(-1).max())
"""
PAIRS = """
import json, os, signal, socket, sys, time
import program
import mmzoo.benchmark.execution.session, mmzoo.benchmark.execution.nonzero_ranks

def pair(argv, **env):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    env |= {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    pids, codes = [], {}
    for rank in range(2):
        if not (pid := os.fork()):
            for fd, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(f"{name}.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), fd)
            os.environ.update({**env, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            code = program.main(argv)
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
        pids.append(pid)
    while len(codes) < 2:
        pid, status = os.wait()
        codes[pid] = os.waitstatus_to_exitcode(status)
        if codes[pid]:
            time.sleep(0.2)
            for other in set(pids) - set(codes):
                os.kill(other, signal.SIGTERM)
    read = lambda name: [open(f"{name}.{rank}").read() for rank in range(2)]
    return {"codes": [codes[pid] for pid in pids], "out": read("out"), "err": read("err")}

asked = json.loads(sys.argv[1])
bad = ["bench", "--method", "ogmm", "--datasets", "mfeat", "--out", "bad"]
print(json.dumps({"died": pair(asked, DIE="1"), "again": pair(asked), "bad": pair(bad)}))
"""
ASKED = (
    "--datasets",
    "mfeat",
    "--seeds",
    "1",
    "--epochs",
    "2",
    "--no-references",
    "--device",
    "cpu",
    "--keep-weights",
    "--checkpoint-every",
    "0",
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torchrun")
    (folder / "program.py").write_text(PROGRAM)
    (folder / "mine.py").write_text(METHODS)
    (folder / "pairs.py").write_text(PAIRS)
    return folder


def start(place: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A Python program in the place of this module."""
    here = {**os.environ, "MMZOO_PLUGINS": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, *command], cwd=place, env=here, capture_output=True, text=True, timeout=1200)


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {r["label"]: r for r in Store(folder).rows()[0]}


@pytest.fixture(scope="module")
def two(place: Path) -> subprocess.CompletedProcess[str]:
    """A bench under torchrun, with methods that do not go well."""
    methods = ",".join([*(f"mine.py:{name}" for name in ("Stumbles", "Apart", "Single")), "ogm", "dynamic_gap_lb"])
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    return start(
        place, *torchrun, "program.py", "bench", "--method", "concat", "--baselines", methods, *ASKED, "--out", "two"
    )


@pytest.fixture(scope="module")
def one(place: Path) -> Path:
    """The same, but for those methods, in this process."""
    sys.path.insert(0, str(place))
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in (
            (building, "load_data"),
            (building, "build_model"),
            (scores, "fit_probe"),
            (Run, "train_epoch"),
        ):
            patch.setattr(owner, name, getattr(owner, name))  # to be put back as it is
        __import__("program")
        methods = ("bench", "--method", "concat", "--baselines", "ogm,dynamic_gap_lb")
        assert main([*methods, *ASKED, "--out", str(place / "one")]) == 0
    sys.path.remove(str(place))
    return place / "one"


@pytest.fixture(scope="module")
def pairs(two: Any, place: Path) -> dict[str, Any]:
    """What came of pairs of processes, which one that has imported all forks as torchrun would start them: the first is killed
    in the second epoch, the next goes on from there, and the last is asked for what there is not."""
    done = start(place, "pairs.py", json.dumps(["bench", "--method", "dynamic_gap_lb", *ASKED, "--out", "killed"]))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("method", ["concat", "ogm", "dynamic_gap_lb"])
def test_two_processes_end_where_one_does(two: Any, one: Path, place: Path, method: str) -> None:
    alone, shared = rows_of(one)[method], rows_of(place / "two")[method]
    assert (alone["processes"], shared["processes"]) == (1, 2) and alone["run_id"] != shared["run_id"]
    assert alone["metrics"]["selected_epoch"] == shared["metrics"]["selected_epoch"]
    assert shared["metrics"]["n_scored"] == shared["metrics"]["n_total"] == 500
    assert alone["cost"] == shared["cost"]
    assert [name for name, value in alone["hashes"].items() if shared["hashes"][name] != value] == ["weights"]
    folders = [one / "runs" / alone["run_id"], place / "two" / "runs" / shared["run_id"]]
    weights = [load_file(folder / "weights.safetensors") for folder in folders]
    for name, value in weights[0].items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-6)
    epochs = [[json.loads(line) for line in (folder / "history.jsonl").open()] for folder in folders]
    for a, b in zip(*epochs, strict=True):
        assert a["train"] == pytest.approx(b["train"], abs=1e-6)
        assert a["holdout"]["loss"] == pytest.approx(b["holdout"]["loss"], abs=1e-6)
        assert a["holdout"]["acc"] == b["holdout"]["acc"]


def test_what_goes_wrong_in_one_process_is_a_row_and_the_rest_goes_on(
    two: subprocess.CompletedProcess[str], place: Path
) -> None:
    done, rows = two, rows_of(place / "two")
    assert done.stdout.count("Plan: 5 runs") == done.stdout.count("### mfeat: test scores") == 1
    assert "not on mfeat: mine.py:Single: mine.py:Single trains in one process: it says so." in done.stdout
    stumbled, apart = rows["mine.py:Stumbles"], rows["mine.py:Apart"]
    assert stumbled["status"] == apart["status"] == "failed"
    assert re.fullmatch(
        r"MmzooError: process 1: ZeroDivisionError: division by zero \(\S+/mine\.py:\d+\)", stumbled["reason"]
    )
    assert "1 / 0" in (place / "two" / "runs" / stumbled["run_id"] / "log.txt").read_text()
    assert "MmzooError: process 1 has other weights than the first" in apart["reason"]
    assert "come apart in epoch 0" in apart["reason"]
    assert done.returncode == 1 and done.stderr.count("mmzoo: 2 runs failed") == 1
    assert [rows[m]["status"] for m in ("concat", "ogm", "dynamic_gap_lb")] == ["ok"] * 3
    assert not list((place / "two").glob("runs/*/claim.*"))


def test_a_process_that_is_killed_ends_the_other_and_the_same_command_goes_on(
    pairs: dict[str, Any], place: Path
) -> None:
    died, again = pairs["died"], pairs["again"]
    assert died["codes"] == [1, -9] and again["codes"] == [0, 0]
    assert (
        died["err"][0].count("mmzoo: torchrun ends this bench, as it does where one of its 2 processes has died") == 1
    )
    (row,) = rows_of(place / "killed").values()
    folder = place / "killed" / "runs" / row["run_id"]
    log = (folder / "log.txt").read_text()
    assert "starts at epoch 0" in log and "goes on after epoch 1 of 2" in log and log.count("ends: ok") == 1
    assert not (folder / "checkpoint.pt").exists()
    whole = rows_of(place / "two")["dynamic_gap_lb"]
    for key in row.keys() - {"timing", "environment"}:
        assert row[key] == whole[key], key


def test_bad_input_is_one_message(pairs: dict[str, Any], place: Path) -> None:
    bad = pairs["bad"]
    assert bad["codes"] == [2, 2] and bad["out"] == ["", ""] and bad["err"][1] == ""
    assert bad["err"][0].startswith("mmzoo: no method 'ogmm'") and bad["err"][0].count("\n") == 1
    assert not (place / "bad").exists()


# ---------------------------------------------------------------------- in this process
@pytest.fixture
def as_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if torchrun had started this process and another."""
    for key, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(torchrun, "split", lambda command, argv: command())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--workers", "2"), "workers under torchrun"),
        (("--launcher", "slurm"), "--launcher slurm under torchrun"),
        (("--tune", "3"), "tuning under torchrun"),
        (("--set", "train.processes=2"), "torchrun decides"),
        (("--set", "train.batch_size=63"), "batch of 63 items does not go round among 2 processes"),
        (("--set", "train.batch_size=2"), "train.batch_size=4"),
    ],
)
def test_what_torchrun_and_the_bench_both_want_to_decide_is_refused(
    as_two: None, refused: Command, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused("bench", "--method", "ogm", *arguments, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_a_bench_is_for_all_processes(
    as_two: None, refused: Command, mmzoo: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmzoo.benchmark.python import bench

    assert "tuning under torchrun" in refused("tune", "--method", "ogm", "--trials", "2")
    with pytest.raises(BadValue, match="for one process"):
        bench("ogm")
    monkeypatch.undo()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, shown in (("0", True), ("1", False)):
        monkeypatch.setenv("RANK", rank)
        listed = mmzoo("list", "heads")
        assert listed.code == 0 and bool(listed.out) == shown


def test_each_process_takes_its_own_gpu(as_two: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert check_device("auto") == check_device("cuda") == "cuda:1" and check_device("cpu") == "cpu"
    with pytest.raises(BadValue, match="GPU of its own number"):
        check_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(BadValue, match="process 1 of this machine has no GPU: there are 1"):
        check_device("auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert check_device("auto") == "cpu"


def planned_for(processes: int, *settings: tuple[str, Any], catalogue: Catalogue) -> Plan:
    bench = BenchSpec("concat", seeds=(0,), epochs=1, references=False, settings=settings, processes=processes)
    return make_plan(bench, catalogue)


def test_a_single_process_leaves_a_run_for_two_alone(catalogue: Catalogue, tmp_path: Path) -> None:
    one, two = (planned_for(n, catalogue=catalogue).runs[0] for n in (1, 2))
    assert one.spec.run_id != two.spec.run_id and "processes" not in one.spec.as_dict()["training"]
    row = run_one(two, catalogue, Store(tmp_path))
    assert row["status"] == "failed" and "planned for 2 processes, and here is 1" in row["reason"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((), []),
        ((("encoder.fou.dropout", 0.5),), ["the model draws random numbers (dropout) for 32 items"]),
        ((("train.batch_size", 998),), ["2 of 1000 training items are left out"]),
    ],
)
def test_a_row_says_what_is_otherwise_than_in_a_single_process(
    catalogue: Catalogue, settings: tuple[tuple[str, Any], ...], said: list[str]
) -> None:
    (planned,) = planned_for(2, *settings, catalogue=catalogue).runs
    kit = Kit(catalogue, planned.spec, data_of(catalogue, planned.spec), "cpu", share=(0, 2))
    assert per_process(kit.run(), kit, 1) == []
    found = per_process(kit.run(), kit, 2)
    assert len(found) == len(said) and all(a.startswith(b) for a, b in zip(found, said))


def test_a_row_says_whose_batch_statistics_these_are_and_what_the_method_draws(catalogue: Catalogue) -> None:
    (planned,) = planned_for(2, catalogue=catalogue).runs
    kit = Kit(catalogue, planned.spec, data_of(catalogue, planned.spec), "cpu", share=(0, 2))
    run = kit.run()
    run.model.encoders["fou"].add_module("norm", torch.nn.BatchNorm1d(3))
    run.strategy.stochastic = True  # type: ignore[misc]
    statistics, drawn = per_process(run, kit, 2)
    assert "batch statistics are those of 32 items" in statistics and "are drawn for 32" in drawn


# ---------------------------------------------------------------------- what processes make of their parts
def parts_of(n: int) -> Loader:
    g = torch.Generator().manual_seed(0)
    x = {m: torch.randn(n, 4, generator=g, dtype=torch.float64) for m in "ab"}
    present = torch.rand(n, 2, generator=g) > 0.2
    return Loader(x, torch.arange(n) % 3, torch.arange(n) * 2, present, batch_size=4)


def model_of() -> MultimodalModel:
    torch.manual_seed(0)
    encoders = {m: MLP((4,), hidden=(5,), width=3) for m in "ab"}
    return MultimodalModel(encoders, Concat({m: 3 for m in "ab"}, 3)).double()


def pooled(n: int) -> dict[str, Any]:
    """In one of several processes: predictions on all parts, and means of what each has."""
    rank, of = distributed.share()
    model = model_of()
    p = predict(model, Strategy(), parts_of(n).part(rank, of).batches()).pooled()
    norm = torch.nn.BatchNorm1d(2)
    norm.running_mean.fill_(rank), norm.num_batches_tracked.fill_(7)
    distributed.average_buffers(norm)
    logged = distributed.mean_values({"both": float(rank), **({"second": 3.0} if rank else {})})
    return {
        "scores": p.scores,
        "index": p.index,
        "present": p.present,
        "own": p.unimodal["a"],
        "mean": norm.running_mean,
        "seen": int(norm.num_batches_tracked),
        "logged": logged,
    }


@pytest.mark.parametrize("n", [8, 13])
def test_every_item_is_scored_once_whatever_the_number(n: int) -> None:
    whole = pooled(n)
    assert whole["index"].tolist() == list(range(0, 2 * n, 2))
    for found in in_processes(pooled, n):
        assert torch.equal(found["index"], whole["index"]) and torch.equal(found["present"], whole["present"])
        for key in ("scores", "own"):
            torch.testing.assert_close(found[key], whole[key], rtol=0, atol=1e-12)
        assert found["mean"].tolist() == [0.5, 0.5] and found["seen"] == 7
        assert found["logged"] == {"both": 0.5, "second": 3.0}


def test_fewer_items_than_processes_are_refused() -> None:
    with pytest.raises(BadValue, match="1 items do not go round among 2 processes"):
        parts_of(1).part(0, 2)
    loader = parts_of(5)
    assert loader.part(0, 1) is loader


def test_drawing_is_seen_and_changes_nothing() -> None:
    from mmzoo.benchmark.execution.process_notes import draws

    batch = next(parts_of(8).batches())
    assert isinstance(batch, Batch)
    run = Run(model_of(), Strategy(), train=[batch])
    before = torch.get_rng_state()
    assert not draws(run, batch) and torch.equal(torch.get_rng_state(), before)

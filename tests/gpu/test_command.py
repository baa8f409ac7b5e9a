"""`benchmarks/gpu.py` as far as a CPU runs it: one command, without packages that a machine with a GPU may lack."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from helpers.places import ROOT

pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="needs the source tree")
#: readers of media, tuning, figures, floors, the live display, and other processes of tests
LACKING = (
    "librosa",
    "av",
    "soundfile",
    "soxr",
    "optuna",
    "vl_convert",
    "sklearn",
    "rich",
    "pandas",
    "loky",
    "cloudpickle",
)
HIDE = f"""
from importlib.machinery import PathFinder

real = PathFinder.find_spec
lacking = {LACKING!r}
PathFinder.find_spec = classmethod(
    lambda cls, name, path=None, target=None: None if name.partition(".")[0] in lacking else real(name, path, target)
)
"""


def lacking(tmp_path: Path) -> dict[str, str]:
    """An environment of processes that do not find those packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HIDE)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), "."]), "OMP_NUM_THREADS": "1"}


def test_a_stage_writes_its_rows_and_a_page_without_what_may_be_missing(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "benchmarks/gpu.py",
        "--device",
        "cpu",
        "--small",
        "--only",
        "store",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=ROOT, env=lacking(tmp_path), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = importlib.import_module("benchmarks.gpu_stages.rows").read(tmp_path / "cpu_small.jsonl")
    assert {r["status"] for r in rows} == {"ok", "over"} and {r["stage"] for r in rows} == {"store"}
    assert {r["rows"] for r in rows if r["kind"] == "epoch"} == {"held", "streamed", "streamed, cold"}
    page = (tmp_path / "cpu_small.md").read_text()
    assert "No GPU" in page and "| trains | held |" in page


def test_no_stage_imports_what_may_be_missing(tmp_path: Path) -> None:
    names = [p.stem for p in (ROOT / "benchmarks" / "gpu_stages").glob("[a-z]*.py")]
    text = "import mmzoo, benchmarks.gpu, " + ", ".join(f"benchmarks.gpu_stages.{n}" for n in names)
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, env=lacking(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any) -> None:
    gpu = importlib.import_module("benchmarks.gpu")
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--only", "stores", "--out", str(tmp_path)])
    assert gpu.main() == 2 and "no stage is called 'stores'; there are contract, store," in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--out", str(tmp_path)])
    monkeypatch.setattr(gpu, "_gpu", lambda: False)
    assert gpu.main() == 2 and "--device cpu --small" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("does", "why"),
    [("time.sleep(60)", "stopped after"), ("os._exit(3)", "code 3"), ("os.kill(os.getpid(), 9)", "signal 9")],
)
def test_a_stage_that_does_not_end_by_itself_is_a_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, does: str, why: str
) -> None:
    gpu = importlib.import_module("benchmarks.gpu")
    program = tmp_path / "stage.py"
    program.write_text(f"import os, time\n{does}\n")
    monkeypatch.setattr(gpu, "__file__", str(program))
    monkeypatch.setattr(gpu, "GRACE", 0.0)
    given = argparse.Namespace(device="cpu", out=tmp_path, small=True)
    began = time.monotonic()
    gpu.supervise(given, "store", 1.0, tmp_path / "rows.jsonl")
    (row,) = gpu.written.read(tmp_path / "rows.jsonl")
    assert row["status"] == "failed" and why in row["why"] and time.monotonic() - began < 30


def test_a_row_says_what_failed_or_was_not_begun_and_a_torn_line_is_none(tmp_path: Path) -> None:
    rows = importlib.import_module("benchmarks.gpu_stages.rows")
    path = tmp_path / "rows.jsonl"
    at = rows.At("cpu", True, time.monotonic() + 60, tmp_path, lambda row: rows.append(path, {"stage": "store", **row}))
    at.tried(1.0, {"kind": "a"}, lambda: {"seconds": 1.5})
    at.tried(1.0, {"kind": "a"}, lambda: {}["gone"])
    at.tried(99.0, {"kind": "b"}, lambda: {})
    with path.open("a") as file:
        file.write('{"stage": "sto')
    found = rows.read(path)
    assert [r["status"] for r in found] == ["ok", "failed", "not reached"] and found[1]["why"] == "KeyError: 'gone'"
    page = rows.page(found, {"store": "about", "engines": "more"}, "Made on a machine.")
    assert "## store: about" in page and "engines" not in page and "| ok | 1.5 |  |" in page


def test_the_share_in_which_a_gpu_is_at_work_and_what_the_host_waits_for() -> None:
    machine = importlib.import_module("benchmarks.gpu_stages.machine")

    def event(name: str, cat: str, ts: float, dur: float) -> dict[str, Any]:
        return {"ph": "X", "name": name, "cat": cat, "ts": ts, "dur": dur}

    events = [
        event(machine.MARK, "user_annotation", 100, 1000),
        event(machine.MARK, "gpu_user_annotation", 100, 9000),
        event("gemm", "kernel", 200, 300),
        event("other stream", "kernel", 400, 200),
        event("copy", "gpu_memcpy", 900, 100),
        event("cudaStreamSynchronize", "cuda_runtime", 500, 40),
        event("cudaLaunchKernel", "cuda_runtime", 550, 10),
        event("cudaDeviceSynchronize", "cuda_runtime", 2000, 500),  # the profiler's own, after the steps
        {"ph": "M", "name": "process_name"},
    ]
    found = machine.summed(events, 2)
    assert found == {"device_ms": 0.25, "kernels": 1.0, "profiler_waits": 0.5, "profiler_waits_ms": 0.02}
    assert machine.union([]) == 0.0


def test_bf16_is_as_good_as_fp32_within_the_noise_of_seeds() -> None:
    compared = importlib.import_module("benchmarks.gpu_stages.precision").compared
    wide = {0: 0.50, 1: 0.52, 2: 0.54}
    assert compared(wide, {0: 0.51, 1: 0.52, 2: 0.53})["status"] == "ok"
    assert compared(wide, {0: 0.40, 1: 0.42, 2: 0.44})["status"] == "failed"
    with pytest.raises(ValueError, match="under bf16"):
        compared(wide, {0: 0.5})

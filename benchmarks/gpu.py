"""All that only a GPU shows, in one command of less than nine minutes: contract checks, speed, memory, packing, precision.

    PYTHONPATH=. python benchmarks/gpu.py                            # on a GPU: writes results/gpu/gpu.jsonl and gpu.md
    PYTHONPATH=. python benchmarks/gpu.py --only store,engines       # these stages; rows of others stay
    PYTHONPATH=. python benchmarks/gpu.py --device cpu --small       # the same code on a CPU: results/gpu/cpu_small.*

Runs from a source tree: nothing is installed or downloaded. Each stage is a process of its own with seconds of its own; it
writes every row at once, a failure as a row in words, and the others go on. `--only STAGE,...` picks stages, `--seconds N`
is the time for all of them. What the columns mean is said in `benchmarks/results/gpu/README.md`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.gpu_stages import rows as written
from benchmarks.gpu_stages.rows import At, Row
from mmzoo.io.files import write_bytes

RESULTS = Path(__file__).resolve().parent / "results" / "gpu"
#: stage -> (seconds, what it shows); the last one has what the others leave
STAGES = {
    "contract": (75, "every registered method on the device, against the CPU, and what its steps wait for"),
    "store": (50, "an epoch from a store of CREMA-D's shape: held on the device, and streamed"),
    "packing": (65, "eight small runs on one device, and memory that runs out"),
    "precision": (65, "bf16 beside fp32: test accuracy of the main methods"),
    "engines": (265, "seconds of a step under every engine and method, beside loops written by hand"),
}
TITLES = {name: title for name, (_, title) in STAGES.items()}
#: seconds for everything, and those that a stage has to end by itself
TOTAL, GRACE = 525.0, 10.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="small sizes and few methods, for a CPU")
    parser.add_argument("--only", metavar="STAGE,...", default=",".join(STAGES), help=f"of {', '.join(STAGES)}")
    parser.add_argument("--seconds", type=float, default=TOTAL, help=f"for all stages (default: {TOTAL:.0f})")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    given = parser.parse_args()
    stem = "gpu" if given.device == "cuda" else f"cpu{'_small' * given.small}"
    path = given.out / f"{stem}.jsonl"
    if given.stage:
        return stage(given, path)
    chosen = [name for name in STAGES if name in given.only.split(",")]
    if wrong := [name for name in given.only.split(",") if name not in STAGES]:
        return _refuse(f"no stage is called {wrong[0]!r}; there are {', '.join(STAGES)}.")
    if given.device == "cuda" and not _gpu():
        return _refuse("torch finds no GPU here: on a CPU add --device cpu --small.")
    given.out.mkdir(parents=True, exist_ok=True)
    written.keep(path, [r for r in written.read(path) if r["stage"] not in chosen])
    until = time.monotonic() + given.seconds
    for name in chosen:
        left = until - time.monotonic()
        seconds = left - GRACE if name == chosen[-1] else min(left - GRACE, STAGES[name][0] * given.seconds / TOTAL)
        print(f"{name}: {seconds:.0f} s", flush=True)
        supervise(given, name, seconds, path)
        write_page(path)
    failed = [r for r in written.read(path) if r["stage"] in chosen and r["status"] == "failed"]
    print(f"{path}: {len(failed)} failed of {len(written.read(path))} rows")
    return 1 if failed else 0


def supervise(given: argparse.Namespace, name: str, seconds: float, path: Path) -> None:
    """Run a stage in a process of its own, and end it when its time is over."""
    started = time.monotonic()
    command = [sys.executable, str(Path(__file__).resolve()), "--stage", name, "--seconds", str(seconds)]
    command += ["--device", given.device, "--out", str(given.out.absolute()), *["--small"] * given.small]
    folder = tempfile.TemporaryDirectory(
        prefix="mmzoo-gpu-", ignore_cleanup_errors=True
    )  # ours, so that it goes in any case
    process = subprocess.Popen(command, process_group=0, env={**os.environ, "TMPDIR": folder.name})
    why = ""
    try:
        if code := process.wait(max(1.0, seconds + GRACE)):
            why = f"the process ended with {f'signal {-code}' if code < 0 else f'code {code}'}"
    except subprocess.TimeoutExpired:
        why = f"stopped after {time.monotonic() - started:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the group of our own process, with the workers that it left
        process.wait()
        folder.cleanup()
    if why:
        written.append(path, {"stage": name, "kind": "stage", "status": "failed", "why": why})


def stage(given: argparse.Namespace, path: Path) -> int:
    """In the process of a stage: run it."""
    until = time.monotonic() + given.seconds
    module = importlib.import_module(f"benchmarks.gpu_stages.{given.stage}")
    from benchmarks.gpu_stages.machine import hardware

    device = "cuda:0" if given.device == "cuda" else given.device  # some of torch's functions want a number
    started, made_on = time.monotonic(), hardware(device)

    def add(row: Row) -> None:
        row = {"stage": given.stage, **row, "hardware": made_on}
        written.append(path, row)
        print("  " + ", ".join(f"{k} {v}" for k, v in row.items() if k not in written.HIDDEN), flush=True)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["MMZOO_HOME"] = str(Path(folder) / "home")
        try:
            module.run(At(device, given.small, until, Path(folder), add))
        except Exception as error:
            add({"kind": "stage", "status": "failed", "why": written.told(error)})
    seconds = round(time.monotonic() - started, 1)
    add({"kind": "stage", "status": "over", "seconds": seconds})
    return 0


def write_page(path: Path) -> None:
    """The tables of all rows that are there."""
    found = written.read(path)
    hardware = sorted({r["hardware"] for r in found if "hardware" in r})
    about = "Made on " + "; and on ".join(hardware) + "."
    if path.stem != "gpu":
        about += " No GPU: this shows that the code runs and what the rows look like, and says nothing of a GPU."
    write_bytes(path.with_suffix(".md"), written.page(found, TITLES, about).encode())


def _gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _refuse(why: str) -> int:
    print(f"gpu.py: {why}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

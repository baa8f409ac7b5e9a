"""Feeds mutated rows, plans, predictions, claims, suites and settings to the program.

    python benchmarks/fuzz_results.py [--inputs 10000] [--seed 0]

Each input is a good one with one to four mutations, as in fuzz_data.py: bytes, or values of the JSON or YAML in place of others; half
of the JSON files get a checksum that fits, so that their values are looked at. What may come of it: a report, a plan, or an error
of mmzoo's with one message. What may not: any other exception, another exit code, or more than 20 processor seconds. Prints what came of each
kind of input, and every failure with the number that gives it again; exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from fuzz_data import LIMIT, ODD, mutated

SUITE = """method: [ogm, pmr:0-50%+refit@concat]
baselines: [concat, sum]
datasets: [mfeat, mfeat:six]
seeds: 2
out: results
settings: {ogm.alpha: 0.5, train.lr: 0.01, encoder.fou.width: 8, mfeat.train.epochs: 3}
training: {epochs: 2}
"""
COMMANDS = {
    "row": ("report", "r"),
    "rows": ("report", "r", "--stats", "--details", "--modalities"),
    "planned": ("status", "r"),
    "bench": ("report", "r", "--format", "json"),
    "predictions": ("report", "r", "--stats"),
    "claim": ("status", "r"),
    "suite": ("bench", "--suite", "suite.yaml", "--plan"),
    "setting": ("bench", "--method", "ogm", "--datasets", "mfeat", "--plan", "--set"),
}
FILES = {
    "row": "result.json",
    "rows": "result.json",
    "planned": "planned.json",
    "predictions": "predictions.npz",
    "claim": "claim.1",
}
CLAIM = {
    "place": "h 1 pid:[1]",
    "host": "h",
    "pid": 1,
    "started": "1",
    "since": 1.0,
    "clock": 1.0,
    "deaths": 0,
    "epoch": 1,
    "of": 2,
}
SETTINGS = (
    "ogm.alpha=0.3",
    "train.lr=0.01",
    "encoder.fou=mlp",
    "encoder.fou.width=16",
    "mfeat.train.epochs=2",
    "concat.x=1",
)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all values within a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [p for k, v in inner for p in leaves(v, (*path, k))]


def revalued(value: Any, draw: random.Random) -> Any:
    """The value with one to three others somewhere in it."""
    for _ in range(draw.randint(1, 3)):
        paths = leaves(value)
        if not paths:
            return value
        *way, last = draw.choice(paths)
        place = value
        for key in way:
            place = place[key]
        what = draw.randrange(4)
        if what == 0 and isinstance(place, dict):
            del place[last]
        elif what == 1 and isinstance(place, dict):
            place[str(draw.choice(ODD))[:50]] = copy.deepcopy(draw.choice(ODD))  # else a value may come to hold itself
        else:
            place[last] = copy.deepcopy(draw.choice(ODD))
    return value


class Fuzzer:
    def __init__(self, folder: Path, seed: int) -> None:
        self.seed = seed
        self.counts: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []
        os.environ |= {"MMZOO_HOME": str(folder / "home"), "MMZOO_PLUGINS": "", "COLUMNS": "120"}
        os.chdir(folder)
        given = ("--method", "concat", "--datasets", "mfeat", "--seeds", "2", "--epochs", "1", "--workers", "1")
        code, text = self.program("bench", *given, "--no-references", "--out", "good")
        if code:
            raise SystemExit(f"a plain bench does not work: {text}")
        shutil.copytree("good", "r")
        self.run_folder = next(Path("r/runs").iterdir()).name

    def program(self, *arguments: str) -> tuple[int, str]:
        from mmzoo.cli import main

        out, err = io.StringIO(), io.StringIO()
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        signal.alarm(20 * LIMIT)  # others may have the processor
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                return main(list(arguments)), err.getvalue()
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)

    def run(self, n: int) -> None:
        for i in range(n):
            draw = random.Random(f"{self.seed}-{i}")
            kind = draw.choice(list(COMMANDS))
            more = self.prepare(kind, draw)
            try:
                code, text = self.program(*COMMANDS[kind], *more)
            except SystemExit as stop:
                code, text = (stop.code if isinstance(stop.code, int) else 1), "usage"
            except BaseException as error:
                self.failures.append(f"{kind} {self.seed}-{i}: {type(error).__name__}: {str(error)[:200]}")
                code, text = -1, ""
            if code not in (-1, 0, 1, 2) or "Traceback" in text or len(text) > 20_000:
                self.failures.append(f"{kind} {self.seed}-{i}: exit code {code}: {text[:200]!r}")
            self.counts[kind, {0: "taken", -1: "FAILURE"}.get(code, "one message")] += 1

    def prepare(self, kind: str, draw: random.Random) -> tuple[str, ...]:
        """Write the input of one kind; everything else is as it was. Returns what is added to the command."""
        run = Path("r/runs") / self.run_folder
        good = Path("good/runs") / self.run_folder
        for name in ("result.json", "planned.json", "predictions.npz"):
            shutil.copy(good / name, run / name)
        shutil.copy("good/bench.json", "r/bench.json")
        (run / "claim.1").unlink(missing_ok=True)
        if kind == "setting":
            return (mutated(draw.choice(SETTINGS).encode(), draw).decode("latin-1").replace("\x00", ""),)
        if kind == "suite":
            Path("suite.yaml").write_bytes(self.altered(SUITE.encode(), draw, _yaml))
            return ()
        if kind == "claim":
            (run / "result.json").unlink()
            (run / "claim.1").write_bytes(self.altered(json.dumps(CLAIM).encode(), draw, _json))
            return ()
        path = Path("r/bench.json") if kind == "bench" else run / FILES[kind]
        read = None if kind == "predictions" else _json
        path.write_bytes(self.altered(path.read_bytes(), draw, read))
        return ()

    def altered(
        self, data: bytes, draw: random.Random, change: Callable[[bytes, random.Random], bytes] | None
    ) -> bytes:
        return mutated(data, draw) if change is None or draw.random() < 0.3 else change(data, draw)


def _json(data: bytes, draw: random.Random) -> bytes:
    from mmzoo.io.json_file import CHECKSUM, checksum

    value = revalued(json.loads(data), draw)
    if isinstance(value, dict) and CHECKSUM in value and draw.random() < 0.8:
        with contextlib.suppress(TypeError, ValueError):
            value[CHECKSUM] = checksum(value)
    try:
        return json.dumps(value, default=str).encode("utf-8", "surrogatepass")
    except ValueError:  # a value that holds itself
        return mutated(data, draw)


def _yaml(data: bytes, draw: random.Random) -> bytes:
    value = revalued(yaml.safe_load(data), draw)
    return yaml.safe_dump(json.loads(json.dumps(value, default=str))).encode()


def late(*_: Any) -> None:
    raise TimeoutError(f"more than {LIMIT} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, late)
    signal.signal(signal.SIGPROF, late)
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder), arguments.seed)
        fuzzer.run(arguments.inputs)
        os.chdir("/")
    for (kind, outcome), n in sorted(fuzzer.counts.items()):
        print(f"{kind:12} {n:6} {outcome}")
    print(f"{sum(fuzzer.counts.values())} inputs, {len(fuzzer.failures)} failures")
    for failure in fuzzer.failures[:30]:
        print(failure)
    return 1 if fuzzer.failures else 0


if __name__ == "__main__":
    sys.exit(main())

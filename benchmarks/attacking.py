"""How the attacks of `survive.py attacks` are made: each does something hostile or unlucky, and says what has to come of it.

An attack is tried by a copy of this process that becomes the program (`mmzoo.cli.main`), with a time limit. What counts as a
traceback, as a hang, and as a wrong exit code is the same for all; what else must hold stands in each.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmzoo.io.json_file import write_sealed

#: seconds after which a program hangs
PATIENCE = 240
QUICK = ("--no-references", "--epochs", "1", "--seeds", "1", "--workers", "1", "--no-floor")
MANIFEST = "name: q\ntable: t.csv\nmodalities:\n  v: {kind: vector, columns: [x]}\n  w: {kind: vector, columns: [y]}\n"
STRATEGY = "import os, sys, atexit\nfrom mmzoo.api import Strategy\nclass S(Strategy):\n    '''Attacks.'''\n    def losses(self, step, out, terms):\n        {}\n        return terms\n"


@dataclass
class Done:
    """What a program did. code: its exit code; None where it had to be stopped."""

    code: int | None
    text: str
    seconds: float

    def fault(self, code: int | None, words: tuple[str, ...]) -> str:
        """What is not as it must be; empty where all is."""
        if self.code is None:
            return f"hangs (stopped after {self.seconds:.0f} s)"
        if "Traceback (most recent call last)" in self.text:
            return f"traceback: {self.text.strip().splitlines()[-1][:160]}"
        if code is not None and self.code != code:
            return f"exit code {self.code}, not {code}: {self.last}"
        missing = [w for w in words if w not in self.text]
        return f"does not say {missing[0]!r}: {self.last}" if missing else ""

    @property
    def last(self) -> str:
        lines = [line for line in self.text.strip().splitlines() if line.strip()]
        return lines[-1][:160] if lines else "(nothing)"


class Impossible(Exception):
    """The attack cannot be made here; the message says why."""


def program(*arguments: str, limit: float = PATIENCE, setup: Callable[[], None] | None = None) -> Done:
    """`mmzoo ARGUMENTS` in the present folder. setup: done in its process before it begins."""
    began, log = time.monotonic(), Path(f".log-{time.monotonic_ns()}")
    pid = os.fork()
    if not pid:
        _become(arguments, log, setup)
    code: int | None = None
    while time.monotonic() - began < limit:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.05)
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    text = log.read_text(errors="replace") if log.exists() else ""
    log.unlink(missing_ok=True)
    return Done(code, text, time.monotonic() - began)


def _become(arguments: tuple[str, ...], log: Path, setup: Callable[[], None] | None) -> None:
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for number, target in ((0, os.open(os.devnull, os.O_RDONLY)), (1, file), (2, file)):
        os.dup2(target, number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, m, closefd=False) for n, m in ((0, "r"), (1, "w"), (2, "w")))
    code: Any = 1
    try:
        if setup is not None:
            setup()
        from mmzoo.cli import main

        code = main(list(arguments))
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code if isinstance(code, int) else 0)


def table(rows: int = 60, shift: int = 0) -> None:
    lines = [f"i{k},c{(k + shift * (k % 3 == 0)) % 2},{k % 7 + k % 2},{k % 5 + 2 * (k % 2)}" for k in range(rows)]
    Path("t.csv").write_text("id,label,x,y\n" + "\n".join(lines) + "\n")
    Path("m.yaml").write_text(MANIFEST)


def bench(*more: str, out: str = "r", **options: Any) -> Done:
    return program("bench", *("--datasets", "m.yaml") * ("--suite" not in more), *QUICK, "--out", out, *more, **options)


def results() -> Path:
    """A folder of results with one row, made once and copied."""
    if not (made := Path("../made")).exists():
        here = Path.cwd()
        made.mkdir()
        os.chdir(made)
        table()
        if fault := bench("--method", "concat").fault(0, ()):
            raise RuntimeError(f"a plain bench does not work: {fault}")
        os.chdir(here)
    for name in ("t.csv", "m.yaml"):
        shutil.copy(made / name, name)
    shutil.copytree(made / "r", "r")
    return next(Path("r").glob("runs/*/result.json"))


def edited(change: Callable[[dict[str, Any]], Any], *, sealed: bool = True) -> Path:
    path = results()
    row = json.loads(path.read_text())
    change(row)
    if sealed:
        row.pop("checksum")
        write_sealed(path, row)
    else:
        path.write_text(json.dumps(row))
    return path


ATTACKS: dict[str, Callable[[], str]] = {}


def attack(what: str) -> Callable[[Callable[[], str]], Callable[[], str]]:
    """Register an attack. It returns what is wrong, or an empty string; it may raise Impossible."""

    def register(function: Callable[[], str]) -> Callable[[], str]:
        ATTACKS[what] = function
        return function

    return register


def memory(most: int) -> Callable[[], None]:
    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    return limit

"""Attacks by what stands in the place of a file: of a run, of a results folder, of a prepared store; see attacking.py."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attacking import ATTACKS, bench, program, table

THINGS: dict[str, Callable[[Path], Any]] = {
    "a pipe": lambda p: os.mkfifo(p),
    "a folder": lambda p: p.mkdir(),
    "a link to /dev/zero": lambda p: p.symlink_to("/dev/zero"),
    "random bytes": lambda p: p.write_bytes(bytes((i * i * 31 + i) % 251 for i in range(3000))),
}
#: what is put in the place of at once, by its name in the list
OF_A_RUN = {
    "a row": ("result.json",),
    "what a run keeps beside its row": (
        "history.jsonl",
        "planned.json",
        "predictions.npz",
        "log.txt",
        "model.safetensors",
        "inputs.json",
    ),
    "the checkpoint and the claim of a run that has no row": ("checkpoint.pt", "claim.1"),
    "bench.json": ("../../bench.json",),
}
OF_A_STORE = {
    "a store's meta.json": ("meta.json",),
    "a store's index and arrays": ("index.csv", "v.npy"),
    "what is noted of a store": ("prepared.json",),
}
READERS = (
    ("report", "r", "--details", "--stats", "--modalities"),
    ("report", "r", "--format", "json"),
    ("status", "r"),
    ("runs", "r"),
    ("predictions", "r"),
    ("compare", "concat", "sum", "--in", "r"),
    ("export", "RUN", "-o", "exported"),
    ("predict", "RUN", "new.csv"),
)
STORE_READERS = (("data", "show", "m.yaml"), ("data", "check", "m.yaml"), ("data", "list"))
BENCH = ("--method", "concat", "--baselines", "sum", "--keep-weights", "--epochs", "2")


def _made() -> Path:
    """A results folder of two runs that kept their weights and the store of their data, made once and copied. Returns a run."""
    if not (made := Path("../made-files")).exists():
        here = Path.cwd()
        made.mkdir()
        os.chdir(made)
        table()
        lines = Path("t.csv").read_text().splitlines()[:9]
        Path("new.csv").write_text("\n".join(",".join(c for i, c in enumerate(x.split(",")) if i != 1) for x in lines))
        if fault := bench(*BENCH, setup=_own_home).fault(0, ()):
            raise RuntimeError(f"a plain bench does not work: {fault}")
        os.chdir(here)
    shutil.copytree(made, ".", dirs_exist_ok=True)
    return sorted(Path("r/runs").iterdir())[0]


def _own_home() -> None:
    os.environ["MMZOO_HOME"] = str(Path("home").absolute())


def _tried(commands: tuple[tuple[str, ...], ...], run: Path) -> Iterator[str]:
    for command in commands:
        done = program(*(str(run) if c == "RUN" else c for c in command), limit=120, setup=_own_home)
        if fault := done.fault(None, ()) or _odd(done):
            yield f"{' '.join(command)}: {fault}"


def _odd(done: Any) -> str:
    """What is odd about how a program ended: another code, or bad input without its one message."""
    if done.code not in (0, 1, 2):
        return f"exit code {done.code}: {done.last}"
    told = "mmzoo: " in done.text or "cannot be used" in done.text
    return "" if done.code != 2 or told else f"code 2 without a message: {done.last}"


def _again() -> str:
    """A bench that is begun again, and what it left."""
    done = bench(*BENCH, setup=_own_home)
    if fault := done.fault(None, ()) or _odd(done):
        return f"bench: {fault}"
    after = program("report", "r", setup=_own_home)
    return "" if done.code or not (fault := after.fault(0, ("concat", "sum"))) else f"report after the bench: {fault}"


def _register() -> None:
    for thing, make in THINGS.items():
        for what, names in {**OF_A_RUN, **OF_A_STORE}.items():

            def run(what: str = what, names: tuple[str, ...] = names, make: Any = make) -> str:
                of_a_run = what in OF_A_RUN
                run = _made()
                (folder,) = (run,) if of_a_run else (p.parent for p in Path("home").glob("stores/q/*/meta.json"))
                if "checkpoint.pt" in names:
                    (run / "result.json").unlink()
                for name in names:
                    (folder / name).unlink(missing_ok=True)
                    make(folder / name)
                return next(_tried(READERS if of_a_run else (*STORE_READERS, *READERS), run), "") or _again()

            ATTACKS[f"{thing} in the place of {what}, every command"] = run


_register()

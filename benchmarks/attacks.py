"""Attacks by strategies and results folders, and the list of all of them; see attacking.py."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attacking import (
    ATTACKS,
    STRATEGY,
    Impossible,
    attack,
    bench,
    edited,
    memory,
    program,
    results,
    table,
)


def _strategies() -> None:
    named = {
        "ends with exit code 0": ("sys.exit(0)", "must not end its process"),
        "ends with exit code 3": ("sys.exit(3)", "must not end its process"),
        "raises KeyboardInterrupt": ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        "raises GeneratorExit": ("raise GeneratorExit", "GeneratorExit"),
        "raises a BaseException of its own": ("raise type('Odd', (BaseException,), {})()", "Odd"),
        "raises what cannot be shown": (
            "raise type('E', (Exception,), {'__str__': lambda s: 1 / 0})()",
            "cannot be shown",
        ),
        "leaves by os._exit": ("os._exit(130)", "fail"),
        "kills its process": ("os.kill(os.getpid(), 9)", "fail"),
        "asks for input": ("input('?')", "EOFError"),
    }
    for name, (body, word) in named.items():

        def run(body: str = body, word: str = word) -> str:
            table()
            Path("s.py").write_text(STRATEGY.format(body))
            done = bench("--method", "./s.py:S", "--workers", "2", "--seeds", "2")
            return done.fault(1, (word,))

        ATTACKS[f"a strategy {name} (two workers)"] = run


_strategies()


@attack("a strategy ends its process beside another method")
def _beside() -> str:
    table()
    Path("s.py").write_text(STRATEGY.format("sys.exit(3)"))
    done = bench("--method", "./s.py:S", "--baselines", "concat,sum", "--workers", "2")
    rows = [json.loads(p.read_text())["status"] for p in Path("r").glob("runs/*/result.json")]
    return done.fault(1, ()) or ("" if sorted(rows) == ["failed", "ok", "ok"] else f"rows: {rows}")


@attack("a strategy prints at the end of its process")
def _prints() -> str:
    table()
    Path("s.py").write_text(STRATEGY.format("atexit.register(print, 'bye')"))
    return bench("--method", "./s.py:S", "--workers", "2", "--seeds", "2").fault(0, ())


@attack("a strategy edits its own file while the bench runs")
def _edits_itself() -> str:
    table()
    body = "open(__file__, 'a').write('# other\\n') if step.run.epoch == 0 and step.run.batch_in_epoch == 0 else None"
    Path("s.py").write_text(STRATEGY.format(body))
    done = bench("--method", "./s.py:S", "--seeds", "2")
    rows = [json.loads(p.read_text()) for p in Path("r").glob("runs/*/result.json")]
    late = [r for r in rows if r["status"] != "failed" and r["seed"] == 1]
    return done.fault(1, ("edited",)) or ("the second run has a row of other code" if late else "")


@attack("a module that a strategy imports is edited between two benches")
def _edited_helper() -> str:
    table()
    Path("h.py").write_text("K = 1.0\n")
    code = STRATEGY.format("return {k: h.K * v for k, v in terms.items()}").replace("import os", "import h, os")
    Path("s.py").write_text(code)
    if fault := bench("--method", "./s.py:S").fault(0, ()):
        return fault
    Path("h.py").write_text("K = 0.01\n")
    if fault := bench("--method", "./s.py:S").fault(0, ()):
        return fault
    return "" if len(list(Path("r").glob("runs/*"))) == 2 else "both have one id"


@attack("a results folder names code in it (checksum made to fit)")
def _named_code() -> str:
    path = edited(lambda row: row["spec"]["parts"][0].__setitem__("strategy", "r/evil.py:Evil"))
    Path("r/evil.py").write_text(
        "open('RAN', 'w').close()\nfrom mmzoo.api import Strategy\nclass Evil(Strategy):\n    pass\n"
    )
    for command in (
        ["report", "r"],
        ["report", "r", "--stats"],
        ["status", "r"],
        ["predict", str(path.parent), "t.csv"],
    ):
        done = program(*command)
        if Path("RAN").exists():
            return f"{command[0]} ran it"
        if fault := done.fault(None, ()):
            return f"{command[0]}: {fault}"
    return ""


@attack("a strategy deletes the results folder in mid-run")
def _deletes() -> str:
    table()
    Path("s.py").write_text(STRATEGY.format("__import__('shutil').rmtree('r', ignore_errors=True)"))
    return bench("--method", "./s.py:S").fault(1, ())


def _row_edits() -> None:
    edits: dict[str, tuple[Callable[[dict[str, Any]], Any], bool, tuple[str, ...]]] = {
        "another digit": (lambda r: r["metrics"].__setitem__("acc", 0.999), False, ("checksum",)),
        "250 %": (lambda r: r["metrics"].__setitem__("acc", 2.5), True, ("acc",)),
        "-100 %": (lambda r: r["metrics"].__setitem__("acc", -1), True, ("acc",)),
        "a count in letters": (lambda r: r["metrics"].__setitem__("n_seen", "x"), True, ("n_seen",)),
        "a number of 400 digits": (lambda r: r["cost"].__setitem__("backward", 10**400), False, ()),
        "no spec": (lambda r: r.pop("spec"), True, ("spec",)),
        "the name of another run": (lambda r: r.__setitem__("run_id", "0" * 16), True, ()),
    }
    for name, (change, sealed, words) in edits.items():

        def run(change: Any = change, sealed: bool = sealed, words: tuple[str, ...] = words) -> str:
            path = edited(change, sealed=sealed)
            return program("report", "r").fault(2, (path.parent.name, *words))

        ATTACKS[f"a row says {name}"] = run
    texts = {
        "a key twice": lambda t: t.replace('"status"', '"status": "ok", "status"', 1),
        "a number of 5,000 digits": lambda t: t.replace('"seed":', f'"seed": {"9" * 5000}, "x":', 1),
        "100,000 brackets": lambda t: "[" * 100_000,
        "NaN": lambda t: t.replace('"acc":', '"acc": NaN, "b":', 1),
        "nothing": lambda t: "",
        "bytes": lambda t: "\x00\xff\x1b[31m" * 100,
    }
    for name, alter in texts.items():

        def run(alter: Any = alter) -> str:
            path = results()
            path.write_text(alter(path.read_text()), encoding="latin-1")
            return program("report", "r").fault(2, (path.parent.name,))

        ATTACKS[f"a row is {name}"] = run


_row_edits()


def _things() -> None:
    """What is no file, where a row or a claim is looked for."""
    kinds: dict[str, Callable[[Path], Any]] = {
        "a pipe": lambda p: os.mkfifo(p),
        "a folder": lambda p: p.mkdir(),
        "a link to nowhere": lambda p: p.symlink_to("nowhere"),
        "a link to /dev/zero": lambda p: p.symlink_to("/dev/zero"),
        "a link to itself": lambda p: p.symlink_to(p.name),
    }
    for name, make in kinds.items():

        def as_row(make: Any = make) -> str:
            path = results()
            path.unlink()
            make(path)
            for command in (("report", "r"), ("status", "r")):
                if fault := program(*command, limit=60).fault(None, ()):
                    return f"{command[0]}: {fault}"
            return ""

        def as_claim(make: Any = make) -> str:
            path = results()
            path.unlink()
            make(path.parent / "claim.1")
            if fault := program("status", "r", limit=60).fault(None, ()):
                return f"status: {fault}"
            return bench("--method", "concat").fault(None, ())

        ATTACKS[f"{name} in place of a row"] = as_row
        ATTACKS[f"{name} in place of a claim"] = as_claim


_things()


@attack("a package replaces a function of torch at its import")
def _patched() -> str:
    table()
    package, facts = Path("site/evil"), Path("site/evil-1.2.dist-info")
    package.mkdir(parents=True)
    facts.mkdir()
    code = (
        "import torch.nn.functional as F\nold = F.cross_entropy\nF.cross_entropy = lambda *a, **k: 0 * old(*a, **k)\n"
    )
    (package / "__init__.py").write_text(code)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.2\n")
    (facts / "entry_points.txt").write_text("[mmzoo]\nevil = evil\n")

    def there() -> None:
        sys.path.insert(0, str(Path("site").absolute()))
        os.environ["MMZOO_PLUGINS"] = "evil"

    if fault := bench("--method", "concat").fault(0, ()) or bench("--method", "sum", setup=there).fault(0, ()):
        return fault
    named = "torch.nn.functional.cross_entropy"
    rows = [json.loads(p.read_text())["environment"] for p in Path("r").glob("runs/*/result.json")]
    if [named in str(row.get("replaced")) and row["packages"] == {"evil": "1.2"} for row in rows].count(True) != 1:
        return f"environments: {rows}"
    return program("report", "r").fault(0, ("functions of torch replaced", named)) or program(
        "plugins", "--check", setup=there
    ).fault(1, (f"note: {named} is replaced by code of evil",))


@attack("predictions that unpack to 4 GB")
def _zip_bomb() -> str:
    path = results().parent / "predictions.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
        packed.open("joint/scores.npy", "w", force_zip64=True) as f,
    ):
        for _ in range(1000):
            f.write(bytes(1 << 20))
    return program("report", "r", "--stats", setup=memory(6 << 30)).fault(None, ())


@attack("predictions that are a pickle")
def _pickle() -> str:
    path = results().parent / "predictions.npz"

    class Evil:
        def __reduce__(self) -> Any:
            return (os.system, ("touch RAN",))

    path.write_bytes(pickle.dumps(Evil()))
    done = program("report", "r", "--stats")
    return "it was run" if Path("RAN").exists() else done.fault(None, ())


def attacks(folder: Path, only: str = "") -> list[dict[str, Any]]:
    """Make each attack in a folder of its own. Returns what was done, whether it held, and what was seen."""
    os.environ |= {"MMZOO_PLUGINS": "", "OMP_NUM_THREADS": "1", "MMZOO_HOME": str(folder / "home")}
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
    )
    import torch  # noqa: F401  the copies have it then

    found = []
    for number, (what, function) in enumerate(ATTACKS.items()):
        if only and only not in what:
            continue
        place = folder / f"attack-{number:02d}"
        place.mkdir(parents=True)
        os.chdir(place)
        began = time.monotonic()
        try:
            seen = function()
            outcome = "held" if not seen else "NOT HELD"
        except Impossible as reason:
            seen, outcome = str(reason), "skipped"
        seconds = round(time.monotonic() - began, 1)
        found.append({"attack": what, "outcome": outcome, "seen": seen, "seconds": seconds})
        print(f"{outcome:8}  {what}{': ' + seen if seen else ''} ({seconds} s)", file=sys.stderr, flush=True)
        os.chdir(folder)
        shutil.rmtree(place, ignore_errors=True)
    return found

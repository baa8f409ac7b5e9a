"""The attacks of `survive.py attacks`: each does something hostile or unlucky, and says what has to come of it.

An attack is tried by a copy of this process that becomes the program (`mmzoo.cli.main`), with a time limit. What counts as a
traceback, as a hang, and as a wrong exit code is the same for all; what else must hold stands in each.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
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


@attack("predictions that unpack to 4 GB")
def _zip_bomb() -> str:
    path = results().parent / "predictions.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
        packed.open("joint/scores.npy", "w", force_zip64=True) as f,
    ):
        for _ in range(1000):
            f.write(bytes(1 << 20))
    return program("report", "r", "--stats", setup=_memory(6 << 30)).fault(None, ())


@attack("predictions that are a pickle")
def _pickle() -> str:
    path = results().parent / "predictions.npz"
    import pickle

    class Evil:
        def __reduce__(self) -> Any:
            return (os.system, ("touch RAN",))

    path.write_bytes(pickle.dumps(Evil()))
    done = program("report", "r", "--stats")
    return "it was run" if Path("RAN").exists() else done.fault(None, ())


def _memory(most: int) -> Callable[[], None]:
    def limit() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (most, most))

    return limit


def _bomb() -> str:
    text, last = 'a: &a ["l","l","l","l","l","l","l","l","l"]\n', "a"
    for c in "bcdefghijk":
        text += f"{c}: &{c} [{','.join(['*' + last] * 9)}]\n"
        last = c
    return text + f"name: *{last}\n"


def _manifests() -> None:
    texts = {
        "an alias bomb": _bomb() + "table: t.csv\nmodalities: {v: image}\n",
        "a number of 5,000 hexadecimal digits": MANIFEST + f"classes: [0x{'f' * 5000}, b]\n",
        "an absolute table outside its folder": MANIFEST.replace("t.csv", "/etc/passwd"),
        "a table above its folder": MANIFEST.replace("t.csv", "../../../../etc/passwd"),
        "/dev/zero as table": MANIFEST.replace("t.csv", "/dev/zero"),
        "/dev/urandom as table": MANIFEST.replace("t.csv", "/dev/urandom"),
        "a pipe as table": MANIFEST.replace("t.csv", "pipe.csv"),
        "a link to /dev/zero as table": MANIFEST.replace("t.csv", "link.csv"),
        "Python objects": MANIFEST + "x: !!python/object/apply:os.system ['touch RAN']\n",
        "50,000 nested lists": MANIFEST + "x: " + "[" * 50_000 + "\n",
        "a key twice": MANIFEST + "name: other\n",
        "bytes": "\x00\x01\x02",
    }
    for name, text in texts.items():

        def run(text: str = text) -> str:
            table()
            os.mkfifo("pipe.csv")
            Path("link.csv").symlink_to("/dev/zero")
            Path("m.yaml").write_text(text)
            done = program("data", "check", "m.yaml", limit=90, setup=_memory(6 << 30))
            return "it was run" if Path("RAN").exists() else done.fault(2, ("m.yaml" if "bomb" in text else "",))

        ATTACKS[f"a manifest with {name}"] = run


_manifests()


@attack("a suite with an alias bomb")
def _suite_bomb() -> str:
    table()
    Path("suite.yaml").write_text(_bomb().replace("name:", "method:"))
    return program("bench", "--suite", "suite.yaml", "--plan", limit=90).fault(2, ())


@attack("a manifest that is a pipe")
def _pipe_manifest() -> str:
    os.mkfifo("m.yaml")
    return program("data", "check", "m.yaml", limit=60).fault(2, ("m.yaml",))


@attack("a table of 100,000 columns")
def _wide() -> str:
    table()
    names = ",".join(f"c{i}" for i in range(100_000))
    Path("t.csv").write_text(
        f"id,label,x,y,{names}\n" + "".join(f"i{k},{k % 2},1,{k}{',1' * 100_000}\n" for k in range(30))
    )
    return program("data", "check", "m.yaml", limit=90).fault(0, ())


@attack("escape sequences and formulas in ids, labels and headers")
def _escapes() -> str:
    rows = [f"\x1b[31m=1+1 {k},\x1b]0;x\x07c{k % 2},{k % 7},{k % 5}" for k in range(60)]
    Path("t.csv").write_text("id,label,x,y\n" + "\n".join(rows) + "\n")
    Path("m.yaml").write_text(MANIFEST)
    if fault := (done := bench("--method", "concat")).fault(0, ()):
        return fault
    seen = [
        done,
        program("report", "r", "--details"),
        program("data", "check", "m.yaml"),
        program("predictions", "r", "--csv"),
    ]
    if any("\x1b[31m" in d.text or "\x1b]0" in d.text for d in seen):
        return "an escape sequence reaches the terminal"
    cells = [cell for line in seen[-1].text.splitlines() for cell in line.split(",")]
    return "a cell begins with =" if any(c.strip('"').startswith("=") for c in cells) else ""


def _streams() -> None:
    def closed() -> None:
        os.close(1)

    def full() -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)

    def few() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))

    for name, setup, code in (("closed", closed, 0), ("full", full, 1)):

        def run(setup: Any = setup, code: int = code) -> str:
            table()
            done = bench("--method", "concat", setup=setup)
            rows = len(list(Path("r").glob("runs/*/result.json")))
            return done.fault(code, ()) or ("" if rows == 1 else f"{rows} rows")

        ATTACKS[f"standard output is {name}"] = run

    @attack("20 file descriptors")
    def _few() -> str:
        table()
        return bench("--method", "concat", "--workers", "6", "--seeds", "6", setup=few).fault(None, ())


_streams()


@attack("bench | head -1")
def _head() -> str:
    table()
    command = f"{sys.executable} -m mmzoo bench --datasets m.yaml {' '.join(QUICK)} --method concat --out r | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=PATIENCE, check=False)
    code, rows = done.stdout.split()[-1], len(list(Path("r").glob("runs/*/result.json")))
    if "Traceback" in done.stderr:
        return "traceback"
    return "" if code != "0" or rows == 1 else f"exit code {code} and {rows} rows"


@attack("a video of 4,096 frames of 4,096 x 4,096 is declared")
def _large_video() -> str:
    table()
    Path("t.csv").write_text("id,label,m,x\n" + "".join(f"i{k},{k % 2},,{k}\n" for k in range(30)))
    text = "name: v\ntable: t.csv\nmodalities:\n  m: {kind: video, frames: 4096, size: 4096}\n  x: {kind: vector, columns: [x]}\n"
    Path("m.yaml").write_text(text)
    return program("data", "prepare", "m.yaml", "--jobs", "1", setup=_memory(8 << 30)).fault(2, ())


@attack("a picture that claims 60,000 x 60,000 pixels")
def _large_picture() -> str:
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    Path("p.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    Path("t.csv").write_text("id,label,m,x\n" + "".join(f"i{k},{k % 2},p.png,{k}\n" for k in range(30)))
    text = "name: v\ntable: t.csv\nmodalities:\n  m: {kind: image, size: 16}\n  x: {kind: vector, columns: [x]}\n"
    Path("m.yaml").write_text(text)
    return program("data", "check", "m.yaml", setup=_memory(8 << 30)).fault(1, ("p.png",))


@attack("labels are corrected between two benches into one folder")
def _two_contents() -> str:
    table()
    if fault := bench("--method", "concat").fault(0, ()):
        return fault
    table(shift=1)
    if fault := bench("--method", "sum").fault(0, ()):
        return fault
    done = program("report", "r", "--stats")
    heads = [line for line in done.text.splitlines() if line.startswith("###") and " q" in f" {line}"]
    return done.fault(0, ("other content",)) or ("" if len(set(heads)) > 1 else f"one heading: {heads}")


@contextlib.contextmanager
def _small_disk(size: str) -> Iterator[Path]:
    """A file system of so many bytes."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        raise Impossible("needs root, to mount a small file system")
    disk = Path("disk").absolute()
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", disk], check=False).returncode:
        raise Impossible("mount is not permitted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=False)


@attack("the disk of the results is full, two workers")
def _full_disk() -> str:
    table()
    with _small_disk("100k") as disk:
        done = bench("--method", "concat", "--seeds", "4", "--workers", "2", out=str(disk / "r"))
        return done.fault(2, ("No space left",))


@attack("MMZOO_HOME is full")
def _full_home() -> str:
    table(4000)
    with _small_disk("16k") as disk:
        done = bench("--method", "concat", setup=lambda: os.environ.__setitem__("MMZOO_HOME", str(disk)))
        return done.fault(2, ("No space left",))


@attack("MMZOO_HOME is read-only: what is prepared stays usable")
def _readonly_home() -> str:
    table()
    with _small_disk("50M") as disk:

        def there() -> None:
            os.environ["MMZOO_HOME"] = str(disk)

        if fault := bench("--method", "concat", setup=there).fault(0, ()):
            return fault
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        if fault := bench("--method", "sum", setup=there).fault(0, ()):
            return fault
        table(shift=1)
        return bench("--method", "sum", setup=there).fault(2, ("Read-only",))


@attack("a run's folder may not be read any more")
def _unreadable() -> str:
    if os.geteuid() == 0:
        raise Impossible("root may read everything")
    path = results().parent
    path.chmod(0)
    try:
        return program("status", "r").fault(None, ())
    finally:
        path.chmod(0o755)


@attack("the clock steps back by a day while a bench runs")
def _clock() -> str:
    raise Impossible("would set the clock of this machine")


@attack("a model's own code on the Hugging Face hub")
def _remote_code() -> str:
    raise Impossible("needs a network")


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

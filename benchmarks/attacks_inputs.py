"""Attacks by manifests, tables, media, streams and disks; see attacking.py."""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attacking import (
    ATTACKS,
    MANIFEST,
    PATIENCE,
    QUICK,
    Impossible,
    attack,
    bench,
    memory,
    program,
    results,
    table,
)


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
            done = program("data", "check", "m.yaml", limit=90, setup=memory(6 << 30))
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
        program("predictions", "r"),
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
    return program("data", "prepare", "m.yaml", "--jobs", "1", setup=memory(8 << 30)).fault(2, ())


@attack("a picture that claims 60,000 x 60,000 pixels")
def _large_picture() -> str:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    Path("p.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )
    Path("t.csv").write_text("id,label,m,x\n" + "".join(f"i{k},{k % 2},p.png,{k}\n" for k in range(30)))
    text = "name: v\ntable: t.csv\nmodalities:\n  m: {kind: image, size: 16}\n  x: {kind: vector, columns: [x]}\n"
    Path("m.yaml").write_text(text)
    return program("data", "check", "m.yaml", setup=memory(8 << 30)).fault(
        1, ("i0 m: the picture cannot be decoded", "30 broken")
    )


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
        return done.fault(2, ("GB free",))


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


def _unreadable() -> None:
    for name, closed in (
        ("a run's folder", "r/runs/*"),
        ("the folder of the runs", "r/runs"),
        ("a row", "r/runs/*/result.json"),
    ):

        @attack(f"{name} may not be read any more")
        def _run(closed: str = closed) -> str:
            results()
            (path,) = Path().glob(closed)
            drop = "-dac_override,-dac_read_search"  # root may read everything else
            bound = ["setpriv", f"--bounding-set={drop}", f"--inh-caps={drop}"] if os.geteuid() == 0 else []
            if bound and not shutil.which("setpriv"):
                raise Impossible("needs setpriv, since root may read everything")
            path.chmod(0)
            try:
                for command in ("status", "report"):
                    given = [*bound, sys.executable, "-m", "mmzoo", command, "r"]
                    done = subprocess.run(given, capture_output=True, text=True, timeout=PATIENCE, check=False)
                    if "Traceback" in done.stderr or "Permission denied" not in done.stdout + done.stderr:
                        return f"{command}: exit code {done.returncode}: {done.stderr[-200:]}"
            finally:
                path.chmod(0o755)
            return ""


_unreadable()


@attack("the clock steps back by a day while a bench runs")
def _clock() -> str:
    raise Impossible("would set the clock of this machine")


@attack("a model's own code on the Hugging Face hub")
def _remote_code() -> str:
    raise Impossible("needs a network")

"""`mmzoo doctor`: what the installation is made of, and what about it is broken. No torch at import."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from mmzoo import __version__
from mmzoo.errors import MmzooError, said
from mmzoo.registry import BUILT_IN

#: below this many bytes free, a bench or a prepare is likely to stop
LITTLE = 2 * 10**9


@dataclass
class Finding:
    """One line of the report: what was looked at, what was found, whether it is broken, and what to do."""

    what: str
    found: str
    broken: bool = False
    advice: tuple[str, ...] = field(default=())


def run(arguments: argparse.Namespace) -> int:
    parts = {
        "program": [
            Finding("mmzoo", __version__),
            Finding("Python", f"{platform.python_version()} ({sys.executable})"),
        ],
        "packages": list(_packages()),
        "device": list(_device()),
        "folders": list(_folders()),
        "plugins": list(_plugins()),
        "data sets": list(_datasets()),
    }
    broken = [f for findings in parts.values() for f in findings if f.broken]
    if arguments.json:
        print(json.dumps({**{k: [vars(f) for f in v] for k, v in parts.items()}, "ok": not broken}, indent=1))
        return int(bool(broken))
    for title, findings in parts.items():
        print(f"{title}:")
        width = max(len(f.what) for f in findings)
        for f in findings:
            print(f"  {f.what:{width}}  {'BROKEN: ' if f.broken else ''}{f.found}")
            for line in f.advice:
                print(f"  {'':{width}}    {line}")
    print(f"{len(broken)} broken: {', '.join(f.what for f in broken)}." if broken else "Nothing is broken.")
    return int(bool(broken))


# ---------------------------------------------------------------------- packages
def _packages() -> Iterator[Finding]:
    """What mmzoo needs, each with its version; then each extra, with what it lacks."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(text) for text in metadata.requires("mmzoo") or ()]
    except metadata.PackageNotFoundError:
        yield Finding("mmzoo", "not installed, run from its source tree: versions are not checked")
        return
    for r in wanted:
        if r.marker is None or r.marker.evaluate({"extra": ""}):
            version = _version(r.name)
            fits = version is not None and r.specifier.contains(version, prereleases=True)
            advice = () if fits else (f"mmzoo needs {r}: pip install '{r.name}{r.specifier}'",)
            yield Finding(r.name, version or "missing", not fits, advice)
    for extra in metadata.metadata("mmzoo").get_all("Provides-Extra") or ():
        mine = [r for r in wanted if r.marker is not None and r.marker.evaluate({"extra": extra})]
        lacks = [r.name for r in mine if _version(r.name) is None]
        advice = (f"pip install 'mmzoo[{extra}]'",) if lacks else ()
        yield Finding(f"[{extra}]", f"without {', '.join(lacks)}" if lacks else "complete", False, advice)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# ---------------------------------------------------------------------- the machine
def _device() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:
        yield Finding("torch", f"cannot be imported: {said(error)}", True, ("Install it again: https://pytorch.org",))
        return
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            yield Finding(f"cuda:{i}", f"{torch.cuda.get_device_name(i)}, {_size(free)} of {_size(total)} free")
    else:
        why = f"torch {torch.__version__} is built " + (
            f"for CUDA {torch.version.cuda}, and finds no GPU" if torch.version.cuda else "without CUDA"
        )
        yield Finding("cpu", f"no CUDA device: {why}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("threads", f"{torch.get_num_threads()} of torch, {cores} cores may be used")
    names = ("MMZOO_WORKERS", "MMZOO_DATASETS", "MMZOO_PLUGINS", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HF_HOME")
    given = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    if given:
        yield Finding("environment", ", ".join(given))


def _folders() -> Iterator[Finding]:
    """Where mmzoo writes: the stores, and results below the present folder."""
    from mmzoo.data.store.home import home

    try:
        yield _folder("stores", home(), "set MMZOO_HOME to a folder with room")
    except MmzooError as error:
        yield Finding("stores", str(error), True)
    yield _folder("results", Path.cwd(), "start mmzoo in a folder of yours, or name one: --out DIR")


def _folder(what: str, path: Path, advice: str) -> Finding:
    there = next(p for p in (path, *path.parents) if p.exists())
    free = shutil.disk_usage(there).free
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return Finding(what, f"{path}: cannot be written ({error.strerror})", True, (advice,))
    low = free < LITTLE
    return Finding(what, f"{path}, {_size(free)} free", free == 0, (f"little room: {advice}",) if low else ())


def _size(n: float) -> str:
    return f"{n / 1e9:.1f} GB"


# ---------------------------------------------------------------------- what can be named
def _plugins() -> Iterator[Finding]:
    from mmzoo.registry.plugins import load

    for p in load().plugins:
        bad = p.status in ("failed", "slow")
        found = f"{p.version}, {p.status}, {p.entries} entries"
        advice = tuple(line for text in (p.reason, *p.notes) for line in text.splitlines())
        yield Finding(p.name, found, bad and p.name != BUILT_IN, advice)


def _datasets() -> Iterator[Finding]:
    """Which data sets can be benched, and what the others need."""
    from mmzoo.registry.plugins import catalogue

    for entry in catalogue().entries("datasets"):
        if not entry.extra.get("prepared"):
            yield Finding(entry.name, f"ready: comes with {entry.package}")
            continue
        try:
            yield _prepared(entry)
        except MmzooError as error:
            yield Finding(entry.name, str(error), True)


def _prepared(entry: Any) -> Finding:
    """A data set that has to be prepared: its stores, else where its files come from."""
    from mmzoo.cli.data.stores import lacking_splits, store_line
    from mmzoo.data.store.home import mini_root
    from mmzoo.data.store.store import find_stores

    real, twins = ([*find_stores(entry.name, mini=mini)] for mini in (False, True))
    if real:
        lacking = tuple(line for store in real for line in lacking_splits(store))
        return Finding(entry.name, "ready: " + "; ".join(map(store_line, real)), advice=lacking)
    source = entry.load()()
    try:
        if source.root is not None:
            return Finding(entry.name, "not prepared; a bench does it", advice=(f"mmzoo data prepare {entry.name}",))
    except MmzooError as error:  # the package that it comes with is not there
        return Finding(entry.name, f"not there: {error}")
    get = (f"get it: {source.obtain}",) if source.obtain else ()
    advice = (*get, f"then: mmzoo data prepare {entry.name} --root DIR")
    if twins:
        return Finding(entry.name, "synthetic set only: " + "; ".join(map(store_line, twins)), advice=advice)
    mini = "prepare it: " if mini_root(entry.name).is_dir() else f"mmzoo data mini {entry.name}, then "
    return Finding(
        entry.name,
        "not prepared; a bench generates a synthetic set where it needs one",
        advice=(*advice, f"or a synthetic set: {mini}mmzoo data prepare {entry.name} --mini"),
    )

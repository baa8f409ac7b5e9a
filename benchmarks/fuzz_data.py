"""Feeds mutated manifests, tables, annotation files, media and stores to the data layer.

    python benchmarks/fuzz_data.py [--inputs 10000] [--seed 0]

Each input is a good one with one to four mutations: bytes changed, cut, doubled, moved or replaced by what upsets parsers; or,
where bytes would seldom get past the syntax, values of a manifest, cells of a table and values of a store's meta.json in place of
others, the last with its hash made to fit. What may come of it: the same as before, other data, faults by name, or an error of mmzoo's. What may not: any other exception, more
than 20 seconds, or a store that opens although one of its files is not as it was written. Prints what came of each kind of
input, and every failure with the seed that gives it again; exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
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

import numpy as np

LIMIT = 20
TOKENS = [
    b"\x00",
    b'"',
    b"'",
    b",",
    b"\n",
    b"\r\n",
    b"\t",
    b"../../etc/passwd",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"nan",
    b"1e999",
    b"-1",
    "é鳥\u202e".encode(),
    b"{",
    b"[",
    b": ",
    b"- ",
    b"&a *a",
    b"!!python/object",
    b"%s",
    b"\\",
    b"9" * 40,
    b"#",
    b"\x1a",
]
MANIFEST = """name: fuzzed
table: items.csv
id: id
modalities:
  picture: {kind: image, size: 16}
  sound: {kind: audio, seconds: 0.1, rate: 8000, n_fft: 64, hop: 32}
  clip: {kind: video, frames: 2, size: 16}
  words: {kind: text, length: 8, pair: more}
  sensors: {kind: vector, columns: [x, y]}
  features: {kind: vector, column: features, width: 3}
reading: {size: 12, crop: true}
training: {epochs: 2, lr: 0.1}
encoders: {image: {name: cnn, params: {width: 8}}}
"""


def mutated(data: bytes, draw: random.Random) -> bytes:
    """One to four changes."""
    for _ in range(draw.randint(1, 4)):
        a, b = sorted((draw.randint(0, len(data)), draw.randint(0, len(data))))
        b = min(b, a + draw.choice([1, 4, 64, 1 << 20]))
        way = draw.randrange(7)
        if way == 0:
            data = data[:a] + bytes(draw.randrange(256) for _ in range(min(b - a, 64))) + data[b:]
        elif way == 1:
            data = data[:a] + data[b:]
        elif way == 2:
            data = data[:b] + data[a:b] + data[b:]
        elif way == 3:
            data = data[:a]
        elif way == 4:
            data = data[:a] + draw.choice(TOKENS) + data[a:]
        elif way == 5:
            data = data[:a] + draw.choice(TOKENS) + data[b:]
        else:
            data = data[b:] + data[a:b] + data[:a]
    return data


#: what may stand in place of a value or a cell
ODD: list[Any] = [
    None,
    True,
    0,
    -1,
    1,
    2**70,
    0.5,
    float("nan"),
    float("inf"),
    "",
    " ",
    "a",
    "label",
    "../x",
    "/etc/passwd",
    "0.png",
    "0.mp4",
    "\x00",
    "é鳥",
    "9" * 5000,
    [],
    [[]],
    ["x", "x"],
    {},
    {"kind": "image"},
    {1: 2},
    "image",
    "mlp",
    "train",
]


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values within nested lists and mappings."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, x in inner for p in [(*at, key), *places(x, (*at, key))]]


def revalued(tree: Any, draw: random.Random) -> Any:
    """One or two values replaced, removed, or put at a key of another name."""
    for _ in range(draw.randint(1, 2)):
        if not (found := places(tree)):
            return tree
        *way, last = draw.choice(found)
        inner = tree
        for key in way:
            inner = inner[key]
        how = draw.randrange(5)
        if how == 0:
            del inner[last]
        elif how == 1 and isinstance(inner, dict):
            inner[draw.choice(["", "x", "kind", "pair", 3])] = inner.pop(last)
        else:
            inner[last] = draw.choice(ODD)
    return tree


class Fuzzer:
    """The good inputs, made once, and what is done with mutated ones. counts: (kind of input, outcome) -> how many."""

    def __init__(self, top: Path, seed: int) -> None:
        import mmzoo.data.loading.prepared  # torch takes its time, which is no input's fault
        from mmzoo.data.own.manifest import read_manifest
        from mmzoo.data.preparing.prepare import prepare

        assert mmzoo.data.loading.prepared
        self.seed, self.top, self.good = seed, top, top / "good"
        self.counts: Counter[tuple[str, str]] = Counter()
        self.failures: list[str] = []
        make_data(self.good)
        self.source = read_manifest(self.good / "own.yaml")
        self.store = prepare(self.source, self.good, jobs=0, folder=top / "store").store.folder
        self.whole = contents(self.store)
        self.twins = twins(top / "twins")
        self.ways: dict[str, Callable[[random.Random], str]] = {
            "manifest": self.manifest,
            "table": self.table,
            "media": self.media,
            "store": self.stored,
            "whole": self.prepared,
            "values": self.values,
            "cells": self.cells,
            "meta": self.meta,
            **({"annotation": self.annotation} if self.twins else {}),
        }

    def run(self, n: int) -> None:
        """n inputs, of all kinds in turn; a whole prepare, which takes longest, for one in twenty."""
        quick = [k for k in self.ways if k != "whole"]
        for i in range(n):
            kind = "whole" if i % 20 == 19 else quick[i % len(quick)]
            self.one(kind, f"{self.seed}-{i}")

    def one(self, kind: str, seed: str) -> None:
        from mmzoo.errors import MmzooError

        signal.signal(signal.SIGPROF, _too_long)
        signal.signal(signal.SIGALRM, _too_long)
        signal.setitimer(signal.ITIMER_PROF, LIMIT)  # of processor time, whatever else the machine does
        signal.alarm(10 * LIMIT)
        try:
            outcome = self.ways[kind](random.Random(seed))
        except MmzooError as error:
            outcome = type(error).__name__
            if not str(error).strip():
                self.failures.append(f"{kind} {seed}: an error without a message")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            import traceback

            outcome = f"FAILURE {type(error).__name__}"
            self.failures.append(f"{kind} {seed}: {''.join(traceback.format_exception(error)[-3:])}")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.alarm(0)
        self.counts[kind, outcome] += 1

    # ------------------------------------------------------------------ kinds of input
    def manifest(self, draw: random.Random) -> str:
        from mmzoo.data.own.manifest import own_entry
        from mmzoo.registry.plugins import catalogue

        path = self.good / f"mutated-{os.getpid()}.yaml"
        path.write_bytes(mutated(MANIFEST.encode(), draw))
        try:
            own_entry(path, catalogue())
        finally:
            path.unlink()
        return "taken"

    def values(self, draw: random.Random) -> str:
        """A manifest that is good YAML with odd values."""
        import yaml

        from mmzoo.data.own.manifest import own_entry
        from mmzoo.data.preparing.listing import list_all
        from mmzoo.registry.plugins import catalogue

        path = self.good / f"mutated-{os.getpid()}.yaml"
        path.write_text(yaml.safe_dump(revalued(yaml.safe_load(MANIFEST), draw), allow_unicode=True), encoding="utf-8")
        try:
            source = own_entry(path, catalogue()).load()
            listed = list_all(source, source.root, source.recipes()["own"], None)
        finally:
            path.unlink()
        return "faults" if listed.faults else "taken"

    def cells(self, draw: random.Random) -> str:
        """A table that is good CSV with odd cells."""
        rows = list(csv.reader(io.StringIO((self.good / "items.csv").read_text("utf-8-sig"), newline="")))
        for _ in range(draw.randint(1, 6)):
            row = draw.choice(rows) if draw.random() < 0.9 else rows[0]
            row[draw.randrange(len(row))] = draw.choice([*map(str, ODD), *draw.choice(rows)])
        text = io.StringIO()
        csv.writer(text).writerows(rows)
        return self._listed(text.getvalue().encode())

    def meta(self, draw: random.Random) -> str:
        """A meta.json with odd values whose own hash fits it: it may open, but then with all that it says."""
        from mmzoo.data.loading.prepared import open_module
        from mmzoo.data.store.meta import content_hash, sealed

        folder = self.top / "mutated-meta"
        if not folder.exists():
            shutil.copytree(self.store, folder, copy_function=shutil.copy2)
        meta = revalued(json.loads((self.store / "meta.json").read_text("utf-8")), draw)
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            meta["content"] = content_hash(meta)
            meta = sealed({k: v for k, v in meta.items() if k != "checksum"})
        (folder / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
        data = open_module(folder)
        for _ in data.loader("train", "test", batch_size=8).batches():
            pass
        return "taken"

    def table(self, draw: random.Random) -> str:
        return self._listed(mutated((self.good / "items.csv").read_bytes(), draw))

    def _listed(self, table: bytes) -> str:
        """What is listed of a table lies within the root."""
        from mmzoo.data.own.manifest import read_manifest
        from mmzoo.data.preparing.listing import list_all

        (self.top / "mutated.csv").write_bytes(table)
        path = self.top / "table.yaml"
        path.write_text(MANIFEST.replace("table: items.csv", "table: mutated.csv\nroot: good"))
        source = read_manifest(path)
        listed = list_all(source, source.root, source.recipes()["own"], None)
        inside = self.good.resolve()
        for item in listed.items:
            for media in item.media.values():
                if hasattr(media, "path"):
                    assert media.path.resolve().is_relative_to(inside), media.path
        return "faults" if listed.faults else "taken"

    def media(self, draw: random.Random) -> str:
        from mmzoo.data.sources.field import MediaFault
        from mmzoo.data.sources.source import File

        modality, name = draw.choice(
            [
                ("picture", "0.png"),
                ("picture", "1.jpg"),
                ("sound", "0.wav"),
                ("sound", "1.flac"),
                ("clip", "0.mp4"),
                ("features", "0.npy"),
            ]
        )
        path = self.top / f"mutated{Path(name).suffix}"
        path.write_bytes(mutated((self.good / name).read_bytes(), draw))
        field = self.source.recipes()["own"].fields[modality]
        if modality == "features":
            field = field.fitted([File(self.good / "0.npy")])
        try:
            arrays = field.read(File(path))
        except MediaFault as fault:
            return f"fault {fault.kind}"
        for part, form in field.arrays().items():
            assert arrays[part].shape == form.shape and str(arrays[part].dtype) == form.dtype
        return "taken"

    def stored(self, draw: random.Random) -> str:
        from mmzoo.data.loading.prepared import open_module

        folder = self.top / "mutated-store"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.store, folder, copy_function=shutil.copy2)
        path = draw.choice(sorted(folder.iterdir()))
        before = path.read_bytes()
        path.write_bytes(mutated(before, draw))
        same = path.read_bytes() == before or path.name == "prepared.json"
        if path.name == "meta.json":
            with contextlib.suppress(ValueError):
                same = same or json.loads(path.read_bytes()) == json.loads(before)
        data = open_module(folder)
        for _ in data.loader("train", "test", batch_size=8).batches():
            pass
        assert same, f"{path.name} was changed, and the store opened all the same"
        return "unchanged"

    def annotation(self, draw: random.Random) -> str:
        """One of the text files of a twin in its published layout."""
        from mmzoo.data.preparing.listing import list_all

        source, root, texts = draw.choice(self.twins)
        path = draw.choice(texts)
        before = path.read_bytes()
        path.write_bytes(mutated(before, draw))
        try:
            listed = list_all(source, root, next(iter(source.recipes().values())), None)
        finally:
            path.write_bytes(before)
        return "faults" if listed.faults else "taken"

    def prepared(self, draw: random.Random) -> str:
        """A whole prepare of a folder with one mutated file."""
        from mmzoo.data.loading.prepared import open_module
        from mmzoo.data.own.manifest import read_manifest
        from mmzoo.data.preparing.prepare import prepare

        folder = self.top / "mutated-data"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.good, folder)
        path = draw.choice(sorted(folder.iterdir()))
        path.write_bytes(mutated(path.read_bytes(), draw))
        target = self.top / "mutated-target"
        try:
            source = read_manifest(folder / "own.yaml")
            store = prepare(source, source.root, jobs=0, folder=target, on_bad=["drop"]).store
            store.verify()
            open_module(store.folder)
            return "dropped" if store.meta["faults"] else "taken"
        finally:
            assert not target.exists() or (target / "meta.json").is_file()
            for leftover in (target, target.with_name(target.name + ".part")):
                shutil.rmtree(leftover, ignore_errors=True)


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"more than {LIMIT} s")


def make_data(folder: Path) -> None:
    """A small data set with every kind of column."""
    import av
    import soundfile
    from PIL import Image

    draw = np.random.default_rng(0)
    folder.mkdir(parents=True)
    n = 24
    for i in range(2):
        picture = draw.integers(0, 255, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{i}.{'png' if i == 0 else 'jpg'}")
        soundfile.write(folder / f"{i}.{'wav' if i == 0 else 'flac'}", 0.1 * draw.standard_normal(1600), 8000)
        np.save(folder / f"{i}.npy", draw.standard_normal(3))
        with av.open(str(folder / f"{i}.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
            for _ in range(5):
                frame = av.VideoFrame.from_ndarray(draw.integers(0, 255, (32, 32, 3), dtype=np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    lines = ["id,label,picture,sound,clip,words,more,x,y,features"]
    for i in range(n):
        k = i % 2
        vector = f"{i},{i % 5}" if i % 7 else ","
        lines.append(
            f"it{i},{'ab'[k]},{k}.{'png' if k == 0 else 'jpg'},{k}.{'wav' if k == 0 else 'flac'},{k}.mp4,"
            f'"a text, ""{i}""",more {i},{vector},{k}.npy'
        )
    (folder / "items.csv").write_text("\ufeff" + "\r\n".join(lines) + "\r\n", encoding="utf-8")
    (folder / "own.yaml").write_text(MANIFEST)


def twins(folder: Path) -> list[tuple[Any, Path, list[Path]]]:
    """The sources of published data sets, with small generated twins and the text files among them."""
    import importlib

    from mmzoo.data.store.home import MARKER
    from mmzoo.data.synthetic import generate
    from mmzoo.registry.plugins import catalogue

    found = []
    for entry in catalogue().entries("datasets"):
        if entry.package != "mmzoo" or "twin" not in entry.extra.get("mini", {}):
            continue
        module, _, attribute = entry.extra["mini"]["twin"].partition(":")
        root = folder / entry.name
        generate(getattr(importlib.import_module(module), attribute)(), root, share=0.02)
        ends = (".csv", ".tsv", ".txt", ".lst", ".json")
        texts = [p for p in sorted(root.rglob("*")) if p.suffix in ends and p.is_file() and p.name != MARKER]
        if not texts:
            raise RuntimeError(f"the synthetic set of {entry.name} has no annotation file")
        found.append((entry.load()(), root, texts))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fuzzer = Fuzzer(Path(folder), arguments.seed)
        fuzzer.run(arguments.inputs)
    for (kind, outcome), n in sorted(fuzzer.counts.items()):
        print(f"{kind:10} {n:6} {outcome}")
    print(f"{sum(fuzzer.counts.values())} inputs, {len(fuzzer.failures)} failures")
    for failure in fuzzer.failures[:20]:
        print(failure)
    return 1 if fuzzer.failures else 0


if __name__ == "__main__":
    sys.exit(main())

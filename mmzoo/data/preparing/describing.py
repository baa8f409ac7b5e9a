"""What meta.json says of a store in the making. No torch."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from mmzoo import __version__
from mmzoo.data.preparing.acceptance import Judge, below
from mmzoo.data.preparing.listing import Listed
from mmzoo.data.sources.field import Field
from mmzoo.data.sources.source import Recipe
from mmzoo.data.store.classes import Counts
from mmzoo.data.store.home import MARKER, is_mini
from mmzoo.data.store.meta import FORMAT, content_hash, sealed
from mmzoo.data.store.store import sha256_of
from mmzoo.io.files import read_bytes

#: libraries whose version may change what is decoded
LIBRARIES = ("numpy", "av", "soundfile", "Pillow", "librosa", "tokenizers", "transformers", "opencv-python-headless")


@dataclass(frozen=True)
class Described:
    """What a store is made of. fitted: modality -> its field. counts: see `class_counts`. rows: of its arrays; items: of its
    index."""

    recipe: Recipe
    listed: Listed
    fitted: Mapping[str, Field]
    counts: Counts
    rows: int
    items: int


def store_meta(
    what: Described,
    judge: Judge,
    folder: Path,
    files: Sequence[str],
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """The content of meta.json of the files in a folder, which are hashed. on_bytes: told how many are done, and of how many."""
    listed, recipe = what.listed, what.recipe
    sizes = {name: (folder / name).stat().st_size for name in files}
    total, done = sum(sizes.values()), 0

    def hashed(count: int) -> None:
        nonlocal done
        done += count
        on_bytes(done, total)

    meta: dict[str, Any] = {
        "format": FORMAT,
        "dataset": listed.name,
        "mini": is_mini(judge.root),
        "mini_facts": _marker(judge.root),
        "recipe": {"name": recipe.name, "hash": recipe.hash, "doc": recipe.doc, **recipe.as_dict()},
        "classes": list(listed.classes),
        "rows": what.rows,
        "items": what.items,
        "modalities": {m: _described(f) for m, f in what.fitted.items()},
        "splits": {s: {"source": told, "counts": what.counts[s]} for s, told in listed.split_sources.items()},
        "unavailable": dict(listed.unavailable),
        "sources": [{"file": below(str(p), judge.root), "sha256": sha256_of(p)} for p in listed.sources],
        "versions": versions(),
        "faults": [
            {
                "item": f.item,
                "modality": f.modality,
                "kind": f.kind,
                "action": action,
                "message": f.message,
                "where": f.where,
            }
            for f, action in judge.judged()
        ],
        "files": {name: {"bytes": sizes[name], "sha256": sha256_of(folder / name, hashed)} for name in sorted(files)},
    }
    meta["content"] = content_hash(meta)
    return sealed(meta)


def versions() -> dict[str, str]:
    """Library -> version, of those that are installed."""
    found = {"mmzoo": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _described(f: Field) -> dict[str, Any]:
    arrays = {part: {"shape": list(a.shape), "dtype": a.dtype} for part, a in f.arrays().items()}
    return {"kind": f.kind, "arrays": arrays, "facts": dict(f.facts()), "fitted": json.loads(json.dumps(f.as_dict()))}


def _marker(root: Path) -> Any:
    try:
        return json.loads(read_bytes(root / MARKER))
    except (OSError, ValueError, RecursionError):
        return None

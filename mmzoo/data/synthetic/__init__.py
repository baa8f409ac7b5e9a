"""Miniature twins: generated data in the published layout of a data set, with a planted truth. No torch, no numpy here."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mmzoo.data.store.home import MARKER
from mmzoo.data.store.locking import locked
from mmzoo.errors import BadValue, undefined, unknown
from mmzoo.io.files import read_bytes, write_json

if TYPE_CHECKING:
    import numpy as np

    from mmzoo.data.synthetic.planting import Drawn, Planting

#: bumped whenever the same seed may give other media
VERSION = 2
#: what the modalities of a sample share besides its class: preset -> (content, context). See `planting`
PRESETS: Mapping[str, tuple[float, float]] = {
    "default": (0.3, 0.3),
    "class": (0.0, 0.0),
    "content": (0.9, 0.0),
    "context": (0.0, 0.9),
}


class Twin:
    """A generator of one data set's twin; a subclass names what is planted and writes files in the published layout.

    name: of the data set. planting: what is planted. sizes: part (train, holdout, test) -> items a class.
    """

    name: ClassVar[str]
    planting: ClassVar[Planting]
    sizes: ClassVar[Mapping[str, int]]

    def write(self, root: Path, parts: Mapping[str, Sequence[Drawn]], streams: Streams) -> None:
        """Write annotation files, split lists and media below the empty folder `root`. streams: the only source of chance."""
        raise undefined(self, "write")


class Streams:
    """Streams of random numbers by name, so that one more draw in one item shifts no other. on_item is called after each."""

    def __init__(self, seed: int, on_item: Callable[[], None] = lambda: None) -> None:
        self.seed, self.on_item = seed, on_item

    def __call__(self, *names: str | int) -> np.random.Generator:
        import hashlib

        import numpy as np

        text = "\x1f".join(map(str, (self.seed, *names)))
        return np.random.default_rng(np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32))


def generate(
    twin: Twin,
    root: Path,
    *,
    seed: int = 0,
    share: float = 1.0,
    preset: str = "default",
    on_item: Callable[[int, int], None] = lambda n, of: None,
) -> dict[str, Any]:
    """Write a twin to `root` and return what its marker file says; nothing is done where it is there already. Of several processes one
    writes, and the others wait for it.

    share: of the items of every class and part, for tests; at least two a class. preset: one of PRESETS. The folder appears whole
    or not at all. Raises BadValue for a folder that holds something else, UnknownName for another preset.
    """
    if not 0 < share <= 1:
        raise BadValue(f"the fraction of a synthetic set's samples must be above 0 and at most 1, not {share!r}.")
    if seed < 0:
        raise BadValue(f"the seed of a synthetic set must not be negative, not {seed!r}.")
    sizes = {part: max(2, round(share * n)) for part, n in twin.sizes.items()}
    planting = planted(twin, preset)
    facts: dict[str, Any] = {
        "data_set": twin.name,
        "generator": VERSION,
        "seed": seed,
        "preset": preset,
        "note": "generated, not real data",
        "items": {part: n * planting.n_classes for part, n in sizes.items()},
        "planted": planting.as_dict(),
        "bayes": planting.all_bayes(),
    }
    if _marker(root) == facts:
        return facts
    if root.exists() and (not root.is_dir() or (any(root.iterdir()) and not (root / MARKER).is_file())):
        raise BadValue(
            f"{root} holds something that is not a synthetic set; it will not be overwritten. Choose another folder."
        )
    with locked(root, lambda text: None):
        if _marker(root) != facts:
            _write(twin, root, planting, facts, on_item)
    return facts


def _write(
    twin: Twin, root: Path, planting: Planting, facts: dict[str, Any], on_item: Callable[[int, int], None]
) -> None:
    """Write the folder of a twin whole, in place of what is there."""
    part = root.with_name(root.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    done, total = 0, sum(facts["items"].values())

    def count() -> None:
        nonlocal done
        done += 1
        on_item(done, total)

    streams = Streams(facts["seed"], count)
    sizes = {name: n // planting.n_classes for name, n in facts["items"].items()}
    drawn = {name: planting.draw(n, streams(twin.name, name)) for name, n in sizes.items()}
    twin.write(part, drawn, streams)
    write_json(part / MARKER, facts)
    if root.exists():
        shutil.rmtree(root)
    os.replace(part, root)


def planted(twin: Twin, preset: str = "default") -> Planting:
    """What a preset plants in a twin. Raises UnknownName for another preset."""
    if preset not in PRESETS:
        raise unknown("preset of a synthetic set", preset, PRESETS)
    content, context = PRESETS[preset]
    return dataclasses.replace(twin.planting, content=content, context=context)


def _marker(root: Path) -> Any:
    import json

    try:
        return json.loads(read_bytes(root / MARKER))
    except (OSError, ValueError, RecursionError):
        return None

"""What is told of prepared data on the terminal: the progress of a prepare, what it made, a store in a line. No torch."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmzoo.data.preparing.prepare import Prepared, Progress
    from mmzoo.data.store.store import DataStore


class Bar:
    """The progress of a prepare on the terminal: what it says on lines, its steps as a bar where stderr is a terminal."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._stage = ""

    def __enter__(self) -> Progress:
        from mmzoo.data.preparing.prepare import Progress

        return Progress(self._say, self._step)

    def __exit__(self, *exc: object) -> None:
        self._close()

    def _say(self, text: str) -> None:
        self._close()
        print(text, flush=True)

    def _step(self, stage: str, done: int, total: int) -> None:
        if not sys.stderr.isatty():
            return
        if stage != self._stage:
            from tqdm import tqdm

            self._close()
            units: dict[str, Any] = {"unit": "B", "unit_scale": True} if stage == "hash" else {"unit": " samples"}
            self._bar, self._stage = tqdm(total=total, desc=stage, dynamic_ncols=True, leave=False, **units), stage
        self._bar.update(done - self._bar.n)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._stage = None, ""


def tell(done: Prepared) -> None:
    """What a prepare has made, in a few lines."""
    from mmzoo.data.sources.faults import summary

    store = done.store
    marked = f" {store.mark}" if store.mini else ""
    print(
        f"{store.name}{marked}: {len(store):,} samples, {', '.join(f'{m} {_form(store, m)}' for m in store.modalities)}, "
        f"{_size(store)}"
    )
    for split, body in store.meta["splits"].items():
        print(f"  split {split}: {body['source']}")
    for lacking in lacking_splits(store):
        print(f"  {lacking}")
    for line in _of_classes(store):
        print(f"  {line}")
    for line in summary(done.faults):
        print(f"  {line}")
    if done.faults:
        print(f"  all of it: {done.report}")
    print(f"  {'prepared' if done.made else 'nothing to do, it was prepared already'}: {store.folder}")


def _of_classes(store: DataStore) -> list[str]:
    """The classes with their counts, and what about them looks wrong; nothing of stores that do not have the counts."""
    from mmzoo.data.store.classes import listed_classes, remarks

    classes = store.meta["classes"]
    counts = {split: body["counts"] for split, body in store.meta["splits"].items() if "counts" in body}
    return [listed_classes(classes, counts), *remarks(classes, counts)] if counts else []


def store_line(store: DataStore) -> str:
    """A store in a line: recipe, samples, size, splits."""
    marked = f" {store.mark}" if store.mini else ""
    return f"{store.meta['recipe']['name']}{marked}, {len(store):,} samples, {_size(store)}, splits {', '.join(store.meta['splits'])}"


def lacking_splits(store: DataStore) -> list[str]:
    """The splits of the data set that a store lacks, each with the reason. Of a twin in one line: nobody publishes its lists."""
    lacking = store.meta.get("unavailable", {})
    if store.mini and lacking:
        return [f"no split {', '.join(lacking)}: a synthetic set has no such lists"]
    return [f"no split {split}: {why}" for split, why in lacking.items()]


def _form(store: DataStore, modality: str) -> str:
    return "+".join("x".join(map(str, shape)) + f" {dtype}" for shape, dtype in store.parts(modality).values())


def _size(store: DataStore) -> str:
    size = float(sum(f["bytes"] for f in store.meta["files"].values()))
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"

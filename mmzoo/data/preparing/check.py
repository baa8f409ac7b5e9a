"""What is wrong with a data set as its files lie there: everything that a prepare would find, and nothing is written."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from mmzoo.data.preparing.acceptance import duplicates, found_in
from mmzoo.data.preparing.balance import class_counts, untrained, with_meta_set
from mmzoo.data.preparing.listing import Listed, list_all
from mmzoo.data.preparing.prepare import CHUNK_ITEMS, Progress, fitted
from mmzoo.data.preparing.workers import PATIENCE, decode
from mmzoo.data.sources.faults import scan, summary
from mmzoo.data.sources.field import refuse_too_large
from mmzoo.data.sources.source import Fault, Item, Recipe, Source
from mmzoo.errors import BadValue, MmzooError, unknown


def check(
    source: Source,
    root: Path,
    recipe: str | None = None,
    *,
    splits_dir: Path | None = None,
    quick: bool = False,
    jobs: int | None = None,
    progress: Progress | None = None,
    patience: float = PATIENCE,
) -> tuple[Listed, Sequence[Fault]]:
    """All faults of a data set: of its annotations, then of its files. quick: do not decode. Raises UnknownName for a recipe
    that is not there, BadValue where the annotations cannot be read at all, or too little can be used to go on."""
    recipes = source.recipes()
    name = next(iter(recipes)) if recipe is None else recipe
    if name not in recipes:
        raise unknown(f"recipe of {source.name}", name, recipes, see=f"See: mmzoo data show {source.name}")
    progress = progress or Progress()
    refuse_too_large(recipes[name])
    listed = list_all(source, root.absolute(), recipes[name], splits_dir)
    faults = [*listed.faults, *scan(listed.items)]
    known = {(f.item, f.modality) for f in faults}
    items = [i for i in listed.items if not any((i.id, m) in known for m in i.media)]
    if items:
        try:
            faults += untrained(listed, items, class_counts(listed, items, with_meta_set(recipes[name])))
            faults += [] if quick else _decoded(listed, items, recipes[name], jobs, progress, patience)
        except BadValue as error:
            if not faults:
                raise
            lines = "\n".join(f"  {line}" for line in summary([(f, "left out") for f in faults]))
            raise BadValue(f"{error} What is wrong so far:\n{lines}") from error
    return listed, faults


def vocabularies(listed: Listed, recipe: Recipe) -> dict[str, int]:
    """modality -> different words of its texts, as a preparation of all that is listed would find them."""
    texts = {m: f for m, f in recipe.fields.items() if f.kind == "text"}
    try:
        found = fitted(dataclasses.replace(recipe, fields=texts), listed, listed.items)
        return {m: int(f.facts()["vocabulary"]) for m, f in found.items()}
    except MmzooError:  # too few samples, or a tokenizer that is not here, which preparing tells
        return {}


def promised_vocabularies(source: Source) -> dict[str, int]:
    """The same of a source that knows where its files lie, whose annotations are read for it; nothing where they cannot be,
    which preparing tells."""
    recipe = next(iter(source.recipes().values()))
    if source.root is None or not any(f.kind == "text" for f in recipe.fields.values()):
        return {}
    try:
        return vocabularies(list_all(source, source.root, recipe, None), recipe)
    except MmzooError:
        return {}


def _decoded(
    listed: Listed, items: Sequence[Item], recipe: Recipe, jobs: int | None, progress: Progress, patience: float
) -> list[Fault]:
    chunks = [items[start : start + CHUNK_ITEMS] for start in range(0, len(items), CHUNK_ITEMS)]
    fields = fitted(recipe, listed, items)
    done = 0

    def on_item() -> None:
        nonlocal done
        done += 1
        progress.step("decode", min(done, len(items)), len(items))

    tasks = [(n, [i.media for i in chunk]) for n, chunk in enumerate(chunks)]
    workers = min(os.cpu_count() or 1 if jobs is None else jobs, len(tasks))
    notes = []
    for chunk in decode(fields, tasks, jobs=workers, on_item=on_item, patience=patience):
        notes += [{"faults": f, "hashes": h} for f, h in zip(chunk.faults, chunk.hashes)]
    return [*found_in(items, notes), *duplicates(listed, items, notes)]

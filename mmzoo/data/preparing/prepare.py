"""From a data set in its published layout to a packed store: resumable after a kill, and never half there. No torch.

While it is made, a store is below `<target>.part`: plan.json, the growing arrays, and journal.jsonl (what was found in each
chunk of samples on disk). A killed prepare resumes after the last line of its journal, and ends bit-identical.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmzoo import __version__
from mmzoo.data.preparing.acceptance import Judge, below
from mmzoo.data.preparing.appending import (
    JOURNAL,
    Growing,
    overwrite,
    read_journal,
    row_bytes,
    sync,
    write_header,
    write_present,
)
from mmzoo.data.preparing.balance import class_counts, split_rows, untrained, with_meta_set
from mmzoo.data.preparing.describing import Described, store_meta, versions
from mmzoo.data.preparing.listing import Listed, list_all
from mmzoo.data.preparing.reuse import recorded, reusable
from mmzoo.data.preparing.workers import PATIENCE, decode
from mmzoo.data.sources.faults import policy_of, scan
from mmzoo.data.sources.field import Field, refuse_too_large
from mmzoo.data.sources.source import Fault, Item, Recipe, Source
from mmzoo.data.store.classes import Counts
from mmzoo.data.store.home import is_mini, store_folder
from mmzoo.data.store.locking import locked
from mmzoo.data.store.meta import FORMAT
from mmzoo.data.store.store import INDEX, META, PREPARED, PRESENT, DataStore, Row, array_name, index_bytes
from mmzoo.errors import BadValue, MmzooError, unknown
from mmzoo.io.files import read_bytes, sync_folder, write_bytes, write_json

PLAN = "plan.json"
#: a chunk has at most so many items and about so many bytes
CHUNK_ITEMS, CHUNK_BYTES = 256, 16 << 20


@dataclass(frozen=True)
class Prepared:
    """What became of a prepare. made: whether anything had to be done."""

    store: DataStore
    made: bool
    faults: Sequence[tuple[Fault, str]]
    report: Path


@dataclass
class Progress:
    """What a prepare tells as it goes. stage: "generate", "decode", "hash"; done of total, in the stage's own unit."""

    say: Callable[[str], None] = lambda text: None
    step: Callable[[str, int, int], None] = lambda stage, done, total: None


def prepare(
    source: Source,
    root: Path,
    recipe: str | None = None,
    *,
    splits_dir: Path | None = None,
    on_bad: Sequence[str] | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    folder: Path | None = None,
    patience: float = PATIENCE,
    sync_every: float = 2.0,
    settled: bool = False,
) -> Prepared:
    """Make the store of a data set, or see that it is there already.

    root: the published files. recipe: a name in source.recipes(), by default the first. on_bad: see `policy_of`; None: errors
    for what cannot be stored. jobs: worker processes (None: one a core; 0: none). folder: where the store goes (default: below
    MMZOO_HOME). settled: a store of these very files is taken as it is, whatever was done with items that are faulty. Raises
    BadValue, with counts and the report's path, where items are faulty and the policy says error; UnknownName
    for a recipe that is not there; MmzooError when the disk does not take it.
    """
    recipes = source.recipes()
    name = next(iter(recipes)) if recipe is None else recipe
    if name not in recipes:
        raise unknown(f"recipe of {source.name}", name, recipes, see=f"See: mmzoo data show {source.name}")
    target = folder or store_folder(source, recipes[name], mini=is_mini(root))
    judge = Judge(source.name, root.absolute(), policy_of(on_bad or ()), target.with_name(target.name + ".report.csv"))
    work = _Work(source, root.absolute(), recipes[name], splits_dir, judge, progress or Progress(), target, settled)
    try:
        with locked(work.target, work.progress.say):
            return work.run(on_bad is not None, os.cpu_count() or 1 if jobs is None else jobs, patience, sync_every)
    except OSError as error:
        if (ready := work.ready(on_bad is not None)) is not None:  # a folder without locks or writes still holds it
            return ready
        raise MmzooError(
            f"cannot write the store {work.target}: {error.strerror or error}. What is done is kept in {work.part.name}; when the "
            "folder can be written to again, the same command goes on from there."
        ) from error


@dataclass
class _Work:
    source: Source
    root: Path
    recipe: Recipe
    splits_dir: Path | None
    judge: Judge
    progress: Progress
    target: Path
    settled: bool
    fitted: Mapping[str, Field] = field(default_factory=dict)

    @property
    def part(self) -> Path:
        return self.target.with_name(self.target.name + ".part")

    # ------------------------------------------------------------------ the way through
    def run(self, policy_given: bool, jobs: int, patience: float, sync_every: float) -> Prepared:
        started = time.monotonic()
        refuse_too_large(self.recipe)
        self.progress.say(f"{self.source.name}: reading the annotations in {self.root}")
        listed, print_of_input, store = self._there(policy_given)
        if store is not None:
            self._clean()
            store.note_table(self.source.table_form)
            return Prepared(store, False, recorded(store), self.judge.report)
        self.judge.faults += [*listed.faults, *scan(listed.items)]
        items = self.judge.admitted(listed.items)
        plan = self._plan(listed, items, print_of_input)
        self._begin(plan)
        self.fitted = fitted(self.recipe, listed, items)
        notes = self._decode(items, plan, jobs, patience, sync_every)
        self._finish(listed, items, notes, plan)
        noted = {
            "fingerprint": print_of_input,
            "policy": dict(self.judge.policy),
            "root": str(self.root),
            "seconds": round(time.monotonic() - started, 1),
            "mmzoo": __version__,
            "table": self.source.table_form,
        }
        store = self._publish(noted)
        return Prepared(store, True, recorded(store), self.judge.report)

    def ready(self, policy_given: bool) -> Prepared | None:
        """The store where it can be taken as it is, without a word written."""
        store = self._there(policy_given)[2]
        return None if store is None else Prepared(store, False, recorded(store), self.judge.report)

    def _there(self, policy_given: bool) -> tuple[Listed, str, DataStore | None]:
        """What the annotations list, the fingerprint of that, and the store that is there of just this."""
        listed = list_all(self.source, self.root, self.recipe, self.splits_dir)
        print_of_input = listed.fingerprint(self.root)
        store = reusable(
            self.target,
            self.recipe.hash,
            print_of_input,
            self.judge.policy,
            asked=policy_given,
            settled=self.settled,
            say=lambda text: self.progress.say(f"{self.source.name}: {text}"),
        )
        return listed, print_of_input, store

    # ------------------------------------------------------------------ the plan
    def _plan(self, listed: Listed, items: Sequence[Item], fingerprint: str) -> dict[str, Any]:
        sizes = {
            array_name(m, p): row_bytes(a.shape, a.dtype)
            for m, f in self.recipe.fields.items()
            for p, a in f.arrays().items()
        }
        per_item = max(sum(sizes.values()), 1)
        chosen = hashlib.sha256("\n".join(i.id for i in items).encode("utf-8", "surrogateescape")).hexdigest()
        return {
            "format": FORMAT,
            "dataset": self.source.name,
            "recipe": self.recipe.hash,
            "fingerprint": fingerprint,
            "items": chosen,
            "rows": len(items),
            "row_bytes": sizes,
            "versions": versions(),
            "chunk": max(1, min(CHUNK_ITEMS, CHUNK_BYTES // per_item)),
        }

    def _begin(self, plan: Mapping[str, Any]) -> None:
        """Make the folder of the unfinished store; one that was to become something else is removed."""
        try:
            there = json.loads(read_bytes(self.part / PLAN))
            same = there.pop("blanked", None) in (None, self.judge.blanked()) and there == plan
            same &= all(stat.S_ISREG(p.lstat().st_mode) for p in self.part.iterdir())  # links and pipes are not ours
        except (OSError, ValueError, AttributeError, RecursionError):
            same = False
        if not same:
            shutil.rmtree(self.part, ignore_errors=True)
            self._check_room(plan)
            self.part.mkdir(parents=True)
            write_json(self.part / PLAN, plan)
        elif (self.part / JOURNAL).exists():
            self.progress.say(f"{self.source.name}: going on with a prepare that was interrupted")
        (self.part / META).unlink(missing_ok=True)  # written before the policy was known to be this one

    def _check_room(self, plan: Mapping[str, Any]) -> None:
        """Raise BadValue, with the arithmetic, where the disk has no room for the store."""
        per_item = sum(plan["row_bytes"].values())
        free = shutil.disk_usage(self.target.parent).free
        if plan["rows"] * per_item > free:
            raise BadValue(
                f"{self.source.name}: {plan['rows']:,} samples of {per_item:,} bytes are {plan['rows'] * per_item / 1e9:.1f} "
                f"GB, and the disk of {self.target.parent} has {free / 1e9:.1f} GB free. Store less (frames, size, length), "
                "or set MMZOO_HOME to a folder on another disk."
            )

    # ------------------------------------------------------------------ decoding
    def _decode(
        self, items: Sequence[Item], plan: Mapping[str, Any], jobs: int, patience: float, sync_every: float
    ) -> list[dict[str, Any]]:
        """Append what is not there yet to the arrays. Returns what was found in each item: its faults and hashes."""
        size = plan["chunk"]
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        notes = read_journal(self.part, chunks)
        done = len(notes)
        tasks = [(n, [i.media for i in chunks[n]]) for n in range(done, len(chunks))]
        count = sum(map(len, chunks[:done]))
        self.progress.step("decode", count, len(items))

        def on_item() -> None:
            nonlocal count
            count += 1
            self.progress.step("decode", min(count, len(items)), len(items))

        rows = sum(map(len, chunks[:done]))
        with Growing(self.part, plan["row_bytes"], rows, sync_every) as arrays:
            for chunk in decode(self.fitted, tasks, jobs=min(jobs, len(tasks)), on_item=on_item, patience=patience):
                notes.append({"faults": chunk.faults, "hashes": chunk.hashes})
                arrays.append(chunk, notes[-1])
        return [{"faults": f, "hashes": h} for note in notes for f, h in zip(note["faults"], note["hashes"])]

    # ------------------------------------------------------------------ the end
    def _finish(
        self, listed: Listed, items: Sequence[Item], notes: Sequence[Mapping[str, Any]], plan: Mapping[str, Any]
    ) -> None:
        self.judge.note_decoded(listed, items, notes)
        self.judge.refuse_errors(listed.items)
        counts = self._counts(listed, items)
        absent = self.judge.absent()
        numbers = {i.id: n for n, i in enumerate(items)}
        rows = [
            Row(i.id, i.label, below(i.where, self.root), numbers[i.id], listed.sides[i.id], listed.groups[i.id])
            for i in self.judge.kept(items)
        ]
        if not rows:
            raise self.judge.nothing_left()
        self._blank(items, plan)
        files = list(plan["row_bytes"])
        for m, f in self.recipe.fields.items():
            for part, form in f.arrays().items():
                write_header(self.part / array_name(m, part), (len(items), *form.shape), form.dtype)
        present = [[m in i.media and (i.id, m) not in absent for m in self.recipe.fields] for i in items]
        if not all(map(all, present)):
            write_present(self.part / PRESENT, present)
            files.append(PRESENT)
        write_bytes(self.part / INDEX, index_bytes(rows, list(listed.split_sources)))
        what = Described(self.recipe, listed, self.fitted, counts, len(items), len(rows))
        self._write_meta(what, [*files, INDEX])

    def _counts(self, listed: Listed, items: Sequence[Item]) -> Counts:
        """The classes in each set of what is kept. Raises BadValue where a class cannot be learned, unless that is decided."""
        meta_set = with_meta_set(self.recipe)
        kept = self.judge.kept(items)
        if not kept:
            raise self.judge.nothing_left()
        faults = untrained(listed, kept, class_counts(listed, kept, meta_set))
        self.judge.faults += faults
        self.judge.refuse_errors(listed.items)
        kept = self.judge.kept(items) if faults else kept
        if not kept:
            raise self.judge.nothing_left()
        return class_counts(listed, kept, meta_set)

    def _blank(self, items: Sequence[Item], plan: Mapping[str, Any]) -> None:
        """Zeros in place of what was decoded all the same but is to be blank. The plan says so first, since this cannot be
        taken back."""
        import numpy as np

        kinds = self.judge.blanked()
        wanted = {(f.item, f.modality) for f in self.judge.faults if f.kind in kinds and f.modality is not None}
        if not wanted:
            return
        write_json(self.part / PLAN, {**plan, "blanked": kinds})
        for m, f in self.recipe.fields.items():
            numbers = [n for n, i in enumerate(items) if (i.id, m) in wanted]
            blank = f.blank() if numbers else {}
            for part, array in blank.items():
                overwrite(self.part / array_name(m, part), np.ascontiguousarray(array).tobytes(), numbers)

    def _write_meta(self, what: Described, files: Sequence[str]) -> None:
        meta = store_meta(what, self.judge, self.part, files, lambda n, of: self.progress.step("hash", n, of))
        for name in files:
            sync(self.part / name)
        text = json.dumps(meta, indent=1, allow_nan=False)  # in this order: the first split is the default
        write_bytes(self.part / META, text.encode())

    def _publish(self, noted: Mapping[str, Any]) -> DataStore:
        """Give the finished store its name. One that is there makes way, and readers of it keep what they have mapped."""
        write_json(self.part / PREPARED, noted)
        DataStore(self.part).note_stamps()
        old = self.target.with_name(self.target.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if self.target.exists():
            os.rename(self.target, old)
        os.rename(self.part, self.target)
        sync_folder(self.target.parent)
        self._clean()
        shutil.rmtree(old, ignore_errors=True)
        return DataStore(self.target)

    def _clean(self) -> None:
        """Remove what only the making of the store needed; a kill may have left it."""
        for name in (JOURNAL, PLAN):
            (self.target / name).unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------- small things
def fitted(recipe: Recipe, listed: Listed, items: Sequence[Item]) -> dict[str, Field]:
    """The fields with what they learn from items, which are those that every split of the store trains on."""
    training = set(range(len(items)))
    for parts in split_rows(listed, items, with_meta_set(recipe)).values():
        training &= {*parts["train"], *parts["slice"]}
    if not training:
        raise BadValue(f"{listed.name}: no sample is in train under every split ({', '.join(listed.split_sources)}).")
    return {
        m: f.fitted([items[r].media[m] for r in sorted(training) if m in items[r].media])
        for m, f in recipe.fields.items()
    }

"""From a data set in its published layout to a packed store: resumable after a kill, and never half there. No torch.

While it is made, a store lies under `<target>.part` with plan.json (what it is to become), the growing arrays and
journal.jsonl (what was found in each chunk of items that is safely on disk). A killed prepare goes on after the last line of
its journal; the arrays are cut back to there. So an interrupted store ends bit for bit as one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
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
from mmzoo.data.preparing.listing import Listed, list_all
from mmzoo.data.preparing.workers import PATIENCE, decode
from mmzoo.data.sources.faults import policy_of, scan
from mmzoo.data.sources.field import Field
from mmzoo.data.sources.source import Fault, Item, Recipe, Source
from mmzoo.data.store.home import MARKER, is_mini, store_folder
from mmzoo.data.store.meta import FORMAT, content_hash
from mmzoo.data.store.splits import completed_split
from mmzoo.data.store.store import (
    INDEX,
    META,
    PREPARED,
    PRESENT,
    DataStore,
    Row,
    array_name,
    index_bytes,
    sha256_of,
)
from mmzoo.errors import BadValue, CorruptFile, MmzooError, unknown
from mmzoo.io.files import sync_folder, write_bytes, write_json

PLAN = "plan.json"
#: a chunk has at most so many items and about so many bytes
CHUNK_ITEMS, CHUNK_BYTES = 256, 16 << 20
#: libraries whose version may change what is decoded
LIBRARIES = ("numpy", "av", "soundfile", "Pillow", "librosa", "tokenizers", "transformers", "opencv-python-headless")


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
        with _lock(work.target, work.progress):
            return work.run(on_bad is not None, os.cpu_count() or 1 if jobs is None else jobs, patience, sync_every)
    except OSError as error:
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
        self.progress.say(f"{self.source.name}: reading the annotations in {self.root}")
        listed = list_all(self.source, self.root, self.recipe, self.splits_dir)
        print_of_input = listed.fingerprint(self.root)
        if (store := self._up_to_date(print_of_input, policy_given)) is not None:
            return Prepared(store, False, _recorded(store), self.judge.report)
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
        }
        store = self._publish(noted)
        return Prepared(store, True, _recorded(store), self.judge.report)

    def _up_to_date(self, fingerprint: str, policy_given: bool) -> DataStore | None:
        """The store that is there, if it was made of just these files under the same policy."""
        try:
            store = DataStore(self.target)
            noted = json.loads((self.target / PREPARED).read_text(encoding="utf-8"))
            same = noted.get("fingerprint") == fingerprint
            agreed = noted.get("policy") == dict(self.judge.policy) or not (
                policy_given or (_unsettled(store, self.judge.policy) and not self.settled)
            )
            if same and agreed and store.recipe_hash == self.recipe.hash:
                for name in store.meta["files"]:
                    store.check_file(name)
                self._clean()
                return store
            what = "other files" if not same else "the same files under another --on-bad"
            self.progress.say(
                f"{self.source.name}: the store that is there was made of {what}; it stays until the new one is done"
            )
        except CorruptFile as error:
            if self.target.exists():
                self.progress.say(f"{self.source.name}: preparing anew, since {error}")
        except (OSError, ValueError, AttributeError, RecursionError):
            self.progress.say(
                f"{self.source.name}: preparing anew, since nothing says what the store there was made of"
            )
        return None

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
            "versions": _versions(),
            "chunk": max(1, min(CHUNK_ITEMS, CHUNK_BYTES // per_item)),
        }

    def _begin(self, plan: Mapping[str, Any]) -> None:
        """Make the folder of the unfinished store; one that was to become something else is removed."""
        try:
            there = json.loads((self.part / PLAN).read_text(encoding="utf-8"))
            same = there.pop("blanked", None) in (None, self.judge.blanked()) and there == plan
        except (OSError, ValueError, AttributeError, RecursionError):
            same = False
        if not same:
            shutil.rmtree(self.part, ignore_errors=True)
            self.part.mkdir(parents=True)
            write_json(self.part / PLAN, plan)
        elif (self.part / JOURNAL).exists():
            self.progress.say(f"{self.source.name}: going on with a prepare that was interrupted")
        (self.part / META).unlink(missing_ok=True)  # written before the policy was known to be this one

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
        bad = {(f.item, self.judge.policy[f.kind]) for f in self.judge.faults}
        rows = [
            Row(i.id, i.label, below(i.where, self.root), n, listed.sides[i.id], listed.groups[i.id])
            for n, i in enumerate(items)
            if (i.id, "drop") not in bad
        ]
        if not rows:
            raise self.judge.nothing_left()
        self._blank(items, plan)
        files = list(plan["row_bytes"])
        for m, f in self.recipe.fields.items():
            for part, form in f.arrays().items():
                write_header(self.part / array_name(m, part), (len(items), *form.shape), form.dtype)
        if any(set(i.media) != set(self.recipe.fields) for i in items):
            write_present(self.part / PRESENT, items, list(self.recipe.fields))
            files.append(PRESENT)
        write_bytes(self.part / INDEX, index_bytes(rows, list(listed.split_sources)))
        self._write_meta(listed, rows, len(items), [*files, INDEX])

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

    def _write_meta(self, listed: Listed, rows: Sequence[Row], n: int, files: Sequence[str]) -> None:
        sizes = {name: (self.part / name).stat().st_size for name in files}
        done = 0

        def on_bytes(count: int) -> None:
            nonlocal done
            done += count
            self.progress.step("hash", done, sum(sizes.values()))

        judged = self.judge.judged()
        meta: dict[str, Any] = {
            "format": FORMAT,
            "dataset": self.source.name,
            "mini": is_mini(self.root),
            "mini_facts": _marker(self.root),
            "recipe": {
                "name": self.recipe.name,
                "hash": self.recipe.hash,
                "doc": self.recipe.doc,
                **self.recipe.as_dict(),
            },
            "classes": list(listed.classes),
            "rows": n,
            "items": len(rows),
            "modalities": {m: _described(f) for m, f in self.fitted.items()},
            "splits": {s: {"source": told} for s, told in listed.split_sources.items()},
            "unavailable": dict(listed.unavailable),
            "sources": [{"file": below(str(p), self.root), "sha256": sha256_of(p)} for p in listed.sources],
            "versions": _versions(),
            "faults": [
                {
                    "item": f.item,
                    "modality": f.modality,
                    "kind": f.kind,
                    "action": action,
                    "message": f.message,
                    "where": f.where,
                }
                for f, action in judged
            ],
            "files": {
                name: {"bytes": sizes[name], "sha256": sha256_of(self.part / name, on_bytes)} for name in sorted(files)
            },
        }
        meta["content"] = content_hash(meta)
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
@contextlib.contextmanager
def _lock(target: Path, progress: Progress) -> Iterator[None]:
    """One process at a time makes a store; another waits, and then finds it done. A killed one leaves no lock behind."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("a+b") as file:
        try:
            import fcntl
        except ImportError:  # no such locks on Windows: the rename still keeps a store whole
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say(f"waiting for another process that prepares {target}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fitted(recipe: Recipe, listed: Listed, items: Sequence[Item]) -> dict[str, Field]:
    """The fields with what they learn from items, which are those that every split of the store trains on."""
    training = set(range(len(items)))
    ids, labels = [i.id for i in items], [i.label for i in items]
    for split in listed.split_sources:
        sides, groups = ([told[i][split] for i in ids] for told in (listed.sides, listed.groups))
        parts = completed_split(ids, labels, sides, groups, salt=listed.name)
        training &= {*parts["train"], *parts["slice"]}
    if not training:
        raise BadValue(f"{listed.name}: no item is a training item in every split ({', '.join(listed.split_sources)}).")
    return {
        m: f.fitted([items[r].media[m] for r in sorted(training) if m in items[r].media])
        for m, f in recipe.fields.items()
    }


def _described(f: Field) -> dict[str, Any]:
    arrays = {part: {"shape": list(a.shape), "dtype": a.dtype} for part, a in f.arrays().items()}
    return {"kind": f.kind, "arrays": arrays, "facts": dict(f.facts()), "fitted": json.loads(json.dumps(f.as_dict()))}


def _unsettled(store: DataStore, policy: Mapping[str, str]) -> bool:
    """Whether what is wrong with some item of a store would now be an error."""
    return any(policy.get(str(f.get("kind")), "error") == "error" for f in store.meta["faults"] if isinstance(f, dict))


def _recorded(store: DataStore) -> list[tuple[Fault, str]]:
    names = [f.name for f in dataclasses.fields(Fault)]
    return [(Fault(**{n: f.get(n) for n in names}), f["action"]) for f in store.meta["faults"]]


def _marker(root: Path) -> Any:
    try:
        return json.loads((root / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _versions() -> dict[str, str]:
    found = {"mmzoo": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found

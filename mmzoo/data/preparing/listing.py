"""The items of a data set under all of its splits at once, so that one store serves them all. No torch, no numpy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmzoo.data.sources.faults import paths_of
from mmzoo.data.sources.source import FAULTS, Fault, Item, Listing, Recipe, Source
from mmzoo.data.store.store import SIDES, UNUSED
from mmzoo.errors import BadValue, MmzooError


@dataclass(frozen=True)
class Listed:
    """items: those of all splits, each once. sides, groups: item -> split -> where it lies and what it must stay with.
    split_sources: split -> in words, where it comes from. unavailable: split -> why it is not here."""

    name: str
    items: Sequence[Item]
    classes: Sequence[str]
    faults: Sequence[Fault]
    sides: Mapping[str, Mapping[str, str]]
    groups: Mapping[str, Mapping[str, str]]
    split_sources: Mapping[str, str]
    unavailable: Mapping[str, str]
    sources: Sequence[Path]

    def fingerprint(self, root: Path) -> str:
        """A hash that changes with any item, split, or the size or time of any file. Nothing is read."""
        total = hashlib.sha256(repr((self.classes, self.split_sources)).encode("utf-8", "surrogateescape"))
        for line in self._lines(root):
            total.update(line.encode("utf-8", "surrogateescape") + b"\n")
        return total.hexdigest()[:24]

    def difference(self, a: Item, b: Item) -> str:
        """In words, what makes it matter that two items have the same content: labels, and sides of a published split."""
        told = "" if a.label == b.label else ", with another label"
        for split in self.split_sources:
            sides = {self.sides[a.id][split], self.sides[b.id][split]}
            if len(sides) > 1 and not sides & {"", UNUSED}:
                told += f", on another side of the split {split} ({' and '.join(sorted(sides))})"
        return told

    def _lines(self, root: Path) -> Iterator[str]:
        stamps: dict[Path, str] = {}
        for item in self.items:
            media = []
            for modality, m in item.media.items():
                paths = paths_of(m)
                for path in paths:
                    if path not in stamps:
                        stamps[path] = _stamp(path)
                told = [f"{p} {stamps[p]}" for p in paths]
                media.append(
                    f"{modality} {m if not paths else (told, getattr(m, 'start', None), getattr(m, 'end', None))}"
                )
            yield repr((item.id, item.label, media, self.sides[item.id], self.groups[item.id]))
        for path in self.sources:
            yield f"{path} {_stamp(path)}"
        yield from map(repr, self.faults)


def list_all(source: Source, root: Path, recipe: Recipe, splits_dir: Path | None) -> Listed:
    """Read the annotations under every split of the source. A split whose lists are not there, or that knows an item
    otherwise than the first does, is left out with the reason. Raises BadValue when none can be read."""
    found: dict[str, Listing] = {}
    unavailable: dict[str, str] = {}
    first_error: MmzooError | None = None
    for split in source.splits:
        try:
            found[split] = source.list(root, split=split, splits_dir=splits_dir, **recipe.options)
        except MmzooError as error:
            first_error = first_error or error
            unavailable[split] = str(error)
    if not found:
        raise _no_split(source, root, unavailable, first_error)
    items: dict[str, Item] = {}
    faults: dict[tuple[object, ...], Fault] = {}
    classes = next(iter(found.values())).classes
    for split, listing in list(found.items()):
        own, own_faults = _unique(listing)
        differing = next((i for i in own.values() if not _same(items.get(i.id, i), i)), None)
        if list(listing.classes) != list(classes) or differing is not None:
            about = f"the sample {differing.id}" if differing is not None else "the classes"
            unavailable[split] = f"it gives {about} otherwise than the split {next(iter(found))}"
            del found[split]
            continue
        items = {**items, **{k: i for k, i in own.items() if k not in items}}
        for fault in (*listing.faults, *own_faults):
            faults.setdefault((fault.kind, fault.item, fault.modality, fault.where, fault.message), fault)
    _check(source, items.values(), list(classes), faults.values())
    lookup = {s: {i.id: i for i in reversed(listing.items)} for s, listing in found.items()}
    alike: dict[
        tuple[str, ...], dict[str, str]
    ] = {}  # one mapping for all samples with the same values: there may be millions

    def by_split(values: list[str]) -> dict[str, str]:
        return alike.setdefault(tuple(values), dict(zip(lookup, values)))

    return Listed(
        source.name,
        list(items.values()),
        list(classes),
        list(faults.values()),
        {k: by_split([_side(known.get(k)) for known in lookup.values()]) for k in items},
        {k: by_split([(known[k].group or "") if k in known else "" for known in lookup.values()]) for k in items},
        {s: listing.split_source for s, listing in found.items()},
        unavailable,
        list(dict.fromkeys(p for listing in found.values() for p in listing.sources)),
    )


def _no_split(source: Source, root: Path, unavailable: Mapping[str, str], first: MmzooError | None) -> MmzooError:
    """The error that no split of a source can be read: what the folder holds, what each split lacks, and how one is chosen."""
    lacking: dict[str, list[str]] = {}
    for split, why in unavailable.items():
        lacking.setdefault(why, []).append(split)
    if first is None or len(lacking) == 1:
        return first or BadValue(f"{source.name} offers no split.")
    each = "\n".join(f"  {', '.join(splits)}: {why}" for why, splits in lacking.items())
    return BadValue(
        f"{source.name}: no split can be read from {root}. Expected there: {source.layout}.\nThe files of one split are enough. "
        f"What each split lacks:\n{each}\nprepare stores all splits whose files it finds; a bench chooses one of them with --set "
        f"{source.name}.split=NAME. Source: {source.obtain}"
    )


def _unique(listing: Listing) -> tuple[dict[str, Item], list[Fault]]:
    """The items by id; a second one of the same id is a fault."""
    items: dict[str, Item] = {}
    faults = []
    for item in listing.items:
        if item.id in items:
            other = items[item.id].where
            message = "another sample has this id" + (f" ({other})" if other else "") + "; the first is used"
            faults.append(Fault("collision", message, item.id, None, item.where))
        else:
            items[item.id] = item
    return items, faults


def _same(a: Item, b: Item) -> bool:
    return a.label == b.label and dict(a.media) == dict(b.media)


def _side(item: Item | None) -> str:
    return UNUSED if item is None else item.split or ""


def _check(source: Source, items: object, classes: Sequence[str], faults: object) -> None:
    """A source that breaks its own rules is a defect of the source, told as such."""
    for item in items:  # type: ignore[attr-defined]
        if not 0 <= item.label < len(classes):
            raise MmzooError(
                f"{type(source).__name__}.list gave {item.id} the label {item.label} of {len(classes)} classes."
            )
        if (item.split or "") not in SIDES:
            raise MmzooError(
                f"{type(source).__name__}.list put {item.id} in {item.split!r}; there are train, holdout, test."
            )
    for fault in faults:  # type: ignore[attr-defined]
        if fault.kind not in FAULTS:
            raise MmzooError(f"{type(source).__name__}.list found a fault of kind {fault.kind!r}; see FAULTS.")


def _stamp(path: Path) -> str:
    try:
        found = path.stat()
    except (OSError, ValueError):
        return "-"
    return f"{found.st_size} {found.st_mtime_ns}"

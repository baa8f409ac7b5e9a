"""Which data sets a bench takes by itself, and what has to be made before it can start. No torch at import."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmzoo.config.datasets import register_manifests, resolve_dataset
from mmzoo.config.settings import Settings
from mmzoo.config.spec import BenchSpec
from mmzoo.data.store.choice import MINI, Unprepared, chosen_store
from mmzoo.data.store.home import mini_root
from mmzoo.errors import BadValue, MmzooError, UnknownName, ended, said
from mmzoo.registry import Catalogue, Entry

if TYPE_CHECKING:
    from mmzoo.data.preparing.prepare import Prepared, Progress
    from mmzoo.data.sources.source import Source

BUNDLED = "mfeat"


def default_datasets(catalogue: Catalogue) -> tuple[str, ...]:
    """What MMZOO_DATASETS names; without it what is prepared of real data, else the generated twins, and the bundled data set
    in any case."""
    if named := tuple(n.strip() for n in os.environ.get("MMZOO_DATASETS", "").split(",") if n.strip()):
        return named
    prepared = [e for e in catalogue.entries("datasets") if e.extra.get("prepared") and isinstance(e, Entry)]
    real = [catalogue.name_of(e) for e in prepared if e.package != "own" and _is_prepared(e)]
    if real:
        return (*real, BUNDLED)
    return (*(f"{e.name}:{MINI}" for e in prepared if has_twin(e)), BUNDLED)


def _is_prepared(entry: Entry) -> bool:
    try:
        chosen_store(entry, entry.defaults(), mini=False)
    except MmzooError:
        return False
    return True


def has_twin(entry: Entry) -> bool:
    return "twin" in entry.extra.get("mini", {})


def to_make(texts: Iterable[str], catalogue: Catalogue, settings: tuple[tuple[str, Any], ...]) -> list[str]:
    """Those of the named data sets that can be made without asking for anything: twins, and what knows where its files lie."""
    register_manifests(catalogue, texts)
    found = []
    for text in texts:
        entry, params, twin = _named(catalogue, text, settings)
        if entry is not None and (not _has_store(entry, params) if twin else _source(entry).root is not None):
            found.append(text)
    return found


def make_missing(
    bench: BenchSpec,
    catalogue: Catalogue,
    progress: Callable[[], AbstractContextManager[Progress]],
    on_made: Callable[[Prepared], None],
) -> None:
    """Make what the data sets of a bench lack and can be made without asking, before it is planned with its run ids.

    progress: opens a listener of each preparation. on_made: called with each data set that was not there before.
    """
    for text in to_make(bench.datasets, catalogue, bench.settings):
        with progress() as telling:
            made = make(text, catalogue, bench.settings, telling)
        if made.made:
            on_made(made)


def make(text: str, catalogue: Catalogue, settings: tuple[tuple[str, Any], ...], progress: Progress) -> Prepared:
    """Generate what has to be generated, and prepare it. Raises MmzooError."""
    from mmzoo.data.preparing.prepare import prepare

    entry, params, twin = _named(catalogue, text, settings)
    assert entry is not None
    source = _source(entry)
    root = mini_root(source.name) if twin or source.root is None else source.root
    if twin and not root.is_dir():
        progress.say(f"{source.name} (mini): generating it in {root}")
        make_twin(entry, root, on_item=lambda n, of: progress.step("generate", n, of))
    return prepare(source, root, params["recipe"], progress=progress, settled=True)


def _source(entry: Entry) -> Source:
    """A class of the catalogue, or the source of a manifest as it is."""
    loaded = entry.load()
    source: Source = loaded() if isinstance(loaded, type) else loaded
    return source


def make_twin(
    entry: Entry,
    root: Path,
    seed: int = 0,
    on_item: Callable[[int, int], None] = lambda n, of: None,
    *,
    preset: str = "default",
) -> dict[str, Any]:
    """Generate the twin of a data set and return what its marker says. Raises UnknownName for one that has none and for another
    preset, MmzooError for one that cannot be loaded, BadValue where it cannot be written."""
    from mmzoo.data.synthetic import generate

    if not has_twin(entry):
        raise UnknownName(
            f"{entry.name} has no synthetic set: its entry in registry.yaml names none (mini.twin). See: mmzoo data list"
        )
    module, _, attribute = entry.extra["mini"]["twin"].partition(":")
    try:
        twin = getattr(importlib.import_module(module), attribute)()
    except Exception as error:
        raise MmzooError(
            f"the synthetic set of {entry.name} cannot be loaded from {module}:{attribute}: {ended(said(error))}"
        ) from error
    try:
        return generate(twin, root, seed=seed, preset=preset, on_item=on_item)
    except OSError as error:
        raise BadValue(f"cannot write {root}: {error.strerror or error}.") from None


def _named(
    catalogue: Catalogue, text: str, settings: tuple[tuple[str, Any], ...]
) -> tuple[Entry | None, dict[str, Any], bool]:
    """The entry and parameters of a data set that has to be prepared, and whether its twin is asked for."""
    _, entry, params = resolve_dataset(catalogue, text, Settings(catalogue, settings), stores=False)
    twin = text.strip().endswith(f":{MINI}")
    return (entry if entry.extra.get("prepared") else None), params, twin


def _has_store(entry: Entry, params: dict[str, Any]) -> bool:
    try:
        chosen_store(entry, params, mini=True)
    except Unprepared:
        return False
    return True

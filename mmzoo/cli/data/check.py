"""mmzoo data check: what is wrong with a data set or its store. No torch at import."""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmzoo.cli.data.names import files_of, source_of
from mmzoo.cli.data.stores import Bar
from mmzoo.config.datasets import is_manifest
from mmzoo.errors import BadValue, CorruptFile
from mmzoo.registry.plugins import catalogue

if TYPE_CHECKING:
    from mmzoo.data.preparing.listing import Listed
    from mmzoo.data.preparing.prepare import Progress
    from mmzoo.data.sources.source import Fault, Recipe


def run_check(arguments: argparse.Namespace) -> int:
    if _is_own(arguments.data):
        if any((arguments.root, arguments.splits, arguments.recipe, arguments.quick, arguments.jobs is not None)):
            raise BadValue(
                f"{arguments.data} is data of your own: its stores are checked by name, without options. Name its "
                "manifest to check the files: mmzoo data check FILE.yaml"
            )
        return _check_stores(arguments.data)
    source = source_of(arguments.data)
    if arguments.root is None and source.root is None:
        return _check_stores(source.name)
    from mmzoo.data.preparing.balance import class_lines, size_lines
    from mmzoo.data.preparing.check import check
    from mmzoo.data.sources.faults import told

    root, splits, recipe = files_of(arguments, source)
    with Bar() as progress:
        listed, faults = check(
            source, root, recipe, splits_dir=splits, quick=arguments.quick, jobs=arguments.jobs, progress=progress
        )
    for fault in faults:
        print(f"{fault.kind}: {told(fault)}")
    recipes = source.recipes()
    chosen = recipes[recipe or next(iter(recipes))]
    classes, odd = class_lines(listed, chosen)
    kinds = source.doubts(listed.items)
    print(
        f"{source.name}: {len(listed.items):,} samples, {len(listed.classes)} classes, "
        f"splits {', '.join(listed.split_sources)}. {_verdict(faults, odd, kinds)}"
    )
    for line in (classes, *size_lines(listed, chosen), *odd, *kinds):
        if line:
            print(f"  {line}")
    if is_manifest(arguments.data):
        _print_choices(arguments.data, listed, recipes["own"])
    return 1 if faults else 0


def _verdict(faults: Sequence[Fault], odd: Sequence[str], doubts: Sequence[str]) -> str:
    """In words, what was found: faults by kind, and whether something about the classes or the kinds looks odd."""
    from mmzoo.data.sources.source import FAULTS

    counts = Counter(f.kind for f in faults)
    if counts:
        told = "; ".join(f"{counts[k]} {k} ({FAULTS[k]})" for k in FAULTS if counts[k])
        return f"{len(faults)} faults: {told}."
    unsure = [what for what, found in (("classes", odd), ("kinds", doubts)) if found]
    return f"No sample is faulty. But check the {' and the '.join(unsure)}:" if unsure else "Nothing is wrong."


def _print_choices(manifest: str, listed: Listed, recipe: Recipe) -> None:
    """How a bench would read and train on a user's own data, with the sizes of encoders."""
    from mmzoo.benchmark.execution.building import encoder_sizes
    from mmzoo.benchmark.planning.choices import choice_lines
    from mmzoo.benchmark.planning.plan import make_plan
    from mmzoo.config.spec import BenchSpec
    from mmzoo.data.preparing.check import vocabularies
    from mmzoo.errors import MmzooError

    spec = BenchSpec("concat", datasets=(manifest,), seeds=(0,), references=False)
    try:
        try:
            plan, words = make_plan(spec, catalogue()), {}
        except MmzooError:
            plan, words = make_plan(spec, catalogue(), stores=False), vocabularies(listed, recipe)
    except MmzooError:  # what is wrong with it is said above, or when it is benched
        return
    sizes = encoder_sizes(plan, plan.runs[0], catalogue(), words)
    print("A bench at defaults:")
    for line in choice_lines(plan, plan.runs[0].dataset, sizes):
        print(f"  {line}")


def _is_own(text: str) -> bool:
    """Whether a name that the catalogue does not know is that of prepared data of one's own."""
    from mmzoo.data.store.home import store_folders

    known = is_manifest(text) or catalogue().has("datasets", text)
    return not known and re.fullmatch(r"\w+", text) is not None and any(store_folders(text))


def _check_stores(name: str) -> int:
    from mmzoo.data.store.home import store_folders
    from mmzoo.data.store.store import DataStore

    folders = [f for mini in (False, True) for f in store_folders(name, mini=mini)]
    if not folders:
        raise BadValue(f"{name} has no store to be checked. Name its published files with --root DIR, or prepare it.")
    bad = 0
    for folder in folders:
        try:
            with Bar() as progress:
                store = DataStore(folder)
                total, done = sum(f["bytes"] for f in store.meta["files"].values()), [0]

                def on_bytes(n: int, total: int = total, done: list[int] = done, progress: Progress = progress) -> None:
                    done[0] += n
                    progress.step("hash", done[0], total)

                store.verify(on_bytes)
                _ = store.index
            print(f"{folder}: as it was written, {len(store):,} samples")
        except CorruptFile as error:
            bad += 1
            print(str(error))
    return 1 if bad else 0

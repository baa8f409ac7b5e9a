"""mmzoo data: prepare, check, mini, list, show. Nothing here imports torch, numpy only where files are read."""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmzoo.cli.stores import Bar, lacking_splits, store_line, tell
from mmzoo.config.datasets import is_manifest
from mmzoo.errors import BadValue, CorruptFile, UnknownName, near_miss

if TYPE_CHECKING:
    from mmzoo.data.preparing.prepare import Progress
    from mmzoo.data.sources.source import Fault, Source
    from mmzoo.registry import Entry


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "data",
        help="prepare, check, generate and show data sets",
        description="Turns a data set in its published layout, or one of your own (a YAML manifest and a CSV file), into a packed "
        "store below MMZOO_HOME, from which any bench reads it. NAME is a data set (mmzoo data list) or FILE.yaml.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(parser))
    prepare = actions.add_parser(
        "prepare",
        help="make the store of a data set",
        description=(
            "Makes the store, with a worker process a core. It goes on where it was stopped, and does nothing where all is done."
        ),
    )
    _add_name(prepare, _prepare)
    _add_files(prepare)
    prepare.add_argument(
        "--mini", action="store_true", help="the generated twin below MMZOO_HOME (mmzoo data mini NAME)"
    )
    prepare.add_argument(
        "--on-bad",
        metavar="[KIND=]ACTION,...",
        action="append",
        default=[],
        help="what becomes of items that cannot be used: error (default), drop, blank (zeros), and keep for "
        "KIND duplicate, mislabelled, silent, short; e.g. drop, or missing=drop,silent=keep",
    )
    prepare.add_argument(
        "--allow-missing", action="store_true", help="leave out what is not there: --on-bad missing=drop"
    )
    check = actions.add_parser(
        "check",
        help="what is wrong with a data set or its store",
        description=(
            "With --root, or for FILE.yaml: reads and decodes everything and names each fault. Otherwise: sees that the stores of NAME "
            "are as they were written. Exit code 1 when something is wrong."
        ),
    )
    _add_name(check, _check)
    _add_files(check)
    check.add_argument(
        "--quick", action="store_true", help="annotations and whether the files are there; decode nothing"
    )
    mini = actions.add_parser(
        "mini",
        help="generate a twin of a data set, in its published layout",
        description=(
            "Writes a small generated data set with planted imbalance and known Bayes accuracies, in the layout and file formats of "
            "the real one. Its rows are marked (mini) everywhere."
        ),
    )
    _add_name(mini, _mini)
    mini.add_argument("--root", metavar="DIR", help="where it goes (default: below MMZOO_HOME)")
    mini.add_argument("--seed", metavar="N", type=int, default=0, help="another seed gives other items (default: 0)")
    listed = actions.add_parser("list", help="which data sets there are, and which are prepared")
    listed.set_defaults(command=_list)
    shown = actions.add_parser(
        "show", help="layout, source, recipes, splits and stores of a data set; NAME:KEY=VALUE for one that is bundled"
    )
    _add_name(shown, _show)


def _add_name(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("data", metavar="NAME", help="a data set, or FILE.yaml")
    parser.set_defaults(command=command)


def _add_files(parser: argparse.ArgumentParser) -> None:
    """Which files are read, and how: see `_files`."""
    parser.add_argument("--root", metavar="DIR", help="the folder of the published files")
    parser.add_argument("--splits", metavar="DIR", help="where split lists lie, if not below --root")
    parser.add_argument(
        "--recipe", metavar="NAME", help="how files become arrays (default: the first; mmzoo data show NAME)"
    )
    parser.add_argument("--jobs", metavar="N", type=int, help="worker processes (default: one a core; 0: none)")


# ---------------------------------------------------------------------------------------------- prepare
def _prepare(arguments: argparse.Namespace) -> int:
    source = _source_of(arguments.data)
    root, splits, recipe = _files(arguments, source)
    chosen = [*arguments.on_bad, *(["missing=drop"] if arguments.allow_missing else [])]
    with Bar() as progress:
        from mmzoo.data.preparing.prepare import prepare

        done = prepare(
            source, root, recipe, splits_dir=splits, on_bad=chosen or None, jobs=arguments.jobs, progress=progress
        )
    tell(done)
    return 0


def _files(arguments: argparse.Namespace, source: Source) -> tuple[Path, Path | None, str | None]:
    """The folder to read, the folder of split lists, and the recipe, as they are asked for. Raises BadValue."""
    if arguments.jobs is not None and not 0 <= arguments.jobs <= 4096:
        raise BadValue(f"--jobs must lie between 0 and 4096, not {arguments.jobs}.")
    root = _root(arguments, source)
    splits = None if arguments.splits is None else _folder(arguments.splits, "--splits")
    return root, splits, arguments.recipe or _usual_recipe(arguments.data, root)


def _root(arguments: argparse.Namespace, source: Source) -> Path:
    """The folder to prepare from: as given, a manifest's own, or the twin's where that is all there is."""
    from mmzoo.data.store.home import mini_root

    own = source.root
    if own is not None:
        if arguments.root is not None:
            raise BadValue(f"{arguments.data} says itself where its files lie (root); leave --root out.")
        return Path(own)
    twin = mini_root(source.name)
    wants_mini = getattr(arguments, "mini", False)
    if arguments.root is not None and not wants_mini:
        return _folder(arguments.root, "--root")
    if arguments.root is not None:
        raise BadValue("--mini is the twin below MMZOO_HOME; leave out either --mini or --root.")
    if twin.is_dir():
        if not wants_mini:
            print(f"No --root: taking the generated twin in {twin}. Its rows will be marked (mini).")
        return twin
    if wants_mini:
        raise BadValue(f"there is no twin in {twin}. Generate it first: mmzoo data mini {source.name}")
    raise BadValue(
        f"where are the files of {source.name}? Name their folder: mmzoo data prepare {source.name} --root DIR. It looks like "
        f"this:\n{_indented(source.layout)}\n{source.obtain}\nOr generate a small twin: mmzoo data mini {source.name}"
    )


def _folder(text: str, option: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_dir():
        raise BadValue(f"{option} {text}: {'that is a file' if path.exists() else 'there is no such folder'}.")
    return path.absolute()


# ---------------------------------------------------------------------------------------------- check
def _check(arguments: argparse.Namespace) -> int:
    if _is_own(arguments.data):
        if any((arguments.root, arguments.splits, arguments.recipe, arguments.quick, arguments.jobs is not None)):
            raise BadValue(
                f"{arguments.data} is data of your own: its stores are checked by name, without options. Name its "
                "manifest to check the files: mmzoo data check FILE.yaml"
            )
        return _check_stores(arguments.data)
    source = _source_of(arguments.data)
    if arguments.root is None and source.root is None:
        return _check_stores(source.name)
    from mmzoo.data.preparing.balance import class_lines
    from mmzoo.data.preparing.check import check
    from mmzoo.data.sources.faults import told

    root, splits, recipe = _files(arguments, source)
    with Bar() as progress:
        listed, faults = check(
            source, root, recipe, splits_dir=splits, quick=arguments.quick, jobs=arguments.jobs, progress=progress
        )
    for fault in faults:
        print(f"{fault.kind}: {told(fault)}")
    recipes = source.recipes()
    classes, odd = class_lines(listed, recipes[recipe or next(iter(recipes))])
    print(
        f"{source.name}: {len(listed.items):,} items, {len(listed.classes)} classes, "
        f"splits {', '.join(listed.split_sources)}. {_verdict(faults, odd)}"
    )
    for line in (classes, *odd):
        if line:
            print(f"  {line}")
    if is_manifest(arguments.data):
        _print_choices(arguments.data)
    return 1 if faults else 0


def _verdict(faults: Sequence[Fault], odd: Sequence[str]) -> str:
    """In words, what was found: faults by kind, and whether something about the classes looks odd."""
    from mmzoo.data.sources.faults import FAULTS

    counts = Counter(f.kind for f in faults)
    if counts:
        kinds = "; ".join(f"{counts[k]} {k} ({FAULTS[k]})" for k in FAULTS if counts[k])
        return f"{len(faults)} faults: {kinds}."
    return "No item is faulty. But look at the classes:" if odd else "Nothing is wrong."


def _print_choices(manifest: str) -> None:
    """How a bench would read and train on a user's own data; the sizes of encoders once it is prepared."""
    from mmzoo.benchmark.planning.choices import choice_lines
    from mmzoo.benchmark.planning.plan import make_plan
    from mmzoo.config.spec import BenchSpec
    from mmzoo.errors import MmzooError
    from mmzoo.registry.plugins import catalogue

    spec = BenchSpec("concat", datasets=(manifest,), seeds=(0,), references=False)
    try:
        try:
            plan, prepared = make_plan(spec, catalogue()), True
        except MmzooError:
            plan, prepared = make_plan(spec, catalogue(), stores=False), False
    except MmzooError:  # what is wrong with it is said above, or when it is benched
        return
    sizes = {}
    if prepared:
        from mmzoo.benchmark.execution.building import encoder_sizes

        sizes = encoder_sizes(plan.runs[0], catalogue())
    print("A bench at defaults:")
    for line in choice_lines(plan, plan.runs[0].dataset, sizes):
        print(f"  {line}")


def _is_own(text: str) -> bool:
    """Whether a name that the catalogue does not know is that of prepared data of one's own."""
    from mmzoo.data.store.home import store_folders
    from mmzoo.registry.plugins import catalogue

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
            print(f"{folder}: as it was written, {len(store):,} items")
        except CorruptFile as error:
            bad += 1
            print(str(error))
    return 1 if bad else 0


# ---------------------------------------------------------------------------------------------- mini
def _mini(arguments: argparse.Namespace) -> int:
    from mmzoo.benchmark.planning.data_defaults import make_twin
    from mmzoo.data.store.home import mini_root
    from mmzoo.registry.plugins import catalogue

    source = _source_of(arguments.data)
    root = mini_root(source.name) if arguments.root is None else Path(arguments.root).expanduser().absolute()
    with Bar() as progress:
        made = make_twin(
            catalogue().get("datasets", arguments.data),
            root,
            arguments.seed,
            lambda n, of: progress.step("generate", n, of),
        )
    items = ", ".join(f"{n:,} {part}" for part, n in made["items"].items())
    step = f" --root {root}" if arguments.root is not None else ""
    print(f"{source.name} (mini): {items} items, generated in {root}")
    print(f"  Bayes accuracy: {', '.join(f'{m} {100 * p:.1f} %' for m, p in made['bayes'].items())}")
    print(f"Next: mmzoo data prepare {source.name}{step}")
    return 0


# ---------------------------------------------------------------------------------------------- list and show
def _list(arguments: argparse.Namespace) -> int:
    from mmzoo.data.store.home import home, mini_root
    from mmzoo.data.store.store import find_stores
    from mmzoo.registry.plugins import catalogue

    for entry in catalogue().entries("datasets"):
        if not entry.extra.get("prepared"):
            print(f"{entry.name}: comes with {entry.package}, nothing to prepare")
            continue
        name = entry.name
        found = [store_line(s) for mini in (False, True) for s in find_stores(name, mini=mini)]
        if not found:
            there = mini_root(name).is_dir()
            found = [
                f"not prepared: mmzoo data prepare {name} --root DIR"
                + (
                    f", or mmzoo data prepare {name} for the twin that is there"
                    if there
                    else f", or a twin: mmzoo data mini {name}"
                )
            ]
        print(f"{name}: " + f"\n{' ' * (len(name) + 2)}".join(found))
    print(f"Stores lie below {home()} (MMZOO_HOME).")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from mmzoo.data.store.store import find_stores
    from mmzoo.registry.plugins import catalogue

    name = arguments.data.partition(":")[0]
    known = catalogue().get("datasets", name) if catalogue().has("datasets", name) else None
    if known is not None and not known.extra.get("prepared"):
        return _show_bundled(arguments.data)
    source = _source_of(arguments.data)
    print(f"{source.name}\n  layout:\n{_indented(source.layout, 4)}")
    if source.obtain:
        print(f"  where it comes from:\n{_indented(source.obtain, 4)}")
    print("  recipes:")
    for recipe in source.recipes().values():
        print(f"    {recipe.name}: {recipe.doc}".rstrip())
        for m, f in recipe.fields.items():
            arrays = ", ".join(
                f"{p + ' ' if p else ''}{a.dtype} {'x'.join(map(str, a.shape))}" for p, a in f.arrays().items()
            )
            print(f"      {m}: {f.kind}, {arrays}")
    print("  splits:")
    for split, told in source.splits.items():
        print(f"    {split}: {told}")
    stores = [s for mini in (False, True) for s in find_stores(source.name, mini=mini)]
    print("  stores:" if stores else "  stores: none")
    for store in stores:
        print(f"    {store_line(store)}: {store.folder}")
        for lacking in lacking_splits(store):
            print(f"      {lacking}")
    return 0


def _show_bundled(text: str) -> int:
    """A data set that needs no preparation: what is in it with the preset and the values that are given."""
    from mmzoo.benchmark.execution.building import load_data
    from mmzoo.config.datasets import resolve_dataset
    from mmzoo.config.settings import Settings
    from mmzoo.registry.plugins import catalogue

    label, entry, params = resolve_dataset(catalogue(), text, Settings(catalogue(), ()))
    data = load_data(catalogue(), entry.name, json.dumps(params, sort_keys=True))
    names = {"slice": "meta set", "holdout": "validation"}
    print(f"{label}\n  {entry.summary}")
    print(f"  modalities: {', '.join(f'{m} ({data.spec(m).kind}, {data.shape(m)[0]})' for m in data.modalities)}")
    print(f"  classes: {data.n_classes}")
    print(f"  samples: {', '.join(f'{len(rows):,} {names.get(part, part)}' for part, rows in data.splits.items())}")
    if data.present is not None:
        shares = data.present.double().mean(0).tolist()
        print(f"  present: {', '.join(f'{m} {100 * p:.1f} %' for m, p in zip(data.modalities, shares))}")
    if data.bayes:
        print(f"  Bayes accuracy: {', '.join(f'{m} {100 * p:.1f} %' for m, p in data.bayes.items())}")
    print(f"  parameters and presets: mmzoo show {entry.name}")
    return 0


def _indented(text: str, by: int = 2) -> str:
    return "\n".join(" " * by + line for line in text.strip("\n").splitlines())


# ---------------------------------------------------------------------------------------------- names
def _source_of(text: str) -> Source:
    """The source of a data set or of a manifest. Raises UnknownName for another name, BadValue for a faulty manifest."""
    from mmzoo.registry.plugins import catalogue

    if is_manifest(text):
        from mmzoo.data.own.manifest import own_entry

        return own_entry(Path(text), catalogue()).load()
    return _published(catalogue().get("datasets", text)) if catalogue().has("datasets", text) else _nobody(text)


def _published(entry: Entry) -> Source:
    if not entry.extra.get("prepared"):
        raise BadValue(
            f"{entry.name} comes with {entry.package}: there is nothing to prepare. See: mmzoo show {entry.name}"
        )
    return entry.load()()


def _usual_recipe(text: str, root: Path) -> str | None:
    """The recipe of a data set unless another is asked for: of its twin, the one that the catalogue names for it."""
    from mmzoo.data.store.choice import as_mini
    from mmzoo.data.store.home import is_mini
    from mmzoo.registry.plugins import catalogue

    if is_manifest(text):
        return None
    entry = catalogue().get("datasets", text)
    return str((as_mini(entry) if is_mini(root) else entry).defaults()["recipe"])


def _nobody(text: str) -> Any:
    from mmzoo.registry.plugins import catalogue

    names = [e.name for e in catalogue().entries("datasets")]
    hint = " A manifest of your own ends in .yaml." if Path(text).exists() else ""
    raise UnknownName(f"no data set {text!r}.{near_miss(text, names)}{hint} All that there are: mmzoo data list")

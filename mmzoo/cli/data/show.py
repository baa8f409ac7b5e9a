"""mmzoo data list and show: which data sets there are, and what is in one. No torch at import."""

from __future__ import annotations

import argparse
import json

from mmzoo.cli.data.names import indented, source_of
from mmzoo.cli.data.stores import lacking_splits, store_line
from mmzoo.registry.plugins import catalogue


def run_list(arguments: argparse.Namespace) -> int:
    from mmzoo.data.store.home import home, mini_root
    from mmzoo.data.store.store import find_stores

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
                    f", or mmzoo data prepare {name} for the existing synthetic set"
                    if there
                    else f", or a synthetic set: mmzoo data mini {name}"
                )
            ]
        print(f"{name}: " + f"\n{' ' * (len(name) + 2)}".join(found))
    print(f"Stores are below {home()} (MMZOO_HOME).")
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    from mmzoo.data.store.store import find_stores

    name = arguments.data.partition(":")[0]
    known = catalogue().get("datasets", name) if catalogue().has("datasets", name) else None
    if known is not None and not known.extra.get("prepared"):
        return _show_bundled(arguments.data)
    source = source_of(arguments.data)
    print(f"{source.name}\n  layout:\n{indented(source.layout, 4)}")
    if source.obtain:
        print(f"  where it comes from:\n{indented(source.obtain, 4)}")
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

"""mmzoo data prepare and mini: make the store of a data set, generate a synthetic set. No torch at import."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmzoo.cli.data.names import files_of, source_of
from mmzoo.cli.data.stores import Bar, tell
from mmzoo.registry.plugins import catalogue


def run_prepare(arguments: argparse.Namespace) -> int:
    source = source_of(arguments.data)
    root, splits, recipe = files_of(arguments, source)
    chosen = [*arguments.on_bad, *(["missing=drop"] if arguments.allow_missing else [])]
    with Bar() as progress:
        from mmzoo.data.preparing.prepare import prepare

        done = prepare(
            source, root, recipe, splits_dir=splits, on_bad=chosen or None, jobs=arguments.jobs, progress=progress
        )
    tell(done)
    return 0


def run_mini(arguments: argparse.Namespace) -> int:
    from mmzoo.benchmark.planning.data_defaults import make_twin
    from mmzoo.data.store.home import mini_root

    source = source_of(arguments.data)
    root = mini_root(source.name) if arguments.root is None else Path(arguments.root).expanduser().absolute()
    with Bar() as progress:
        made = make_twin(
            catalogue().get("datasets", arguments.data),
            root,
            arguments.seed,
            lambda n, of: progress.step("generate", n, of),
            preset=arguments.preset,
        )
    items = ", ".join(f"{n:,} {part}" for part, n in made["items"].items())
    step = f" --root {root}" if arguments.root is not None else ""
    print(f"{source.name} (mini): {items} samples, generated in {root}")
    print(f"  Bayes accuracy: {', '.join(f'{m} {100 * p:.1f} %' for m, p in made['bayes'].items())}")
    print(f"Next: mmzoo data prepare {source.name}{step}")
    return 0

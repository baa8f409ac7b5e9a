"""`mmzoo plugins`: list the plugin packages that were found, whether they loaded, and what of torch they replace."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmzoo.registry.plugins import Plugin


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("plugins", help="list installed plugins: version, location, and errors")
    parser.add_argument("--json", action="store_true", help="print a JSON list of objects")
    parser.add_argument(
        "--check",
        action="store_true",
        help="import torch and all that the packages list, and end with code 1 where a function of torch is replaced",
    )
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from mmzoo.registry.plugins import load

    plugins = load().plugins
    if arguments.check:
        _import_all(plugins)
    code = 1 if _note_replaced(plugins) and arguments.check else 0
    if arguments.json:
        print(json.dumps([p.public() for p in plugins], indent=1))
        return code
    for p in plugins:
        print(f"{p.name} {p.version}: {p.status}, {p.entries} entries, {p.seconds * 1000:.0f} ms, from {p.source}")
        if p.reason:
            print("  " + p.reason.replace("\n", "\n  "))
        for note in p.notes:
            print(f"  note: {note}")
    return code


def _import_all(plugins: Sequence[Plugin]) -> None:
    """Import torch and the entries of third-party packages. One that cannot be imported is named where it is used."""
    import torch  # noqa: F401

    from mmzoo.errors import MmzooError

    for entry in (e for p in plugins[1:] if p.status == "loaded" for e in p.listed if "path" in e.extra):
        with contextlib.suppress(MmzooError):
            entry.load()


def _note_replaced(plugins: Sequence[Plugin]) -> bool:
    """Note with each package what of torch it replaces; with mmzoo what others do. Returns whether anything is."""
    from mmzoo.core.replaced import foreign

    packages = {p.source.partition(":")[0].partition(".")[0]: p for p in plugins[1:]}
    for name, author in (found := foreign()).items():
        mine = packages.get(author)
        (mine or plugins[0]).notes += (
            f"{name} is replaced by code of {author}: it may change the results of every method",
        )
    return bool(found)

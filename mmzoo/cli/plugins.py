"""`mmzoo plugins`: list the plugin packages that were found, and whether they loaded."""

from __future__ import annotations

import argparse
import json


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("plugins", help="list installed plugins: version, location, and errors")
    parser.add_argument("--json", action="store_true", help="print a JSON list of objects")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from mmzoo.registry.plugins import load

    plugins = load().plugins
    if arguments.json:
        print(json.dumps([p.public() for p in plugins], indent=1))
        return 0
    for p in plugins:
        print(f"{p.name} {p.version}: {p.status}, {p.entries} entries, {p.seconds * 1000:.0f} ms, from {p.source}")
        if p.reason:
            print("  " + p.reason.replace("\n", "\n  "))
        for note in p.notes:
            print(f"  note: {note}")
    return 0

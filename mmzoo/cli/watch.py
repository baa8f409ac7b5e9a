"""mmzoo watch: the report of a folder that is being written, in a browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmzoo.errors import BadValue


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "watch",
        help="serve the report of a folder while a bench writes it",
        description="Serves the HTML report on the loopback address. The page reloads when a run ends. Nothing is written.",
    )
    parser.add_argument("folder", metavar="DIR", help="the folder given to bench as --out")
    parser.add_argument("--port", type=int, default=8765, help="0: any free one (default: 8765)")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from mmzoo.benchmark.reporting.html.server import serve

    if not Path(arguments.folder).is_dir():
        raise BadValue(f"there is no folder {arguments.folder}: name the folder given to bench as --out.")
    if not 0 <= arguments.port < 65536:
        raise BadValue(f"--port must be from 0 to 65535, not {arguments.port}.")
    try:
        serve(Path(arguments.folder), arguments.port, lambda url: print(f"{url} (Ctrl-C stops)", flush=True))
    except KeyboardInterrupt:
        print()
    return 0

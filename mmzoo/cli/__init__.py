"""The command line. Nothing here imports torch; a command that needs it does so when it runs."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from mmzoo import __version__
from mmzoo.benchmark.execution import torchrun
from mmzoo.errors import BadValue, MmzooError

COMMANDS = (
    "bench",
    "tune",
    "report",
    "compare",
    "runs",
    "status",
    "watch",
    "data",
    "new",
    "check",
    "list",
    "show",
    "plugins",
)


class _Parser(argparse.ArgumentParser):
    """Flags must be written out: an abbreviation may change its meaning when a flag is added."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]


def build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="mmzoo",
        description="Multimodal encoders, fusion heads and rebalancing strategies, compared fairly.",
        epilog="Start with: mmzoo bench --method dynamic_gap_lb --baselines ogm,pmr",
    )
    parser.add_argument("--version", action="version", version=f"mmzoo {__version__}")
    commands = parser.add_subparsers(dest="name", metavar="COMMAND", required=True, parser_class=_Parser)
    for name in COMMANDS:
        importlib.import_module(f"mmzoo.cli.{name}").add_parser(commands)
    _add_plugin_commands(commands)
    return parser


def _add_plugin_commands(commands: argparse._SubParsersAction[Any]) -> None:
    """The commands of third-party packages; one that fails costs its commands, nothing else."""
    from mmzoo.registry.plugins import load

    loaded = load()
    for implementation in loaded.manager.hook.mmzoo_commands.get_hookimpls():
        try:
            implementation.function(commands)
        except (Exception, SystemExit) as error:
            note = f"its commands are left out: {type(error).__name__}: {error}"
            plugin = next(p for p in loaded.plugins if p.target is implementation.plugin)
            if note not in plugin.notes:
                plugin.notes += (note,)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, or 2 for bad input with one message on stderr; 130 after Ctrl-C. Under torchrun, all
    processes do a bench together, and the first alone does any other command."""
    if torchrun.processes() > 1:
        given = sys.argv[1:] if argv is None else argv
        return torchrun.split(lambda: _main(given), given)
    return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a table must not fail on a terminal that has no "±"
            stream.reconfigure(errors="backslashreplace" if stream is sys.stderr else "replace")
    try:
        arguments = build_parser().parse_args(argv)
        if not hasattr(arguments, "command"):
            raise BadValue(f"the command {arguments.name!r} of a plugin sets no function: set_defaults(command=...).")
        return int(arguments.command(arguments) or 0)
    except SystemExit as leave:  # argparse: --help, or a usage error
        return int(leave.code or 0) if isinstance(leave.code, int) or leave.code is None else 2
    except MmzooError as error:
        print(f"mmzoo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mmzoo: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `mmzoo list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0

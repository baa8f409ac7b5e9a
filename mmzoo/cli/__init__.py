"""The command line. Nothing here imports torch; a command that needs it does so when it runs."""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from mmzoo import __version__
from mmzoo.benchmark.execution import torchrun
from mmzoo.errors import BadValue, MmzooError, near_miss, said, short
from mmzoo.io.streams import open_missing, patient_stdout, silence

#: modules with commands; that of `predict` has `predictions` too, that of `status` has `watch`, `setup` has several
COMMANDS = (
    "bench",
    "tune",
    "report",
    "reproduce",
    "gradcam",
    "compare",
    "runs",
    "status",
    "predict",
    "export",
    "data",
    "new",
    "check",
    "list",
    "show",
    "plugins",
    "docs",
    "setup",
)

#: commands that make rows: what they print is of less worth
LASTING = ("bench", "tune", "reproduce")


class _Parser(argparse.ArgumentParser):
    """Flags must be written out: an abbreviation may change its meaning when a flag is added. What is misspelt is answered in a line
    with the nearest word; anything else that is wrong with the usage of the command that was meant."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        given = [*(sys.argv[1:] if args is None else args)]
        found, rest = self.parse_known_args(given, namespace)
        if rest:
            self._meant(given)._refuse(rest)
        return found

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Suggest the nearest choice for a misspelt one; argparse reports all other wrong values."""
        if action.choices is not None and value not in action.choices:
            what = action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest).lower()
            self._near(f"no {what} {short(value)}.", str(value), map(str, action.choices))
        super()._check_value(action, value)

    def error(self, message: str) -> NoReturn:
        """Exit for a wrong value: one line, which names the option and says what it takes."""
        option, wrong, given = message.partition(": invalid int value: ")
        if wrong:
            message = f"{option}: takes a whole number, not {given}"
        elif not message.startswith("argument "):
            super().error(message)
        self.exit(2, f"{self.prog}: {message.removeprefix('argument ')}. See: {self.prog} --help\n")

    def _meant(self, given: Sequence[str]) -> _Parser:
        """The parser of the command that the words name."""
        parser = self
        for word in given:
            for action in parser._actions:
                inner = (action.choices or {}).get(word) if isinstance(action, argparse._SubParsersAction) else None
                parser = inner if isinstance(inner, _Parser) else parser
        return parser

    def _refuse(self, rest: Sequence[str]) -> NoReturn:
        """Exit for words that the command does not take."""
        wrong = [word.partition("=")[0] for word in rest if word.startswith("--")]
        if wrong:
            self._near(
                f"no option {wrong[0]}.",
                wrong[0],
                [o for o in self._option_string_actions if o not in ("-h", "--help")],
            )
        self.error(f"unrecognized arguments: {short(' '.join(rest))[1:-1]}")

    def _near(self, problem: str, given: str, known: Iterable[str]) -> None:
        """Exit with one line where a known word is close."""
        if near := near_miss(given, known):
            self.exit(2, f"{self.prog}: {problem}{near} List all: {self.prog} --help\n")


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
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            note = f"its commands are left out: {said(error)}"
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
    open_missing()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a table must not fail on a terminal that has no "±"
            stream.reconfigure(errors="backslashreplace" if stream is sys.stderr else "replace")
    arguments = argparse.Namespace()
    try:
        parser = build_parser()
        if "_ARGCOMPLETE" in os.environ:  # a shell asks what may stand where the cursor is
            importlib.import_module("mmzoo.cli.setup.completion").answer(parser)
        arguments = parser.parse_args(argv)
        arguments.argv = [*(sys.argv[1:] if argv is None else argv)]  # `list` is a module here
        if not hasattr(arguments, "command"):
            raise BadValue(f"the command {arguments.name!r} of a plugin sets no function: set_defaults(command=...).")
        if arguments.name in LASTING:
            return _lasting(arguments)
        code = int(arguments.command(arguments) or 0)
        sys.stdout.flush()
        return code
    except SystemExit as leave:  # argparse: --help, or a usage error
        return int(leave.code or 0) if isinstance(leave.code, int) or leave.code is None else 2
    except MmzooError as error:
        print(f"mmzoo: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(" ".join(["mmzoo: stopped.", *([arguments.resumes] if "resumes" in arguments else [])]), file=sys.stderr)
        return 130
    except BrokenPipeError:  # `mmzoo list | head`
        silence(sys.stdout)
        return 0
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EIO, errno.EBADF):
            raise
        return _unwritten(error)


def _lasting(arguments: argparse.Namespace) -> int:
    """A command that makes rows goes on when nobody reads what it prints any more (`mmzoo bench | head -1`)."""
    with patient_stdout() as stream:
        code = int(arguments.command(arguments) or 0)
    if stream.error is None:
        return code
    if isinstance(stream.error, BrokenPipeError):
        silence(sys.stdout)
        return code
    return code or _unwritten(stream.error)


def _unwritten(error: OSError) -> int:
    silence(sys.stdout)
    print(f"mmzoo: the output could not be written: {error.strerror or error}.", file=sys.stderr)
    return 1

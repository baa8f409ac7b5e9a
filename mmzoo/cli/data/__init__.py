"""mmzoo data: init, prepare, check, mini, list, show, shared. Nothing here imports torch, numpy only for files."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from mmzoo.cli.data.check import run_check
from mmzoo.cli.data.init import run_init
from mmzoo.cli.data.prepare import run_mini, run_prepare
from mmzoo.cli.data.shared import add_shared
from mmzoo.cli.data.show import run_list, run_show


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "data",
        help="prepare, check, generate and show data sets",
        description="Turns a data set in its published layout, or your own data (a YAML manifest and a CSV file), into a packed "
        "store below MMZOO_HOME, from which any bench reads it. NAME is a data set (mmzoo data list) or FILE.yaml.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=type(parser))
    init = actions.add_parser(
        "init",
        help="write a manifest for a table of your own",
        description="Guesses from the header and cells of a table which column is the label and what the others hold, and writes "
        "a commented manifest beside it, to be corrected.",
    )
    init.add_argument("table", metavar="TABLE", help="a CSV file")
    init.add_argument("--to", metavar="FILE.yaml", help="name of the manifest (default: that of the table)")
    init.set_defaults(command=run_init)
    _add_prepare(actions.add_parser)
    _add_check(actions.add_parser)
    _add_mini(actions.add_parser)
    listed = actions.add_parser("list", help="list data sets, and which are prepared")
    listed.set_defaults(command=run_list)
    shown = actions.add_parser(
        "show", help="show layout, source, recipes, splits and stores of a data set; NAME:KEY=VALUE for a bundled one"
    )
    _add_name(shown, run_show)
    add_shared(actions.add_parser)


def _add_prepare(add_parser: Callable[..., Any]) -> None:
    parser = add_parser(
        "prepare",
        help="prepare the store of a data set",
        description="Makes the store, with one worker process per core. Resumes where it was stopped, and does nothing where all "
        "is done.",
    )
    _add_name(parser, run_prepare)
    parser.set_defaults(resumes="What is decoded is kept: the same command resumes.")
    _add_files(parser)
    parser.add_argument("--mini", action="store_true", help="the synthetic set below MMZOO_HOME (mmzoo data mini NAME)")
    parser.add_argument(
        "--on-bad",
        metavar="[KIND=]ACTION,...",
        action="append",
        default=[],
        help="how to treat samples that cannot be used: error (default), drop, blank (zeros), and keep for "
        "KIND duplicate, mislabelled, silent, short; e.g. drop, or missing=drop,silent=keep",
    )
    parser.add_argument(
        "--allow-missing", action="store_true", help="leave out missing samples: short for --on-bad missing=drop"
    )


def _add_check(add_parser: Callable[..., Any]) -> None:
    parser = add_parser(
        "check",
        help="check a data set and its store for faults",
        description="With --root, or for FILE.yaml: reads and decodes everything and names each fault. Otherwise: checks that the "
        "stores of NAME are as they were written. Exit code 1 when something is wrong.",
    )
    _add_name(parser, run_check)
    _add_files(parser)
    parser.add_argument(
        "--quick", action="store_true", help="check annotations and that the files exist; decode nothing"
    )


def _add_mini(add_parser: Callable[..., Any]) -> None:
    parser = add_parser(
        "mini",
        help="generate a small synthetic set in the published layout of a data set",
        description="Writes a small synthetic set with planted imbalance and known Bayes accuracies, in the layout and file formats "
        "of the real data set. Its rows are marked (mini) everywhere.",
    )
    _add_name(parser, run_mini)
    parser.add_argument("--root", metavar="DIR", help="the folder to write (default: below MMZOO_HOME)")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="seed of the samples (default: 0)")
    parser.add_argument(
        "--preset",
        metavar="NAME",
        default="default",
        help="what modalities share besides the class: default (some content, some context), class (nothing), content, context",
    )


def _add_name(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int]) -> None:
    parser.add_argument("data", metavar="NAME", help="a data set, or FILE.yaml")
    parser.set_defaults(command=command)


def _add_files(parser: argparse.ArgumentParser) -> None:
    """The options for which files are read, and how."""
    parser.add_argument("--root", metavar="DIR", help="the folder of the published files")
    parser.add_argument(
        "--splits",
        metavar="DIR",
        help="the folder of the split lists, if not below --root (to choose a split: bench --set NAME.split=SPLIT)",
    )
    parser.add_argument(
        "--recipe", metavar="NAME", help="how files are converted to arrays (default: the first; mmzoo data show NAME)"
    )
    parser.add_argument("--jobs", metavar="N", type=int, help="worker processes (default: one per core; 0: none)")

"""Every hook by which a package adds to mmzoo. They say what exists; training is done by plain objects."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from mmzoo.registry import Entry

hookspec = pluggy.HookspecMarker("mmzoo")
hookimpl = pluggy.HookimplMarker("mmzoo")


@hookspec
def mmzoo_catalogue() -> Iterable[Entry]:  # type: ignore[empty-body]
    """The entries of this package, usually `read_entries(__package__)` of the registry.yaml beside it.

    Called whenever anything is listed, so it must not import torch.
    """


@hookspec
def mmzoo_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add sub-commands: a parser whose default `command` is a function of the parsed arguments."""


@hookspec
def mmzoo_replays() -> None:
    """Import the modules that register replays of test vectors (see mmzoo.testing.replay). Called by its command only."""

"""The pluggy hooks through which packages extend mmzoo: catalogue entries, sub-commands and replays.

Implemented by plugins and called by `mmzoo.registry.plugins`. Hooks only register; they take no part in training.
Must not import torch.
"""

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

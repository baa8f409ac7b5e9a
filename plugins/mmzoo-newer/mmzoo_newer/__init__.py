"""Newer methods of modality rebalancing for mmzoo."""

import importlib
from collections.abc import Iterable

from mmzoo.registry import Entry, read_entries
from mmzoo.registry.hookspecs import hookimpl


@hookimpl
def mmzoo_catalogue() -> Iterable[Entry]:
    return read_entries(__name__, "mmzoo-newer")


@hookimpl
def mmzoo_replays() -> None:
    importlib.import_module("mmzoo_newer.replays")

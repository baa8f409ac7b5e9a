"""Emoji as a data set for mmzoo."""

from collections.abc import Iterable

from mmzoo.registry import Entry, read_entries
from mmzoo.registry.hookspecs import hookimpl


@hookimpl
def mmzoo_catalogue() -> Iterable[Entry]:
    return read_entries(__name__, "mmzoo-openmoji")

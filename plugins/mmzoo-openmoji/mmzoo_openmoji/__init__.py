"""Emoji as a data set for mmzoo."""

from collections.abc import Iterable

from mmzoo.catalogue import Entry, read_entries
from mmzoo.hookspecs import hookimpl


@hookimpl
def mmzoo_catalogue() -> Iterable[Entry]:
    return read_entries(__name__, "mmzoo-openmoji")

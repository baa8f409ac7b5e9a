"""Many rows in little memory: what is equal in several rows is there once. No torch at import."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from mmzoo.benchmark.results.packing import Parts
from mmzoo.benchmark.results.store import Store
from mmzoo.errors import CorruptFile

T = TypeVar("T")


def shared_rows(store: Store, errors: list[CorruptFile], parts: Parts = "tables") -> list[dict[str, Any]]:
    """The rows of a store for tables and charts, to be read only: their equal parts are one object. A row takes a third of the memory
    that it takes by itself.

    Args:
        errors: Takes an error for each row that cannot be read.
        parts: How much of each row; "scores" is enough for the tables that a report begins with.
    """
    return each_of(store, errors, lambda row: row, parts=parts)


def each_of(
    store: Store,
    errors: list[CorruptFile],
    take: Callable[[dict[str, Any]], T],
    most: int | None = None,
    parts: Parts = "tables",
) -> list[T]:
    """What is taken of each row of a store. errors, parts: see `shared_rows`; most: see `Store.each_row`."""
    with _no_collection():
        return [take(row) for row in store.each_row(errors, most, parts)]


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Rows hold no cycles, and to look for some among ten thousands of rows takes a quarter of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()

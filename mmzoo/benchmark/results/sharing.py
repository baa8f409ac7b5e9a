"""Many rows in little memory: what is equal in several rows is there once. No torch at import."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping
from sys import intern
from typing import Any, TypeVar

from mmzoo.benchmark.results.store import Store
from mmzoo.errors import CorruptFile

T = TypeVar("T")

#: parts that runs have in common, all of them or those of a configuration
_COMMON = ("spec", "environment", "record", "cost", "hashes", "teachers", "still_improving")
#: scores of the validation set, which choose an epoch: no table or chart has them
_UNREAD = "holdout"


def shared_rows(store: Store, errors: list[CorruptFile]) -> list[dict[str, Any]]:
    """The rows of a store for tables and charts, to be read only: their equal parts are one object, and `metrics.holdout` is left
    out. A row takes a third of the memory that it takes by itself.

    Args:
        errors: Takes an error for each row that cannot be read.
    """
    seen: dict[str, Any] = {}
    return each_of(store, errors, lambda row: _share(row, seen))


def each_of(
    store: Store, errors: list[CorruptFile], take: Callable[[dict[str, Any]], T], most: int | None = None
) -> list[T]:
    """What is taken of each row of a store, while no two rows are in memory. errors: see `shared_rows`; most: see `each_row`."""
    with _no_collection():
        return [take(row) for row in store.each_row(errors, most)]


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


def _share(row: Mapping[str, Any], seen: dict[str, Any]) -> dict[str, Any]:
    found = {intern(k): _once(v, seen) if k in _COMMON else _texts_once(v) for k, v in row.items()}
    if not row["spec"].get("floor"):
        found["metrics"].pop(_UNREAD, None)
    return found


def _once(value: Any, seen: dict[str, Any]) -> Any:
    """A part of which the values are equal in many rows, each of them once."""
    if not isinstance(value, dict):
        return seen.setdefault(repr(value), value)
    return {intern(k): seen.setdefault(repr(v), v) for k, v in value.items()}


def _texts_once(value: Any) -> Any:
    """A part that differs from row to row: its keys and texts are there once."""
    if type(value) is not dict:
        return intern(value) if type(value) is str else value
    return {intern(k): v if type(v) is float else _texts_once(v) for k, v in value.items()}

"""Names in the catalogue: taken, removed, unknown, not loadable."""

from __future__ import annotations

import pytest
from helpers.registry_files import entry

from mmzoo.errors import MmzooError, UnknownName
from mmzoo.registry import BUILT_IN, KINDS, Catalogue, built_in_path, read_entries

ENTRIES = read_entries(built_in_path(), BUILT_IN)
BUILT_INS = Catalogue(ENTRIES)


def test_a_name_that_is_taken_stays_with_its_first_holder() -> None:
    first, second = entry("heads", "sum", BUILT_IN), entry("heads", "sum", "pkg", aliases=("plus",))
    known = Catalogue([first, second])
    assert known.get("heads", "sum") is first and known.get("heads", "mmzoo/sum") is first
    assert known.get("heads", "pkg/sum") is second and known.get("heads", "plus") is second
    assert known.get("heads", "sum", "pkg") is second
    assert known.name_of(second) == "pkg/sum"
    assert known.clashes == ["head 'sum' of pkg is taken by mmzoo; use pkg/sum"]
    assert known.entries("heads") == [first, second]


def test_a_removed_entry_leaves_no_name_behind() -> None:
    gone = entry("heads", "x", "pkg", aliases=("y",))
    known = Catalogue([gone])
    known.remove(gone)
    assert not any(known.has("heads", n) for n in ("x", "y", "pkg/x"))


def test_an_unknown_name_is_answered_with_the_nearest_and_where_to_look() -> None:
    with pytest.raises(UnknownName, match=r"no method 'ogn'\. Did you mean 'ogm'\? .*mmzoo list methods"):
        BUILT_INS.get("methods", "ogn")


def test_an_entry_that_cannot_be_loaded_says_which_and_why() -> None:
    with pytest.raises(MmzooError, match=r"head 'x' of package pkg cannot be loaded from nowhere:X.*ModuleNotFound"):
        entry("heads", "x", "pkg", path="nowhere:X").load()
    assert set(KINDS) == {e.kind for e in BUILT_INS}

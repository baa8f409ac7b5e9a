"""Names of the packages beside mmzoo: the list agrees with their registries, and a name that is not installed says where it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from helpers.places import ROOT

from mmzoo.errors import UnknownName
from mmzoo.io.yaml_file import read
from mmzoo.registry import BUILT_IN, Catalogue, built_in_path, read_entries
from mmzoo.registry.elsewhere import PACKAGES

BUILT_INS = Catalogue(read_entries(built_in_path(), BUILT_IN))


@pytest.mark.skipif(not (ROOT / "plugins").is_dir(), reason="the packages lie in the source tree")
def test_the_list_agrees_with_the_registries_of_the_packages() -> None:
    found = {}
    for path in (ROOT / "plugins").glob("*/*/registry.yaml"):
        kinds = {kind: entries for kind, entries in read(path).data.items() if kind != "schema"}
        names = {
            kind: {n for name, body in entries.items() for n in (name, *body.get("aliases", ()))}
            for kind, entries in kinds.items()
        }
        assert names.pop("strategies", set()) <= names.get("methods", set())
        found[path.parents[1].name] = names
    assert found == {
        package: {k: {*names.split()} for k, names in kinds.items()} for package, kinds in PACKAGES.items()
    }


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        (
            "methods",
            "mmpareto",
            "no method 'mmpareto'. It is in the package mmzoo-later (pip install ./plugins/mmzoo-later).",
        ),
        ("strategies", "mmzoo_newer/dgl", "It is in the package mmzoo-newer"),
        ("heads", "tensor", "Did you mean 'tensor_fusion'? It is in the package mmzoo-heads (pip install"),
        ("datasets", "openmoji", "It is in the package mmzoo-openmoji"),
        ("methods", "mmparetto", "Did you mean 'mmpareto'? It is in the package mmzoo-later"),
        ("methods", "ogn", "Did you mean 'ogm'? List all"),
        ("methods", "qqqqqqqq", "no method 'qqqqqqqq'. List all"),
    ],
)
def test_a_name_that_is_not_installed_says_where_it_is(kind: str, name: str, said: str) -> None:
    with pytest.raises(UnknownName) as told:
        BUILT_INS.get(kind, name)
    assert said in str(told.value)


def test_an_installed_name_is_not_said_to_be_elsewhere(mmzoo: Callable[..., Any]) -> None:
    told = mmzoo("data", "show", "no_such_set")
    assert told.code == 2 and "package" not in told.err

"""Which strategies can be chained: the committed matrix, and that entries, texts and classes agree about it."""

from __future__ import annotations

import importlib.util
from itertools import combinations
from types import ModuleType

import pytest
from helpers.places import ROOT

from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.errors import Incompatible
from mmzoo.registry import Catalogue
from mmzoo.training.composition import Chain

pytestmark = pytest.mark.skipif(not (ROOT / "benchmarks").is_dir(), reason="needs the source tree")
#: what a chain of objects refuses; a head and modalities are asked for when a run begins
STRUCTURAL = {"S", "T", "B", "P", "D", "F"}


@pytest.fixture(scope="module")
def chains() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chains", ROOT / "benchmarks" / "chains.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_committed_matrix_is_what_the_entries_say(chains: ModuleType) -> None:
    assert chains.RESULT.read_text(encoding="utf-8") == chains.document(), "run: python benchmarks/chains.py"


def refused(catalogue: Catalogue, text: str) -> bool:
    try:
        resolve_method(catalogue, text, Settings(catalogue, ()))
    except Incompatible:
        return True
    return False


def test_a_bench_refuses_the_pairs_that_the_matrix_refuses(chains: ModuleType) -> None:
    """In both orders, under a head that is named; what a head lacks is told by data set, when the plan is made."""
    catalogue = chains.read_catalogue()
    # A text names a method before a strategy: those of another strategy, or with arguments, say nothing here.
    known = [e for e in chains.strategies(catalogue) if not catalogue.has("methods", e.name) or same(catalogue, e.name)]
    assert len(known) > 30
    for a, b in combinations(known, 2):
        structural = chains.verdict(catalogue, a, b) in STRUCTURAL
        for first, second in ((a, b), (b, a)):
            assert refused(catalogue, f"{first.name}+{second.name}@concat") == structural, (first.name, second.name)


def same(catalogue: Catalogue, name: str) -> bool:
    """Whether the method of a name is the strategy of that name, with no arguments."""
    recipe = catalogue.get("methods", name)
    return recipe.extra["strategy"] == name and not recipe.extra.get("args")


def test_classes_refuse_the_pairs_that_their_entries_refuse(chains: ModuleType) -> None:
    catalogue = chains.read_catalogue()
    here = [e for e in chains.strategies(catalogue) if importlib.util.find_spec(e.package.replace("-", "_"))]
    for a, b in combinations(here, 2):
        if chains.verdict(catalogue, a, b) in STRUCTURAL:
            with pytest.raises(Incompatible):
                Chain(a.load()(), b.load()())
        else:
            Chain(a.load()(), b.load()())
    assert len(here) > 15

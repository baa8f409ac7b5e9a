"""Every entry of registry.yaml against the class that it names."""

from __future__ import annotations

import importlib.util
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from helpers.registry_files import listed

from mmzoo.core.encoder import Encoder
from mmzoo.core.head import FusionHead
from mmzoo.data.loading.datamodule import DataModule
from mmzoo.data.loading.prepared import READING, open_module
from mmzoo.data.loading.transforms import transform_for
from mmzoo.data.sources.source import Source
from mmzoo.registry import BUILT_IN, Catalogue, Entry, built_in_path, read_entries
from mmzoo.training.config import Training
from mmzoo.training.strategy import REQUIREMENTS, Strategy

ENTRIES = read_entries(built_in_path(), BUILT_IN)
BUILT_INS = Catalogue(ENTRIES)
#: a tracker is named after the package that it needs, which is an extra
INSTALLED = [e for e in ENTRIES if e.kind != "trackers" or importlib.util.find_spec(e.name)]
WITH_CODE = [e for e in INSTALLED if e.kind != "methods"]
PREPARED = [e for e in ENTRIES if e.extra.get("prepared")]
RECIPES = [e for e in ENTRIES if e.kind == "methods"]
BASES = {"strategies": Strategy, "heads": FusionHead, "encoders": Encoder}
KIND_OF = {
    float: "float",
    int: "int",
    bool: "bool",
    str: "str",
    Sequence[int]: "ints",
    Sequence[str]: "strs",
    Mapping[str, float]: "numbers",
}
each_entry = pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.id)
each_with_code = pytest.mark.parametrize("entry", WITH_CODE, ids=lambda e: e.id)
each_strategy = pytest.mark.parametrize("entry", [e for e in ENTRIES if e.kind == "strategies"], ids=lambda e: e.name)
each_head = pytest.mark.parametrize("entry", [e for e in ENTRIES if e.kind == "heads"], ids=lambda e: e.name)
each_recipe = pytest.mark.parametrize("entry", RECIPES, ids=lambda e: e.name)
each_dataset = pytest.mark.parametrize(
    "entry", [e for e in ENTRIES if e.kind == "datasets" and e not in PREPARED], ids=lambda e: e.name
)
each_prepared = pytest.mark.parametrize("entry", PREPARED, ids=lambda e: e.name)


def keyword_only(target: Any) -> dict[str, inspect.Parameter]:
    if isinstance(target, type) and target.__init__ is object.__init__:  # type: ignore[misc]
        return {}
    found = inspect.signature(target).parameters.values()
    return {p.name: p for p in found if p.kind is inspect.Parameter.KEYWORD_ONLY}


def declared(target: Any, name: str) -> tuple[str, tuple[Any, ...] | None]:
    """The registry's type of an annotated parameter, and its choices where it is a Literal."""
    hints = typing.get_type_hints(target.__init__ if isinstance(target, type) else target)
    hint, optional = hints[name], ""
    if isinstance(hint, types.UnionType):
        (hint,), optional = [a for a in typing.get_args(hint) if a is not type(None)], "?"
    if typing.get_origin(hint) is Literal:
        return "str" + optional, typing.get_args(hint)
    return KIND_OF[hint] + optional, None


# ---------------------------------------------------------------------- entries and classes
@each_entry
def test_an_entry_reads_as_one_line_and_names_its_sources(entry: Entry) -> None:
    assert entry.summary[0].isupper() or entry.summary[0].isdigit()
    assert entry.summary.endswith((".", ".)", ").")) and "\n" not in entry.summary and len(entry.summary) <= 110
    assert set(entry.fidelity) <= {"checked_against", "paper", "code", "ours"}
    assert set(entry.requires) <= REQUIREMENTS
    if entry.paper:
        assert {"title", "venue", "year"} <= set(entry.paper)
    assert all(p.doc for p in entry.params.values())


@each_with_code
def test_parameters_are_those_of_the_constructor(entry: Entry) -> None:
    target = entry.load() if entry not in PREPARED else open_module
    if entry.kind in BASES:
        assert issubclass(target, BASES[entry.kind])
    given = keyword_only(target)
    if entry in PREPARED:  # read from a store: see the next test but one
        assert set(entry.params) <= {"recipe", *READING} <= {"recipe", *given}
        return
    assert set(given) == set(entry.params)
    for name, param in entry.params.items():
        assert given[name].default == param.default and type(given[name].default) is type(param.default), name
        kind, choices = declared(target, name)
        assert param.type.replace("scope", "str") == kind, name
        assert choices is None or param.choices == choices, name


@each_with_code
def test_a_default_lies_within_its_own_limits(entry: Entry) -> None:
    for param in entry.params.values():
        assert param.check(param.default) == param.default


def claims(strategy: type[Strategy] | Strategy) -> dict[str, Any]:
    limits = {"min": strategy.min_modalities, "max": strategy.max_modalities}
    return {
        "requires": set(strategy.requires),
        "owns": set(strategy.owns),
        "cost": dict(strategy.cost),
        "single_process": strategy.single_process,
        "limits": {k: v for k, v in limits.items() if v not in (1, None)},
    }


@each_strategy
def test_a_strategy_claims_what_its_class_claims(entry: Entry) -> None:
    stated = {
        "requires": set(entry.requires),
        "owns": set(entry.extra.get("owns", ())),
        "single_process": entry.extra.get("single_process", ""),
        "limits": dict(entry.extra.get("modalities", {})),
    }
    of_default = claims(entry.load()())
    assert {**stated, "cost": dict(entry.cost)} == of_default


@each_recipe
def test_a_recipe_claims_what_its_parts_claim(entry: Entry) -> None:
    strategy = BUILT_INS.get("strategies", entry.extra["strategy"])
    head = BUILT_INS.get("heads", entry.extra["head"])
    made = strategy.load()(**strategy.check_params(entry.extra.get("args", {})))
    head.check_params(entry.extra.get("head_args", {}))
    of_head = {"equal_dims"} if head.load().equal_dims else set()
    assert set(entry.requires) == set(made.requires) | of_head
    after = {}
    for name, params in entry.extra.get("then", {}).items():
        follower = BUILT_INS.get("strategies", name)
        after |= follower.load()(**follower.check_params(params)).cost
        assert "finish" in follower.extra["owns"]
    assert dict(entry.cost) == after | dict(made.cost)


@each_head
def test_a_head_claims_what_its_class_claims(entry: Entry) -> None:
    cls = entry.load()
    assert entry.extra["how"] == cls.how
    assert entry.extra.get("additive", False) == cls({"a": 3, "b": 3}, 2).additive
    assert entry.extra.get("equal_dims", False) == cls.equal_dims
    assert (entry.extra.get("couples", False), entry.extra.get("mean_gates", False)) == (cls.couples, cls.mean_gates)
    assert entry.extra.get("modalities", {}).get("min", 1) == cls.min_modalities
    assert set(entry.requires) == ({"equal_dims"} if cls.equal_dims else set())


@each_dataset
def test_a_data_set_is_what_its_entry_says(entry: Entry) -> None:
    for preset in entry.extra["presets"].values():
        data = entry.load()(**{**entry.defaults(), **entry.check_params(preset)})
        assert isinstance(data, DataModule)
        assert data.name == entry.name and data.n_classes == entry.extra["n_classes"]
        assert data.metric == entry.extra["metric"]
        assert set(data.modalities) <= set(entry.extra["modalities"])
    for changes in entry.extra["training"].values():
        Training().replace(**changes)
    for choice in entry.extra["encoders"].values():
        BUILT_INS.get("encoders", choice["name"]).check_params(choice.get("params", {}))


@each_prepared
def test_a_prepared_data_set_is_what_its_entry_says(entry: Entry) -> None:
    source = entry.load()
    assert issubclass(source, Source) and source.name == entry.name
    recipes = source.recipes()
    assert entry.params["recipe"].choices == tuple(recipes) and entry.defaults()["recipe"] == next(iter(recipes))
    assert entry.params["split"].choices == tuple(source.splits)
    assert len(importlib.import_module(source.__module__).CLASSES) == entry.extra["n_classes"]
    for params in [*entry.extra["presets"].values(), entry.extra["mini"]["params"]]:
        chosen = {**entry.defaults(), **entry.check_params(params)}
        fields = recipes[chosen["recipe"]].fields
        kinds = {m: f.kind for m, f in fields.items()}
        assert kinds.items() <= entry.extra["modalities"].items()
        for field in fields.values():
            shapes = {part: a.shape for part, a in field.arrays().items()}
            transform_for(
                field.kind, shapes, **{k: chosen.get(k) for k in ("frames", "size")}
            )  # refuses what is not stored
    for changes in (*entry.extra["training"].values(), entry.extra["mini"]["training"]):
        Training().replace(**changes)
    for choice in (*entry.extra["encoders"].values(), *entry.extra["mini"]["encoders"].values()):
        BUILT_INS.get("encoders", choice["name"]).check_params(choice.get("params", {}))


def test_no_name_or_alias_is_given_twice() -> None:
    assert BUILT_INS.clashes == []
    for entry in ENTRIES:
        for name in (entry.name, *entry.aliases, entry.qualified):
            assert BUILT_INS.get(entry.kind, name) is entry
        assert BUILT_INS.name_of(entry) == entry.name


def test_presets_of_a_strategy_name_its_parameters(tmp_path: Path) -> None:
    text = """
strategies:
  s:
    path: pkg:S
    summary: x
    params: {k: {type: int, default: 1}, preset: {type: int, default: 1}}
    presets: {good: {k: 2}, bad: {k: x, l: 1}}
    slice_if: {m: [1]}
"""
    faults = listed(text, tmp_path)
    assert len(faults) == 4
    for part in (
        "params.preset: preset is how",
        "presets.bad.k",
        "slice_if.m: no such parameter",
        "presets.bad.l: no parameter 'l'",
    ):
        assert any(part in f for f in faults), part


def test_presets_named_after_a_data_set_name_its_modalities() -> None:
    known = Catalogue(read_entries(built_in_path(), BUILT_IN))
    modalities = {e.name: set(e.extra["modalities"]) for e in known.entries("datasets")}
    checked = []
    for entry in known.entries("strategies"):
        for name, given in entry.extra.get("presets", {}).items():
            for param, value in given.items():
                if name in modalities and entry.params[param].type.startswith("numbers"):
                    assert set(value) <= modalities[name] | {"fused"}, (entry.name, name)
                    checked.append((entry.name, name))
    assert {("mslr", "cremad"), ("gblend", "kinetics_sounds")} <= set(checked)

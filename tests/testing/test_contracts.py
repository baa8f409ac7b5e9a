"""Every strategy, head and encoder in the catalogue keeps the contract that mmzoo ships for third parties."""

from __future__ import annotations

import json

import pytest

from mmzoo.benchmark.execution.building import build_strategy
from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.config.spec import Method
from mmzoo.registry import BUILT_IN, Entry
from mmzoo.registry.plugins import catalogue
from mmzoo.testing import SPECS, check_part, check_strategy

#: encoders with one size, and that large: checked on one kind of input, the largest not by second derivatives
LARGE = ("resnet18", "resnet50")
QUICK = ["check_encoder_shape", "check_encoder_gradients", "check_encoder_stages"]


def built_in(kind: str) -> list[Entry]:
    """Packages that happen to be installed check their own."""
    return [e for e in catalogue().entries(kind) if e.package == BUILT_IN]


def methods() -> list[Method]:
    """One method for each strategy with the parameters of a recipe: heads are checked by themselves."""
    found: dict[str, Method] = {}
    for entry in built_in("methods"):
        method = resolve_method(catalogue(), entry.name, Settings(catalogue(), ()))
        found.setdefault(json.dumps([[p.strategy, p.params] for p in method.parts], sort_keys=True), method)
    return list(found.values())


def parts(kind: str) -> list[tuple[str, dict]]:
    """Each entry with its defaults, and once more for each other choice that a parameter offers."""
    found = []
    for entry in built_in(kind):
        found.append((entry.name, {}))
        for p in entry.params.values():
            found += [(entry.name, {p.name: c}) for c in p.choices or () if c != p.default]
    return found


def heads() -> list[tuple[str, dict]]:
    """Each head with its defaults, with each other choice, and as each recipe has it."""
    found = parts("heads")
    for entry in built_in("methods"):
        pair = (entry.extra["head"], dict(entry.extra.get("head_args", {})))
        found += [] if pair in found else [pair]
    return found


def test_every_strategy_and_head_of_the_catalogue_is_checked() -> None:
    assert {p.strategy for m in methods() for p in m.parts} == {e.name for e in built_in("strategies")}
    assert {name for name, _ in heads()} == {e.name for e in built_in("heads")}


@pytest.mark.parametrize("method", methods(), ids=lambda m: m.label)
def test_strategy(method: Method) -> None:
    head = catalogue().get("heads", method.head).load()
    trains_copies = build_strategy(catalogue(), method.parts).cost["backward"] > 2
    check_strategy(
        lambda: build_strategy(catalogue(), method.parts),
        head=lambda dims, n_classes: head(dims, n_classes, **method.head_params),
        draws=3 if trains_copies else 10,
    )


@pytest.mark.parametrize(("name", "params"), heads(), ids=str)
def test_head(name: str, params: dict) -> None:
    cls = catalogue().get("heads", name).load()
    sequences = params.get("mode") == "tokens"  # features of several steps side by side
    given = {**params, "steps": 3} if sequences else params
    check_part("head", cls, given, multiple=3 if sequences else 1)


def encoders() -> list[tuple[str, str, dict]]:
    """Each entry with each kind of input that it takes, and with each other choice where that is a choice."""
    found = []
    for name, params in parts("encoders"):
        entry = catalogue().get("encoders", name)
        example = dict(entry.extra.get("example", {}))
        kinds = entry.inputs if name not in LARGE else entry.inputs[:1]
        found += [(name, kind, {**example, **params}) for kind in kinds if "temporal" not in params or kind == "video"]
    return found


@pytest.mark.parametrize(("name", "kind", "params"), encoders(), ids=str)
def test_encoder(name: str, kind: str, params: dict) -> None:
    spec = SPECS[kind]
    only = QUICK if name == "resnet50" else None
    check_part("encoder", catalogue().get("encoders", name).load(), {"spec": spec, **params}, inputs=spec, only=only)


@pytest.mark.parametrize("pair", [("ogm", "pmr"), ("joint_unimodal", "ogm"), ("dynamic_gap_h", "joint_unimodal")])
def test_chains_and_windows_keep_the_contract(pair: tuple[str, str]) -> None:
    method = resolve_method(catalogue(), f"{pair[0]}:0-1+{pair[1]}", Settings(catalogue(), ()))
    check_strategy(lambda: build_strategy(catalogue(), method.parts), draws=4)

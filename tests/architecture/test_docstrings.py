"""Every public name has a docstring: a summary on one line, and each parameter by name."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

MODULES = ("mmzoo", "mmzoo.api", "mmzoo.bilevel", "mmzoo.testing")
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
PARTS = ("strategies", "heads", "encoders", "trackers")


def _functions(module: Any) -> list[str]:
    return [n for n, x in vars(module).items() if inspect.isfunction(x) and not n.startswith("_")]


def _public() -> Iterator[tuple[str, Any]]:
    """The classes and functions that a user imports."""
    for name in MODULES:
        module = importlib.import_module(name)
        for each in module.__all__:
            if inspect.isclass(thing := getattr(module, each)) or inspect.isfunction(thing):
                yield f"{name}.{each}", thing
    module = importlib.import_module("mmzoo.functional")
    yield from ((f"mmzoo.functional.{n}", getattr(module, n)) for n in (*_functions(module), *module.OF_METHODS))


def _methods(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods that mmzoo defines in a class."""
    ours = [c for c in cls.__mro__ if c.__module__.startswith("mmzoo")]
    for name in dict.fromkeys(n for c in ours for n in vars(c)):
        if not name.startswith("_") and inspect.isfunction(member := inspect.getattr_static(cls, name)):
            yield name, member


def faults(doc: str, parameters: Iterator[str] | list[str], context: str = "") -> list[str]:
    """What a docstring lacks. A parameter is named by an entry of a section, or in backticks; `context` counts too."""
    lines = doc.splitlines() or [""]
    found = [] if re.search(r"\.\S{0,2}$", lines[0]) and not "".join(lines[1:2]) else [f"summary: {lines[0]!r}"]
    listed = re.findall(r"^ +((?:\w+, )*\w+):", f"{doc}\n{context}", re.MULTILINE)
    named = set(re.findall(r"\w+", " ".join(listed))) | set(re.findall(r"`(\w+)", doc))
    return found + [f"parameter {p}" for p in parameters if p not in named and not p.startswith("_")]


def faults_of(thing: Any, owner: type | None = None) -> list[str]:
    """Those of a class, a function, or a method of `owner`.

    What the classes above document counts. Left out are further keyword arguments, which have names of their own, and
    the only parameter of a function, which its summary is about.
    """
    cls = owner or thing
    doc = inspect.getdoc(getattr(owner, thing.__name__) if owner else thing) or ""
    above = "\n".join(c.__doc__ or "" for c in cls.__mro__) if inspect.isclass(cls) else ""
    plain = inspect.isclass(thing) and issubclass(thing, BaseException) and "__init__" not in vars(thing)
    parameters = [] if plain else [p.name for p in inspect.signature(thing).parameters.values() if p.kind in NAMED]
    parameters = [p for p in parameters if p not in ("self", "cls")]
    return faults(doc, parameters if len(parameters) > 1 or inspect.isclass(thing) else [], above)


def test_a_docstring_without_a_summary_or_a_parameter_is_found() -> None:
    def bare(first: int, second: int) -> None: ...
    def half(first: int, second: int) -> None:
        """Adds two numbers

        Args:
            first: one of them.
        """

    assert faults_of(bare) == ["summary: ''", "parameter first", "parameter second"]
    assert faults_of(half) == ["summary: 'Adds two numbers'", "parameter second"]


def test_every_public_name_is_documented() -> None:
    missing = {name: found for name, thing in _public() if (found := faults_of(thing))}
    assert missing == {}


def test_every_public_method_is_documented() -> None:
    missing = {
        f"{name}.{method}": found
        for name, cls in _public()
        if inspect.isclass(cls)
        for method, member in _methods(cls)
        if (found := faults_of(member, cls))
    }
    assert missing == {}


@pytest.mark.parametrize("kind", PARTS)
def test_every_part_of_the_catalogue_is_documented(kind: str) -> None:
    from mmzoo.registry.plugins import catalogue

    entries = [e for e in catalogue().entries(kind) if "path" in e.extra]
    assert entries and {e.qualified: found for e in entries if (found := faults_of(e.load()))} == {}

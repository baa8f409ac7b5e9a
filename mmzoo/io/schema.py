"""Forms of JSON objects that are read back from disk: what each key must hold. No torch at import.

A form is written as the object looks: a dict of keys to forms, with kinds at the leaves.

    FORM = {"name": TEXT, "size": whole(1), "scores": each({"acc": number(0, 1)}), "note": optional(TEXT)}

`misfit(value, FORM)` returns None, or the first key that is missing or does not fit, in words. Keys that a form does not
name are ignored, so that files of later versions can be read. Used by the results folder (`mmzoo.benchmark.results`), the
data stores (`mmzoo.data.store`) and the entries of registry.yaml (`mmzoo.registry.schema`).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Kind:
    """What a single value must be.

    Args:
        words: What is wanted, as a message says it: "a whole number".
        fits: Whether a value is one.
        json: The same as a JSON schema, as far as one can say it.
    """

    words: str
    fits: Callable[[Any], bool]
    json: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Each:
    """An object all of whose values have one form."""

    form: Form


@dataclass(frozen=True)
class Items:
    """A list all of whose items have one form."""

    form: Form


@dataclass(frozen=True)
class Optional:
    """A key that may be missing; a value that is there must fit."""

    form: Form


Form = Kind | Each | Items | Optional | Mapping[str, "Form"]


# ---------------------------------------------------------------------------------------------- kinds
def is_whole(value: Any) -> bool:
    """Whether a value is an int and no bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is an int or a float, finite and no bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def is_text(value: Any) -> bool:
    return isinstance(value, str)


def is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def is_object(value: Any) -> bool:
    return isinstance(value, dict)


def is_list(value: Any) -> bool:
    return isinstance(value, list)


def is_texts(value: Any) -> bool:
    return is_list(value) and all(map(is_text, value))


TEXT = Kind("a text", is_text, {"type": "string"})
FLAG = Kind("true or false", is_flag, {"type": "boolean"})
OBJECT = Kind("an object", is_object, {"type": "object"})
LIST = Kind("a list", is_list, {"type": "array"})
TEXTS = Kind("a list of texts", is_texts, {"type": "array", "items": {"type": "string"}})


def whole(low: float = -math.inf, high: float = math.inf) -> Kind:
    """A whole number, both limits included."""
    words, json = f"a whole number{_limits(low, high)}", {"type": "integer", **_bounds(low, high)}
    return Kind(words, lambda value: is_whole(value) and low <= value <= high, json)


def number(low: float = -math.inf, high: float = math.inf) -> Kind:
    """A finite number, both limits included."""
    least, most = max(low, -sys.float_info.max), min(high, sys.float_info.max)  # a finite float is between, NaN is not

    def fits(value: Any) -> bool:
        return least <= value <= most if type(value) is float else is_number(value) and low <= value <= high

    return Kind(f"a finite number{_limits(low, high)}", fits, {"type": "number", **_bounds(low, high)})


def one_of(*values: str) -> Kind:
    return Kind(f"one of {', '.join(values)}", lambda value: value in values, {"enum": list(values)})


def or_null(kind: Kind) -> Kind:
    json = {"anyOf": [dict(kind.json), {"type": "null"}]}
    return Kind(f"{kind.words} or null", lambda value: value is None or kind.fits(value), json)


def _bounds(low: float, high: float) -> dict[str, float]:
    """The limits of a number that there are, as a JSON schema writes them."""
    return {key: n for key, n in (("minimum", low), ("maximum", high)) if abs(n) < math.inf}


def _limits(low: float, high: float) -> str:
    if low > -math.inf and high < math.inf:
        return f" from {low:g} to {high:g}"
    if low > -math.inf:
        return f" from {low:g}"
    return f" of at most {high:g}" if high < math.inf else ""


WHOLE, NUMBER = whole(), number()


# ---------------------------------------------------------------------------------------------- combinations
def each(form: Form) -> Each:
    return Each(form)


def items(form: Form) -> Items:
    return Items(form)


def optional(form: Form) -> Optional:
    return Optional(form)


def misfit(value: Any, form: Form, where: str = "") -> str | None:
    """The first thing about a value that its form does not allow.

    Args:
        value: What `json.loads` returned.
        form: What it must look like.
        where: The path of the value within its file, for the message: "metrics.last".

    Returns:
        "PATH is missing", "PATH is not KIND", or None where all of it fits.
    """
    return None if _fits(value, form) else _fault(value, form, where)


def _fits(value: Any, form: Any) -> bool:
    """Whether a value is as its form says. Most are, and rows are read by the ten thousand: no words are made here."""
    kind = type(form)  # an isinstance of Mapping costs more than all the rest
    if kind is Kind:
        return bool(form.fits(value))
    if kind is Optional:
        return _fits(value, form.form)
    if kind is Each:
        return isinstance(value, dict) and all(_fits(inside, form.form) for inside in value.values())
    if kind is Items:
        return isinstance(value, list) and all(_fits(item, form.form) for item in value)
    if not isinstance(value, dict):
        return False
    for key, inner in form.items():
        if key not in value:
            if type(inner) is not Optional:
                return False
        elif not (inner.fits(value[key]) if type(inner) is Kind else _fits(value[key], inner)):
            return False
    return True


def _fault(value: Any, form: Form, where: str) -> str | None:
    """The words of `misfit`."""
    match form:
        case Kind():
            return None if form.fits(value) else f"{where or 'it'} is not {form.words}"
        case Optional():
            return _fault(value, form.form, where)
        case Each():
            keys = {key: form.form for key in value} if isinstance(value, dict) else {}
            return _fault(value, keys, where)
        case Items():
            return _item_misfit(value, form.form, where)
    if not isinstance(value, dict):
        return f"{where or 'it'} is not an object"
    return next((fault for key in form if (fault := _key_misfit(value, key, form[key], where)) is not None), None)


def _key_misfit(inside: Mapping[str, Any], key: str, form: Form, where: str) -> str | None:
    path = f"{where}.{key}" if where else str(key)
    if key in inside:
        return _fault(inside[key], form, path)
    return None if isinstance(form, Optional) else f"{path} is missing"


def _item_misfit(value: Any, form: Form, where: str) -> str | None:
    if not isinstance(value, list):
        return f"{where or 'it'} is not a list"
    faults = (_fault(item, form, f"{where}.{n}") for n, item in enumerate(value))
    return next((fault for fault in faults if fault is not None), None)

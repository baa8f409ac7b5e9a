"""Parameters as entries declare them: types, limits, where tuning looks for them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmzoo.core.scopes import ACCEPTED, scope_pattern
from mmzoo.errors import BadValue, near_miss, short

#: the types that there are, and what a value of each is given as
TYPES: Mapping[str, tuple[type, ...]] = {
    "float": (int, float),
    "int": (int,),
    "bool": (bool,),
    "str": (str,),
    "ints": (list, tuple),
    "strs": (list, tuple),
    "numbers": (Mapping,),
    "scope": (str,),
}


@dataclass(frozen=True)
class Search:
    """Where tuning looks for a parameter: between low and high, evenly or by its logarithm."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Param:
    """One parameter: its type, default and accepted values. A type ending in `?` also takes none.

    range and choices hold for the value, or for each item of a list or of `numbers`, a mapping of names to numbers.
    when: another parameter -> values; where it has none of these, this one means nothing: it is not searched, and to set it
    for a method is an error.
    added_later: it came after runs without it had been stored. At its default it is left out of a run's spec, so that
    their ids stay what they are.
    """

    name: str
    type: str
    default: Any
    doc: str = ""
    range: tuple[float, float] | None = None
    choices: tuple[Any, ...] | None = None
    search: Search | None = None
    when: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    added_later: bool = False

    def idle(self, params: Mapping[str, Any]) -> str | None:
        """The first parameter because of which this one means nothing among `params`."""
        return next((name for name, values in self.when.items() if params[name] not in values), None)

    def check(self, value: Any) -> Any:
        """The value, converted where nothing is lost. Raises BadValue that says what is accepted."""
        base, optional = self.type.removesuffix("?"), self.type.endswith("?")
        if value is None and optional:
            return None
        wrong = isinstance(value, bool) != (base == "bool") or not isinstance(value, TYPES[base])
        several = base in ("ints", "strs", "numbers")
        items = () if wrong else tuple(value.values() if base == "numbers" else value) if several else (value,)
        wrong = wrong or (base == "numbers" and not all(isinstance(name, str) for name in value))
        if wrong or any(not self._takes(item) for item in items):
            misspelt = "" if self.choices is None else near_miss(str(value), map(str, self.choices))
            raise BadValue(f"{self.name} must be {self.accepts()}, not {short(value)}.{misspelt}")
        if base == "numbers":
            return {name: float(item) for name, item in value.items()}
        if base == "scope":
            scope_pattern(value)
        return float(value) if base == "float" else items if several else value

    def _takes(self, item: Any) -> bool:
        """Whether a value, or one item of a list, has the right type and lies within the limits."""
        base = self.type.removesuffix("?")
        if base in ("ints", "strs") and (
            isinstance(item, bool) or not isinstance(item, int if base == "ints" else str)
        ):
            return False
        if base == "numbers" and (isinstance(item, bool) or not isinstance(item, (int, float))):
            return False
        if base in ("float", "numbers") and not abs(item) <= sys.float_info.max:  # NaN, infinite, or a huge whole one
            return False
        if self.range is not None and not self.range[0] <= item <= self.range[1]:
            return False
        return self.choices is None or item in self.choices

    def accepts(self) -> str:
        """In words, what may be given."""
        base = self.type.removesuffix("?")
        words = {
            "float": "a number",
            "int": "a whole number",
            "bool": "true or false",
            "str": "a text",
            "ints": "a list of whole numbers",
            "strs": "a list of names",
            "numbers": "a mapping of names to numbers",
            "scope": ACCEPTED,
        }[base]
        if self.choices is not None:
            listed = ", ".join(map(str, self.choices))
            words = f"{words} among {listed}" if base in ("ints", "strs") else f"one of {listed}"
        elif self.range is not None:
            words += f" from {self.range[0]:.15g} to {self.range[1]:.15g}"
        return words + (" or null" if self.type.endswith("?") else "")


#: what every encoder can be told beside its own parameters; see mmzoo.core.encoder.Encoder.configure
ENCODER_OPTIONS: Mapping[str, Param] = {
    p.name: p
    for p in (
        Param("lr_scale", "float", 1.0, "factor on the learning rate of this encoder", (1e-6, 1e6)),
        Param("frozen", "bool", False, "freeze all parameters, batch statistics and dropout"),
        Param("frozen_stages", "int", 0, "so do what comes first and as many stages", (0, 1000)),
        Param("checkpoint", "bool", False, "compute stages again in the backward pass, to save memory"),
        Param("channels_last", "bool", False, "weights of convolutions in that memory format"),
    )
}

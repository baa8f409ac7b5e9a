"""The parameters of dynamic gap in groups, one for each of its objects. `DynamicGap` documents them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, get_type_hints

Schedule = Literal["constant", "stepwise", "linear", "heuristic", "learned", "released", "released_learned"]
Form = Literal["paper", "additive", "released"]
Matching = Literal["infonce", "class", "kl_to_mean", "js"]
Solve = Literal["gauss_newton", "hessian", "neumann", "identity", "tangent"]
Group = TypeVar("Group")


@dataclass(frozen=True)
class LossSettings:
    """The loss; see `losses.GapLoss`."""

    form: Form = "paper"
    matching: Matching = "infonce"
    temperature: float = 0.5
    floor: float = 1e-3
    unimodal: float = 0.0


@dataclass(frozen=True)
class StepSettings:
    """The size of one update of alpha; see `learners.StepRule`."""

    step: Literal["eta", "rms"] = "eta"
    travel: float = 0.5
    eta: float = 0.1
    max_change: float = 0.1
    normalize: bool = True


@dataclass(frozen=True)
class UpperSettings:
    """The source of the upper loss of a learned alpha, and the interval of updates; see `learners.Learned`."""

    upper: Literal["slice", "train"] = "slice"
    upper_batches: int = 4
    every: int | None = None


@dataclass(frozen=True)
class SolveSettings:
    """How equation 3 is solved; see `implicit.Implicit`. Solver "tangent" is `forward.Forward`."""

    solver: Solve = "hessian"
    damping: float = 0.0
    fallback: float | None = None
    iterations: int = 20
    scope: str = "all"
    batches: int = 1
    items: int | None = None


def pick(group: type[Group], settings: Mapping[str, Any]) -> Group:
    """One group, with its fields taken from the settings of all groups."""
    return group(**{f.name: settings[f.name] for f in fields(group)})  # type: ignore[arg-type]


def takes_fields_of(*groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a constructor with `**settings` take the fields of some dataclasses as keyword-only parameters.

    They appear in its signature with types and defaults, and `settings` holds every one of them.
    """

    def extended(init: Callable[..., None]) -> Callable[..., None]:
        own = [p for p in inspect.signature(init).parameters.values() if p.kind is not p.VAR_KEYWORD]
        hints = {p.name: hint for p in own if (hint := get_type_hints(init).get(p.name)) is not None}
        defaults: dict[str, Any] = {}
        for group in groups:
            hints |= get_type_hints(group)
            defaults |= {f.name: f.default for f in fields(group)}
        own = [p.replace(annotation=hints.get(p.name, p.empty)) for p in own]
        taken = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d) for n, d in defaults.items()]
        signature = inspect.Signature([*own, *(p.replace(annotation=hints[p.name]) for p in taken)])

        @functools.wraps(init)
        def full(self: Any, **given: Any) -> None:
            signature.bind(self, **given)  # an unknown name is a TypeError
            init(self, **{**defaults, **given})

        full.__signature__ = signature  # type: ignore[attr-defined]
        full.__annotations__ = {**hints, "return": None}
        return full

    return extended

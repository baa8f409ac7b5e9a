"""Strategies that the checks put around, before or after the one under test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from mmzoo.core.values import Outputs, Pass
from mmzoo.errors import Incompatible
from mmzoo.training.composition import Chain, Wrapper
from mmzoo.training.step import Step
from mmzoo.training.strategy import HOOKS, Strategy, Terms


class Spy(Wrapper):
    """Hands every hook on through `around(name, hook, arguments)`."""

    def __init__(self, inner: Strategy, around: Callable[[str, Callable[..., Any], tuple[Any, ...]], Any]) -> None:
        super().__init__(inner)
        self._around = around


def _spied(name: str) -> Callable[..., Any]:
    def hook(self: Spy, *values: Any) -> Any:
        return self._around(name, getattr(self.inner, name), values)

    return hook


for _name in HOOKS:
    setattr(Spy, _name, _spied(_name))


class Restricted(Wrapper):
    """Narrows every pass that the inner strategy plans: modality `freeze` stands still, `still` has no updates."""

    def __init__(self, inner: Strategy) -> None:
        super().__init__(inner)
        self.freeze: str | None = None
        self.still: str | None = None

    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        return [self._narrowed(p, step.run.modalities) for p in self.inner.plan(step, passes)]

    def _narrowed(self, pass_: Pass, modalities: Sequence[str]) -> Pass:
        frozen = pass_.freeze if self.freeze is None else pass_.freeze | {self.freeze}
        if self.still is None:
            return replace(pass_, freeze=frozen)
        moving = frozenset(modalities if pass_.update is None else pass_.update)
        return replace(pass_, freeze=frozen, update=moving - {self.still})


class Marker(Strategy):
    """Company: adds a small term on the logits, and leaves all else alone."""

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        return {**terms, "marker/size": 0.05 * out.logits.square().mean()}


class Halved(Strategy):
    """Company: replaces the outputs by half of them, so that what comes later must look at those."""

    def outputs(self, step: Step, out: Outputs) -> Outputs:
        return out.replace(logits=0.5 * out.logits, unimodal={m: 0.5 * z for m, z in out.unimodal.items()})


class Alternating(Strategy):
    """Company: one pass a modality, so that later parts meet outputs of a single one."""

    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        return [
            replace(p, name=f"{p.name}/{m}", present=frozenset({m})) for p in passes for m in p.fed(step.run.modalities)
        ]


class Owner(Strategy):
    """Company that owns what it is told to own."""

    def __init__(self, *, owns: frozenset[str]) -> None:
        self.owns = owns


def combined(*parts: Strategy) -> Strategy | None:
    """The parts as a chain, or None where two of them own the same thing."""
    try:
        return Chain(*parts)
    except Incompatible:
        return None


def versions(values: Mapping[str, Tensor]) -> dict[str, int]:
    """How often each tensor has been written to in place."""
    return {name: t._version for name, t in values.items()}

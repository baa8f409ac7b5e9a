"""The updates of a training loop that owns its optimizer."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.config.methods import holds
from mmzoo.core.model import MultimodalModel
from mmzoo.errors import BadValue, Incompatible
from mmzoo.registry.plugins import catalogue
from mmzoo.training.composition import Chain, Wrapper
from mmzoo.training.config import SCALE_INVARIANT, Training
from mmzoo.training.optim import Optimization, Schedule
from mmzoo.training.strategy import Group, Strategy


class ForeignUpdates(Optimization):
    """An optimizer created and stepped outside mmzoo, with its own rates and schedule.

    Args:
        model: the model that is trained.
        strategy: the strategy.
        on_step: called after each step of the optimizer.

    Raises:
        Incompatible: the strategy changes rate or weight decay of a group.
    """

    def __init__(self, model: MultimodalModel, strategy: Strategy, on_step: Callable[[], None]) -> None:
        self._model, self._strategy, self._on_step = model, strategy, on_step
        self.schedule = Schedule(Training(), 1)
        self._outer: Any = None
        before = {name: Group(params) for name, params in model.groups().items()}
        if any(strategy.param_groups(dict(before))[name] != group for name, group in before.items()):
            raise Incompatible(
                f"{type(strategy).__name__} sets the learning rate or the weight decay of parameter groups, and those of this "
                "loop are its own. Train it with mmzoo.Run."
            )
        self.refresh()

    def watch(self, optimizer: Any) -> None:
        """Follow an optimizer, or a wrapper that holds one as `.optimizer`. Extra modules of the strategy join it.

        Warns (UserWarning) of a strategy that declares that it only scales gradients, where the optimizer normalises them.

        Raises:
            BadValue: it is no optimizer, or holds none of the model's parameters.
        """
        inner = optimizer
        while not isinstance(inner, torch.optim.Optimizer) or hasattr(inner, "optimizer"):
            if not hasattr(inner, "optimizer"):
                raise BadValue(f"attach follows one torch optimizer, not {type(inner).__name__}.")
            inner = inner.optimizer
        held = {id(p) for group in inner.param_groups for p in group["params"]}
        if not any(id(p) in held for p in self._model.parameters()):
            raise BadValue(
                "the optimizer holds none of the model's parameters: make it from those of the same network."
            )
        for module in self._model.extra.values():
            if new := [p for p in module.parameters() if id(p) not in held]:
                inner.add_param_group({"params": new})
        if self._outer is None or inner is not self.optimizer:
            inner.register_step_post_hook(lambda *args: self._on_step() if inner is self.optimizer else None)
            self._warn_if_undone(type(inner))
        self._outer, self.optimizer = optimizer, inner

    def _warn_if_undone(self, kind: type) -> None:
        """Warn of each part of the strategy that hardly changes the steps of this kind of optimizer."""
        if not any(c.__name__ in SCALE_INVARIANT or c.__name__.lower() in SCALE_INVARIANT for c in kind.__mro__):
            return
        for name in _scale_only(self._strategy):
            warnings.warn(
                f"{name} only scales gradients, and {kind.__name__} normalises each gradient by its running magnitude: a slowly "
                "changing factor has almost no effect. Use torch.optim.SGD to see the method's effect.",
                stacklevel=2,
            )

    @property
    def watched(self) -> bool:
        """Whether there is an optimizer yet."""
        return self._outer is not None

    def clear(self) -> None:
        self._outer.zero_grad(set_to_none=True)

    def average(self) -> None:
        """Does nothing: there is one process."""

    def clip(self) -> Tensor | None:
        return None

    def update(self, global_step: int) -> None:
        self._outer.step()

    def add(self, name: str, params: list[nn.Parameter]) -> None:
        if self.watched and params:
            self.optimizer.add_param_group({"params": params})
        self.refresh()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        """Does nothing: the loop keeps the state of its optimizer."""


def _scale_only(strategy: Strategy) -> Iterator[str]:
    """Names of the parts of a strategy whose entries declare that they only scale gradients (`scales_gradients_if`)."""
    if isinstance(strategy, Chain):
        for part in strategy.parts:
            yield from _scale_only(part)
    elif isinstance(strategy, Wrapper):
        yield from _scale_only(strategy.inner)
    else:
        path = f"{type(strategy).__module__}:{type(strategy).__qualname__}"
        for entry in catalogue().entries("strategies"):
            condition = entry.extra.get("scales_gradients_if")
            if entry.extra["path"] == path and condition is not None and holds(condition, vars(strategy)):
                yield entry.name

"""Copies, restoring and editing of the weights of a named parameter group."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.core.model import MultimodalModel
from mmzoo.errors import unknown


class Weights:
    """The weights of one model by group.

    Args:
        model: the model; groups are those of `MultimodalModel.groups`.
        memory: the optimizer's state of each parameter; None before there is an optimizer.
    """

    def __init__(self, model: MultimodalModel, memory: Mapping[Any, Any] | None) -> None:
        self._model, self._memory = model, memory

    def params(self, group: str) -> list[nn.Parameter]:
        """The parameters of a group. Raises UnknownName."""
        groups = self._model.groups()
        if group not in groups:
            raise unknown("parameter group", group, groups)
        return groups[group]

    def snapshot(self, group: str, *, optimizer: bool) -> dict[str, Any]:
        """A copy of parameters and buffers by name, with the optimizer state under "optimizer" on request.

        Args:
            group: name of the group.
            optimizer: include the optimizer state.
        """
        tensors = self._tensors(group)
        kept: dict[str, Any] = {name: t.detach().clone() for name, t in tensors.items()}
        if optimizer:
            memory = self._known()
            kept["optimizer"] = {n: copy.deepcopy(dict(memory[t])) for n, t in tensors.items() if t in memory}
        return kept

    @torch.no_grad()
    def restore(self, group: str, snapshot: Mapping[str, Any]) -> None:
        """Restore a snapshot of a group, with the optimizer state if the snapshot contains it."""
        for name, t in self._tensors(group).items():
            t.copy_(snapshot[name])
            if "optimizer" in snapshot:
                memory: Any = self._known()
                memory.pop(t, None)
                if name in snapshot["optimizer"]:
                    memory[t] = copy.deepcopy(dict(snapshot["optimizer"][name]))

    @torch.no_grad()
    def edit(self, group: str, fn: Callable[[str, Tensor], Tensor]) -> None:
        """Replace each parameter of a group by fn(name, value)."""
        module = self._module(group)
        buffers = {} if module is None else dict(module.named_buffers())
        for name, t in self._tensors(group).items():
            if name not in buffers:
                t.copy_(fn(name, t))

    def _known(self) -> Mapping[Any, Any]:
        return {} if self._memory is None else self._memory

    def _module(self, group: str) -> nn.Module | None:
        kind, _, name = group.partition(":")
        modules = {"encoder": self._model.encoders, "extra": self._model.extra}.get(kind)
        return modules[name] if modules is not None and name in modules else None

    def _tensors(self, group: str) -> dict[str, Tensor]:
        module = self._module(group)
        if module is not None:
            return {**dict(module.named_parameters()), **dict(module.named_buffers())}
        names = {id(p): n for n, p in self._model.head.named_parameters()}
        return {names[id(p)]: p for p in self.params(group)}


def on_device(value: Any, device: torch.device) -> Any:
    """A state with all its tensors on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {k: on_device(v, device) for k, v in value.items()}
    return type(value)(on_device(v, device) for v in value) if isinstance(value, (list, tuple)) else value

"""The gradients of one step, by named parameter group."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from mmzoo.core.model import MultimodalModel
from mmzoo.core.values import Pass
from mmzoo.errors import unknown


class Grads:
    """The gradients of one pass by parameter group, for the hook `gradients`.

    Groups that the pass may not update lose their gradients at construction. `encoder:m` and `head:m` belong to
    modality m; `head:shared` and `extra:*` are always updated.

    Args:
        model: the model that is trained.
        pass_: the pass whose gradients these are.
        groups: the parameters by group; None: those of the model.
    """

    def __init__(
        self, model: MultimodalModel, pass_: Pass, groups: Mapping[str, list[nn.Parameter]] | None = None
    ) -> None:
        self._groups = model.groups() if groups is None else groups
        self._modalities = model.modalities
        for m in model.modalities:
            if not pass_.moves(m):
                self.drop(f"encoder:{m}")
                self.drop(f"head:{m}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def params(self, group: str) -> list[nn.Parameter]:
        """The parameters of a group that have a gradient; none for an empty group."""
        return [p for p in self._members(group) if p.grad is not None]

    def drop(self, group: str) -> None:
        """Remove the gradients of a group: the optimizer then skips it, momentum and weight decay included."""
        for p in self._members(group):
            p.grad = None

    def scale(self, group: str, factor: float | Tensor, only: Callable[[nn.Parameter], bool] = lambda p: True) -> None:
        """Multiply the gradients of a group by one factor, in place.

        Args:
            group: name of the group.
            factor: a number or a 0-dimensional tensor.
            only: scale the gradients of these parameters only; default: all.
        """
        grads = [p.grad for p in self._members(group) if p.grad is not None and only(p)]
        if grads:
            torch._foreach_mul_(grads, factor)

    def sq_norm(self, group: str) -> Tensor:
        """The squared L2 norm of a group's gradients, a 0-dimensional tensor; zero without gradients."""
        total = [p.grad.detach().square().sum() for p in self.params(group)]  # type: ignore[union-attr]
        if total:
            return torch.stack(total).sum()
        device = next((p.device for ps in self._groups.values() for p in ps), torch.device("cpu"))
        return torch.zeros((), device=device)

    def _members(self, group: str) -> list[nn.Parameter]:
        if group in self._groups:
            return self._groups[group]
        kind, _, name = group.partition(":")
        if kind in ("encoder", "head") and name in self._modalities:
            return []  # nothing to train there: a head without a part for this modality, or an encoder that is fixed
        raise unknown("parameter group", group, self._groups)

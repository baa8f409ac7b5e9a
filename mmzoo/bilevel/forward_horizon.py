"""One horizon of a forward tangent: its state, the hooks on the model, and the conditions it refuses.

`mmzoo.bilevel.forward` carries the tangent; this module detects changes that the tangent does not include.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.utils.hooks import RemovableHandle

from mmzoo.bilevel.forward_rules import (
    Pending,
    batch_share,
    batch_statistics,
    eval_change,
    fault_of,
    in_half_precision,
    running_statistics,
)
from mmzoo.errors import Incompatible


@dataclass
class Record:
    """One train-mode forward through a batch norm.

    Args:
        module: the batch norm.
        share: weight of the batch in the running statistics.
        statistics: mean and unbiased variance (C,) of the batch in the graph; None without a graph.
    """

    module: _BatchNorm
    share: float
    statistics: tuple[Tensor, Tensor] | None


@dataclass(eq=False)
class _Hook:
    """What every batch norm calls. A copy of the model gets one that does nothing, and so does a pickle."""

    owner: weakref.ref[Horizon] | None = None

    def __call__(self, module: Any, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
        owner = None if self.owner is None else self.owner()
        return None if owner is None else owner.seen(module, args[0] if args else kwargs["input"], output)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, ()


@dataclass
class State:
    """The state of one horizon: tangents of parameters, of optimizer state and of running statistics."""

    horizon: int = 0
    params: dict[nn.Parameter, dict[str, Tensor]] = field(default_factory=dict)
    buffers: dict[_BatchNorm, tuple[Tensor, Tensor]] = field(default_factory=dict)
    pending: dict[nn.Parameter, Pending] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    #: zeros that stand for a change of running mean and variance, in forwards that read them
    leaves: dict[_BatchNorm, tuple[Tensor, Tensor]] = field(default_factory=dict)
    versions: dict[nn.Parameter, int] = field(default_factory=dict)
    broken: str = ""


class Horizon:
    """The steps since the last reset. Watches the batch norms of a model, and refuses operations without a tangent.

    Args:
        optimizer: its trainable parameters are carried.
        model: the model, whose batch norms have hooks until `close`.
        reduce: the mean of a tensor over processes; None for a single process.

    Raises:
        Incompatible: an operation has no tangent.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, model: nn.Module, *, reduce: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self._optimizer = optimizer
        self._reduce = reduce
        self._model = model
        self._asked = False
        self._handles: list[RemovableHandle] = []
        for group in optimizer.param_groups:
            if fault := fault_of(optimizer, group):
                raise Incompatible(fault)
        if reduce is not None and (norms := _tracking(model)):
            raise Incompatible(
                f"the running statistics of {next(iter(norms))} differ from process to process, and their tangents "
                "with them: train in one process, or take a solver that needs no tangent."
            )
        self.reset()

    @property
    def horizon(self) -> int:
        """The number of steps since the tangent was last zero."""
        return self._state.horizon

    def reset(self) -> None:
        """Set the tangent to zero: everything before counts as constant in alpha. Watches modules added since, too."""
        self.close()
        self._state = State()
        self._norms = _tracking(self._model)
        self._known = {m: running_statistics(m) for m in self._norms.values()}
        hook = _Hook(weakref.ref(self))
        self._handles = [m.register_forward_hook(hook, with_kwargs=True) for m in self._norms.values()]
        own = {id(b) for pair in self._known.values() for b in pair}
        self._others = {
            name: (b, b._version)
            for name, b in self._model.named_buffers()
            if b.is_floating_point() and id(b) not in own
        }

    def close(self) -> None:
        """Remove the hooks from the model."""
        while self._handles:
            self._handles.pop().remove()

    # ------------------------------------------------------------------ batch norm
    def seen(self, module: _BatchNorm, x: Tensor, output: Tensor) -> Tensor | None:
        """Record the statistics of a batch norm after each of its forwards, or add their tangent to the graph.

        Args:
            module: the batch norm.
            x: its input.
            output: its output.

        Returns:
            The output with the tangent of the running statistics if it was computed with them; None: no change.
        """
        state = self._state
        own = module.running_mean is self._known[module][0]
        if module.training:
            if own and self._asked:
                self._refuse("the upper loss was computed in train mode and has moved the running statistics")
            if own:
                state.records.append(Record(module, batch_share(module), batch_statistics(x)))
            return None
        if not (own or self._asked) or not torch.is_grad_enabled() or module not in state.buffers:
            return None
        if module not in state.leaves:
            mean, var = (torch.zeros_like(b, requires_grad=True) for b in self._known[module])
            state.leaves[module] = (mean, var)
        return output + eval_change(module, x, *state.leaves[module])

    # ------------------------------------------------------------------ checks
    def _every_param(self) -> Iterator[nn.Parameter]:
        for group in self._optimizer.param_groups:
            yield from group["params"]

    def _params(self) -> list[nn.Parameter]:
        return [p for p in self._every_param() if p.requires_grad]

    def _refuse(self, reason: str) -> NoReturn:
        """Raise Incompatible now and at every later call until `reset`."""
        raise self._lost(reason)

    def _lost(self, reason: str) -> Incompatible:
        self._state.broken = reason.rstrip(".")
        return Incompatible(f"{self._state.broken}. The tangent is lost: reset() starts a new horizon.")

    def _check_intact(self) -> None:
        if self._state.broken:
            self._refuse(self._state.broken)
        if any(not p.requires_grad for p in self._state.params):
            self._refuse("a parameter was frozen within the horizon: gradients through it are not there any more")

    def _check(self, loss: Tensor) -> None:
        """All that can be told before a backward."""
        self._check_intact()
        params = self._params()
        if wrong := {str(p.dtype) for p in params} - {"torch.float32", "torch.float64"}:
            self._refuse(f"parameters in {', '.join(sorted(wrong))}: second derivatives need float32 or float64")
        if torch.is_autocast_enabled(loss.device.type) or in_half_precision(loss):
            self._refuse("the loss was computed in half precision: train without autocast")
        if any(p._version != version for p, version in self._state.versions.items()) and not self._state.pending:
            self._refuse("weights were changed apart from the optimizer since the last step")
        if any(m.running_mean is not self._known[m][0] for m in self._norms.values()):
            self._refuse("the running statistics of a batch norm were replaced by other tensors")
        now = dict(self._model.named_buffers())
        for name, (buffer, version) in self._others.items():
            if now.get(name) is not buffer or buffer._version != version:
                self._refuse(f"buffer {name} has changed in training, and its tangent is not known")

    def _check_gradients(self) -> None:
        """Incompatible unless the optimizer used the gradients that backward made."""
        state = self._state
        changed = []
        for p, version in state.versions.items():
            moved, pending = p._version != version, state.pending.get(p)
            if pending is None or p.grad is None:
                if moved:
                    self._refuse(
                        "weights have moved without a gradient of this backward, or gradients were cleared "
                        "before stepped()"
                    )
            elif not moved:
                self._refuse("stepped() was called, but the optimizer has not stepped")
            else:
                changed.append(self._differs(p.grad, pending.gradient))
        if changed and bool(torch.stack([c.to(changed[0].device) for c in changed]).any()):
            self._refuse(
                ".grad has changed between backward and step, or is not finite: gradient clipping, scaling and noise "
                "have derivatives that are not carried, and averaging over processes wants `reduce`"
            )

    def _differs(self, now: Tensor, made: Tensor) -> Tensor:
        """Whether a gradient is another than backward made: to the last bit, but for averaging it over processes again."""
        if self._reduce is None:
            return (now != made).any()
        return ~((now - made).abs() <= 8 * torch.finfo(now.dtype).eps * made.abs()).all()


def _tracking(model: nn.Module) -> dict[str, _BatchNorm]:
    """name -> batch norm, for those that keep running statistics; Incompatible for other layers that do."""
    found = {}
    for name, module in model.named_modules():
        if not isinstance(module, _NormBase) or module.running_mean is None:
            continue
        if not isinstance(module, _BatchNorm) or isinstance(module, nn.SyncBatchNorm):
            raise Incompatible(f"the running statistics of {name} ({type(module).__name__}) have no known tangent.")
        found[name] = module
    return found

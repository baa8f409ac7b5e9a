"""The optimizer of a run: its construction, the learning rate of each parameter group, and one update."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.optim.sgd import sgd

from mmzoo.core import distributed
from mmzoo.core.model import MultimodalModel
from mmzoo.core.precision import without_compiler
from mmzoo.errors import BadValue
from mmzoo.training.config import Training
from mmzoo.training.strategy import Group, Strategy

Builder = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


def build_optimizer(groups: Iterable[Mapping[str, Any]], training: Training) -> torch.optim.Optimizer:
    """The optimizer that `training` names.

    Args:
        groups: parameter groups, each with its own lr and weight decay.
        training: the settings.
    """
    params: Any = [dict(g) for g in groups]
    if training.optimizer == "sgd":
        return torch.optim.SGD(params, lr=training.lr, momentum=training.momentum, fused=training.fused or None)
    kind = getattr(torch.optim, {"adam": "Adam", "adamw": "AdamW"}.get(training.optimizer, training.optimizer))
    found: torch.optim.Optimizer = kind(params, lr=training.lr, **({"fused": True} if training.fused else {}))
    return found


#: what parameter groups must have in common for their updates to be one call
_OF_SGD = ("lr", "weight_decay", "momentum", "dampening", "nesterov", "maximize")
#: parameters up to which one call over all tensors beats one after the other, each in the cache
_SMALL = 1_000_000


def _step(optimizer: torch.optim.Optimizer) -> None:
    """One update, bit for bit that of `optimizer.step`.

    Around the updates of its own optimizers torch puts a mark for its profiler and breaks for its compiler, which it
    imports for that; where nobody has hooked anything onto `step` these are left out.
    """
    kind = type(optimizer)
    plain = kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW) and "step" not in vars(optimizer)
    if not plain or _is_hooked(optimizer) or optimizer.defaults.get("differentiable"):
        optimizer.step()
    elif kind is not torch.optim.SGD or not _step_together(optimizer):
        with torch.no_grad():
            inspect.unwrap(kind.step)(optimizer)


def _step_together(optimizer: torch.optim.Optimizer) -> bool:
    """SGD's update of a small model on the CPU, groups of equal rates in one call; bit for bit that of `step`.

    On small models `step` spends most of its time in Python, once for each group.

    Returns:
        Whether the step was taken: not for large models, sparse gradients, and other devices.
    """
    together: dict[tuple[Any, ...], list[Tensor]] = {}
    size = 0
    for group in optimizer.param_groups:
        if group["fused"] or group["foreach"] is False:
            return False
        params = together.setdefault(tuple(group[k] for k in _OF_SGD), [])
        for p in group["params"]:
            if p.grad is not None:
                params.append(p)
                size += p.numel()
                if size > _SMALL or p.grad.is_sparse or not p.is_cpu:
                    return False
    state = optimizer.state
    with torch.no_grad():
        for values, params in together.items():
            given = dict(zip(_OF_SGD, values))
            buffers: list[Tensor | None] = (
                [state[p].get("momentum_buffer") for p in params] if given["momentum"] else []
            )
            grads = [p.grad for p in params]
            sgd(params, grads, buffers, has_sparse_grad=False, foreach=True, **given)  # type: ignore[arg-type]
            for p, buffer in zip(params, buffers):
                state[p]["momentum_buffer"] = buffer
    return True


def _is_hooked(optimizer: torch.optim.Optimizer) -> bool:
    """Whether anything is registered to run before or after `step`."""
    own = (optimizer._optimizer_step_pre_hooks, optimizer._optimizer_step_post_hooks)
    return any(own) or bool(_global_optimizer_pre_hooks or _global_optimizer_post_hooks)


class Optimization:
    """The updates of a run: its optimizer, the schedule, and the learning rate of each named group.

    Args:
        model: the model whose parameters are updated.
        strategy: may change rate and weight decay of groups in `param_groups`.
        training: optimizer, rates, schedule and clipping.
        build: builds the optimizer from parameter groups; None: the one that `training` names.
        steps_per_epoch: how many steps the warm-up counts as an epoch.
        scales: group -> factor on its rate, read before each update.

    Raises:
        BadValue: the strategy's `param_groups` dropped or added a group.
    """

    def __init__(
        self,
        model: MultimodalModel,
        strategy: Strategy,
        training: Training,
        *,
        build: Builder | None,
        steps_per_epoch: int,
        scales: Mapping[str, float],
    ) -> None:
        self._model, self._training, self._build, self._scales = model, training, build, scales
        groups = self._param_groups(strategy)
        with without_compiler():
            self.optimizer = build(groups) if build else build_optimizer(groups, training)
        self._base = {g["name"]: g["lr"] for g in self.optimizer.param_groups}
        self.schedule = Schedule(training, steps_per_epoch)
        self.refresh()

    # ------------------------------------------------------------------ in a pass
    @property
    def groups(self) -> Mapping[str, list[nn.Parameter]]:
        """The model's parameters by group."""
        return self._groups

    def clear(self) -> None:
        """Remove all gradients."""
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                p.grad = None

    def average(self) -> None:
        """Replace each gradient by its mean over processes."""
        if distributed.world_size() > 1:
            distributed.average_gradients(self._model.parameters())

    def clip(self) -> Tensor | None:
        """Clip the norm of all gradients together, if the training asks for it. Returns the norm before clipping."""
        if self._training.clip is None:
            return None
        return nn.utils.clip_grad_norm_(self._model.parameters(), self._training.clip)

    def update(self, global_step: int) -> None:
        """One optimizer step at the scheduled rate of each group."""
        factor = self.schedule.factor(global_step)
        for group in self.optimizer.param_groups:
            name = group["name"]
            group["lr"] = self._base[name] * factor * group["lr_scale"] * self._scales.get(name, 1.0)
        _step(self.optimizer)

    # ------------------------------------------------------------------ between steps
    def refresh(self) -> None:
        """Update the groups after a module was added to the model."""
        self._groups = self._model.groups()

    def add(self, name: str, params: list[nn.Parameter]) -> None:
        """Add new parameters as a group of their own.

        Args:
            name: name of the group.
            params: its parameters.
        """
        if params:
            group: dict[str, Any] = {"name": name, "params": params, "lr_scale": 1.0}
            if self._build is None:
                group |= {"lr": self._training.lr, "weight_decay": self._training.weight_decay}
            with without_compiler():
                self.optimizer.add_param_group(group)
            self._base[name] = self.optimizer.param_groups[-1]["lr"]
        self.refresh()

    def continue_from(self, other: Optimization) -> None:
        """Copy optimizer state and schedule of the run that a fork was made from.

        If the fork's strategy added modules, the optimizer starts with an empty state.
        """
        if len(other.optimizer.param_groups) == len(self.optimizer.param_groups):
            with without_compiler():
                self.optimizer.load_state_dict(copy.deepcopy(other.optimizer.state_dict()))
        self.schedule.load_state_dict(copy.deepcopy(other.schedule.state_dict()))

    def state_dict(self) -> dict[str, Any]:
        with without_compiler():
            return {"optimizer": copy.deepcopy(self.optimizer.state_dict()), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        with without_compiler():
            self.optimizer.load_state_dict(copy.deepcopy(dict(state["optimizer"])))
        self.schedule.load_state_dict(state["schedule"])

    def _param_groups(self, strategy: Strategy) -> list[dict[str, Any]]:
        """The groups for the optimizer, with the rate and the weight decay of the training. An optimizer that was built
        elsewhere has its own, but for a weight decay that the strategy has changed."""
        t, own_rates = self._training, self._build is None
        own: dict[str, float] = {f"encoder:{m}": float(e.lr_scale) for m, e in self._model.encoders.items()}  # type: ignore[arg-type]
        before = {n: Group(ps, own.get(n, 1.0), t.weight_decay) for n, ps in self._model.groups().items()}
        after = strategy.param_groups(dict(before))
        if set(after) != set(before):
            raise BadValue(
                f"{type(strategy).__name__}.param_groups returned the groups {sorted(after)}; "
                f"it must return every one of {sorted(before)}."
            )
        groups: list[dict[str, Any]] = []
        for name, group in before.items():
            given = {"name": name, "params": list(group.params), "lr_scale": after[name].lr_scale}
            if own_rates:
                given["lr"] = t.lr
            if own_rates or after[name].weight_decay != group.weight_decay:
                given["weight_decay"] = after[name].weight_decay
            groups.append(given)
        return groups


class Schedule:
    """The factor on the learning rate, from torch's own schedulers.

    They act on a separate rate of 1: strategies scale the rates of single groups, and a scheduler that wrote into the
    optimizer would overwrite them.

    Args:
        training: schedule and warm-up.
        steps_per_epoch: how many steps the warm-up counts as an epoch.
    """

    def __init__(self, training: Training, steps_per_epoch: int) -> None:
        with without_compiler():
            self._shadow = torch.optim.SGD([torch.zeros(())], lr=1.0)
        self._scheduler = _scheduler(self._shadow, training)
        self._warmup = training.warmup_epochs * steps_per_epoch

    def factor(self, global_step: int) -> float:
        """The factor at a step, counted over the whole run."""
        warm = min(1.0, (global_step + 1) / self._warmup) if self._warmup else 1.0
        found: float = warm * self._shadow.param_groups[0]["lr"]
        return found

    def epoch_done(self, loss: float | None) -> None:
        """Advance by one epoch.

        Args:
            loss: the loss that "plateau" watches; None leaves its rate unchanged.
        """
        if isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau):
            if loss is not None and math.isfinite(loss):
                self._scheduler.step(loss)
        elif self._scheduler is not None:
            # torch warns when a scheduler steps before its optimizer; the shadow has nothing to step, and its `step` would
            # import the compiler.
            self._shadow._opt_called = True  # type: ignore[attr-defined]
            self._scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        state = {} if self._scheduler is None else dict(self._scheduler.state_dict())
        return {"rate": self._shadow.param_groups[0]["lr"], "scheduler": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._shadow.param_groups[0]["lr"] = state["rate"]
        if self._scheduler is not None:
            self._scheduler.load_state_dict(dict(state["scheduler"]))


def _scheduler(optimizer: torch.optim.Optimizer, t: Training) -> Any:
    if t.schedule == "step":
        return lr_scheduler.StepLR(optimizer, t.step_size, t.gamma)
    if t.schedule == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, t.epochs)
    if t.schedule == "plateau":
        return lr_scheduler.ReduceLROnPlateau(optimizer, factor=t.gamma, patience=t.patience)
    return None

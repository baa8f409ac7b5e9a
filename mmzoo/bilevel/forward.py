"""The derivative of training itself in a mixing weight, carried forward step by step.

alpha is a scalar, so that d theta / d alpha is one more vector beside the parameters theta, and each update of the
optimizer has an exact derivative (forward-mode differentiation of the training loop: Franceschi et al., 2017). It needs
no inner optimum and no matrix inverse, and includes batch statistics, dropout masks, momentum and learning rates of the
steps as taken. It does not include anything before the last `reset`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.bilevel.forward_horizon import Horizon, State
from mmzoo.bilevel.forward_rules import (
    Pending,
    carry_adam,
    carry_sgd,
    fault_of,
    reached_leaves,
    running_statistics,
)
from mmzoo.bilevel.problem import Mixing
from mmzoo.bilevel.solvers import dot, length
from mmzoo.core.modes import frozen_statistics
from mmzoo.core.precision import full_precision
from mmzoo.errors import BadValue

_TWICE = ("not implemented", "not supported", "differentiate twice")


@dataclass(frozen=True)
class Derivative:
    """d L_upper / d alpha along the last `horizon` steps.

    Args:
        value: the derivative.
        direction: the cosine between the gradient of the upper loss and the tangent, over parameters and running
            statistics together.
        horizon: number of steps.
        usable: whether the derivative can be used.
        reason: why not.
    """

    value: float
    direction: float
    horizon: int
    usable: bool
    reason: str = ""


class ForwardTangent(Horizon):
    """Carries d theta / d alpha through training with (1 - alpha) * L_cls + alpha * L_mm.

    Call `backward` instead of `loss.backward()`, and `stepped` after `optimizer.step()`, before the learning rate
    changes. `derivative` can be called between steps and changes nothing. `reset` starts a new horizon, in which the
    present weights, optimizer state and running statistics count as constants.

    With theta' the tangent of the parameters before a step, the tangent of the gradient is
        g' = H theta' + grad L_mm - grad L_cls,
    on the graph of the step itself. SGD (momentum, dampening, Nesterov, weight decay), Adam and AdamW propagate it
    exactly, with the rates of each parameter group. Running statistics of batch norm have tangents too, since an upper
    loss in eval mode reads them. Copies of the model, and forwards on copies of its buffers, are not watched.

    A step takes one backward with a graph and one through both graphs, and their memory: 3 (linear layers) to 6 times
    (narrow convolutions with batch norm) as long as a plain step; the first one after a reset 2 times. Between steps it
    holds two vectors of the size of the parameters (SGD with momentum; Adam three).

    Everything that the loss depends on must be in its graph: values computed under no_grad, such as frozen passes or
    the pieces of a micro-batched encoder, count as constants. Fused attention needs its forward under
    `mmzoo.bilevel.double_backward()`. Hooks on parameters do not fire.

    Args:
        optimizer: its trainable parameters are carried; later groups join with a tangent of zero.
        model: the model, whose batch norms have hooks until `close`.
        reduce: the mean of a tensor over processes that share each batch and the upper loss. Backward then leaves the
            mean gradient in `.grad`. Incompatible with running statistics, of which each process has its own.

    Raises:
        Incompatible: the derivative would be wrong: another optimizer; amsgrad, maximize, fused or differentiable; half
            precision; `.grad` changed between backward and step (clipping); weights changed outside the optimizer;
            buffers that change and do not belong to a batch norm. After that only `reset` helps.
    """

    # ------------------------------------------------------------------ the steps
    def backward(self, l_cls: Tensor, l_mm: Tensor, alpha: float | Mixing, others: Tensor | None = None) -> None:
        """Backward of the mixed loss.

        Args:
            l_cls: L_cls, a scalar.
            l_mm: L_mm, a scalar.
            alpha: the weight, or a `Mixing`.
            others: further terms, which alpha does not weigh.
        """
        mixing = Mixing.of(alpha)
        loss = mixing.total(l_cls, l_mm)
        self.backward_of(loss if others is None else loss + others, mixing.slope(l_cls, l_mm))

    def backward_of(self, loss: Tensor, slope: Tensor) -> None:
        """Backward of any loss: accumulates in `.grad` as loss.backward() does.

        Args:
            loss: a scalar.
            slope: the derivative of the loss in alpha at fixed parameters, a scalar in the same graph.
        """
        self._check(loss)
        params = self._params()
        groups = {p: group for group in self._optimizer.param_groups for p in group["params"]}
        self._drop_cleared()
        reached = reached_leaves(loss) if self._state.records or self._reduce is not None else None
        grads, moved = self._differentiate(loss, slope, params)
        if reached is not None:
            grads = [g if p in reached else None for p, g in zip(params, grads)]
        grads, moved = self._averaged(grads, moved, params)
        for p, gradient, tangent in zip(params, grads, moved):
            if gradient is not None:
                gradient = gradient.detach()
                self._note(p, groups[p], gradient, torch.zeros_like(gradient) if tangent is None else tangent)
        self._state.versions = {p: p._version for p in params}

    def stepped(self) -> None:
        """Propagate the tangent through the step that the optimizer has just taken."""
        state = self._state
        self._check_intact()
        if not state.pending:
            self._refuse("the optimizer has stepped without a backward of this tangent")
        self._check_gradients()
        with torch.no_grad():
            for group in self._optimizer.param_groups:
                if fault := fault_of(self._optimizer, group):
                    self._refuse(fault)
                for p in group["params"]:
                    if p in state.pending and p.grad is not None:
                        self._carry(p, group, state.pending[p])
        state.pending.clear()
        state.versions = {p: p._version for p in self._params()}
        state.horizon += 1

    def derivative(self, upper: Callable[[], Tensor]) -> Derivative:
        """The derivative of an upper loss in alpha, through the present weights and running statistics.

        Args:
            upper: computes the loss; called once, in full precision, in eval mode (`frozen_statistics`). Costs its
                forward and one backward.
        """
        self._check_intact()
        if self._state.pending:
            raise BadValue("a backward waits for its step: ask for the derivative after stepped().")
        if not self.horizon:
            return Derivative(0.0, 0.0, 0, False, "there was no step since the last reset")
        self._differentiate(None, None, self._params())  # statistics of forwards that had no backward
        pairs = list(self._upper_gradient(upper))
        value = float(sum(dot(g.flatten(), t.flatten()) for g, t in pairs))
        size = math.prod(math.hypot(*(length(pair[i].flatten()) for pair in pairs)) for i in range(2))
        usable = math.isfinite(value) and math.isfinite(size)
        direction = min(1.0, max(-1.0, value / size)) if usable and size > 0 else 0.0
        return Derivative(value, direction, self.horizon, usable, "" if usable else "the value is not finite")

    # ------------------------------------------------------------------ checkpoint
    def state_dict(self) -> dict[str, Any]:
        """The tangent, between two steps. Loads with torch.load(weights_only=True)."""
        self._check_intact()
        if self._state.pending:
            raise BadValue("a backward waits for its step: take the state after stepped().")
        self._differentiate(None, None, self._params())
        return {
            "horizon": self.horizon,
            "params": [{k: t.clone() for k, t in self._state.params.get(p, {}).items()} for p in self._every_param()],
            "buffers": {
                name: [t.clone() for t in self._state.buffers[m]]
                for name, m in self._norms.items()
                if m in self._state.buffers
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state, with model and optimizer as they were. Raises BadValue if it does not fit them."""
        params = list(self._every_param())
        if len(params) != len(state["params"]) or set(state["buffers"]) - set(self._norms):
            raise BadValue(
                f"the state is of {len(state['params'])} parameters and the batch norms {sorted(state['buffers'])}; "
                f"here are {len(params)} and {sorted(self._norms)}."
            )
        fresh = State(horizon=int(state["horizon"]))
        for p, given in zip(params, state["params"]):
            if any(t.shape != p.shape for t in given.values()):
                raise BadValue("the state is of parameters of another shape.")
            if given:
                fresh.params[p] = {k: t.to(p, copy=True) for k, t in given.items()}
        for name, (mean, var) in state["buffers"].items():
            module = self._norms[name]
            like = running_statistics(module)
            fresh.buffers[module] = (mean.to(like[0], copy=True), var.to(like[1], copy=True))
        self.reset()
        self._state = fresh

    # ------------------------------------------------------------------ one backward
    def _differentiate(
        self, loss: Tensor | None, slope: Tensor | None, params: Sequence[nn.Parameter]
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """The gradients of the loss and their tangents; the running statistics' tangents move on.

        With c' = <grad L, theta'> + dL / d alpha, the tangents are grad c'. Statistics s of a batch join in as
        <w, s> with w = 0, for then dc' / dw = (ds / d theta) theta'.
        """
        state = self._state
        carried = [(p, state.params[p]["value"]) for p in params if p in state.params]
        live = [s for r in state.records if r.statistics for s in r.statistics if s.requires_grad] if carried else []
        weights = [torch.zeros_like(s, requires_grad=True) for s in live]
        leaves = [(leaf, t) for m, pair in state.leaves.items() for leaf, t in zip(pair, state.buffers[m])]
        outputs = ([] if loss is None else [loss]) + live
        sources = ([] if loss is None else [torch.ones_like(loss)]) + weights
        grads: list[Tensor | None] = [None] * len(params)
        moved: list[Tensor | None] = [None] * (len(params) + len(weights))
        with torch.enable_grad(), self._second_derivatives():
            if outputs:
                inputs = [*params, *(leaf for leaf, _ in leaves)]
                twice = bool(carried or leaves)
                found = torch.autograd.grad(
                    outputs, inputs, sources, create_graph=twice, retain_graph=True, allow_unused=True
                )
                grads = list(found[: len(params)])
                tangents = [state.params[p]["value"] if p in state.params else None for p in params]
                along = [] if slope is None else [slope.sum()]
                along += [
                    (g * t).sum()
                    for g, t in zip(found, [*tangents, *(t for _, t in leaves)])
                    if g is not None and t is not None
                ]
                total = torch.stack(along).sum() if along else torch.zeros(())
                if total.requires_grad:
                    moved = list(torch.autograd.grad(total, [*params, *weights], allow_unused=True))
        self._move_statistics(dict(zip(map(id, live), moved[len(params) :])))
        state.leaves.clear()
        return grads, moved[: len(params)]

    def _averaged(
        self, grads: list[Tensor | None], moved: list[Tensor | None], params: Sequence[nn.Parameter]
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Gradients and their tangents over all processes; what is missing in some counts as zero there."""
        if self._reduce is None or not params:
            return grads, moved
        pieces = [torch.zeros_like(p) if t is None else t.detach() for t, p in zip([*grads, *moved], [*params] * 2)]
        missing = pieces[0].new_tensor([float(t is None) for t in [*grads, *moved]])
        flat = self._reduce(torch.cat([missing, *(t.flatten() for t in pieces)]))
        mean = zip(flat[len(pieces) :].split([t.numel() for t in pieces]), pieces, flat[: len(pieces)].tolist())
        found = [None if share == 1.0 else t.view_as(like) for t, like, share in mean]
        return found[: len(params)], found[len(params) :]

    @contextlib.contextmanager
    def _second_derivatives(self) -> Iterator[None]:
        """Turns the error of an operation that cannot be differentiated twice into one that says what to do."""
        try:
            yield
        except RuntimeError as error:
            if not any(part in str(error) for part in _TWICE):
                raise
            raise self._lost(
                f"the loss cannot be differentiated twice ({str(error).splitlines()[0]}): where it is attention, run "
                "the forward under mmzoo.bilevel.implicit.double_backward()"
            ) from error

    def _move_statistics(self, moved: Mapping[int, Tensor | None]) -> None:
        """The tangents of running mean and variance, through every recorded forward in order."""
        state = self._state
        for record in state.records:
            if record.statistics is None and state.params:
                self._refuse(
                    "a batch norm was in train mode in a forward without gradients: the tangent of what it "
                    "took in is not known"
                )
            old = state.buffers.get(record.module)
            if old is None and not state.params:
                continue
            at_mean, at_var = old or map(torch.zeros_like, self._known[record.module])
            fresh = [moved.get(id(s)) for s in record.statistics or (None, None)]
            mean, var = (
                (1 - record.share) * t if m is None else torch.lerp(t, m, record.share)
                for t, m in zip((at_mean, at_var), fresh)
            )
            state.buffers[record.module] = (mean, var)
        state.records.clear()

    def _note(self, p: nn.Parameter, group: Mapping[str, Any], gradient: Tensor, moved: Tensor) -> None:
        """Add to `.grad`, and remember what `stepped` needs."""
        waiting = self._state.pending.get(p)
        if p.grad is None:
            p.grad = gradient.clone()  # two parameters may have been given one and the same tensor
        elif waiting is None:
            self._refuse("there is a gradient that this tangent has not made: call zero_grad() before backward")
        else:
            p.grad.add_(gradient)
        if waiting is not None:
            waiting.gradient, waiting.moved = waiting.gradient + gradient, waiting.moved + moved
            return
        adam = isinstance(self._optimizer, torch.optim.Adam)
        memory = self._optimizer.state.get(p, {}).get("exp_avg" if adam else "momentum_buffer")
        reads = adam and group["weight_decay"] != 0 and not group["decoupled_weight_decay"]
        before = p.detach().clone() if reads else None
        self._state.pending[p] = Pending(gradient, moved, memory is None, before)

    def _drop_cleared(self) -> None:
        """Forget backwards whose gradients were cleared without a step."""
        for p in [p for p in self._state.pending if p.grad is None]:
            del self._state.pending[p]

    # ------------------------------------------------------------------ one step
    def _carry(self, p: nn.Parameter, group: Mapping[str, Any], pending: Pending) -> None:
        tangent = self._state.params.setdefault(p, {"value": torch.zeros_like(p)})
        if pending.fresh:
            for name in [k for k in tangent if k != "value"]:
                del tangent[name]
        if isinstance(self._optimizer, torch.optim.Adam):
            carry_adam(tangent, group, self._optimizer.state[p], pending)
        else:
            carry_sgd(tangent, group, pending)

    # ------------------------------------------------------------------ upper loss
    def _upper_gradient(self, upper: Callable[[], Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """The gradient of the upper loss beside the tangent, for all that the two have in common."""
        state = self._state
        state.leaves.clear()
        self._asked = True
        try:
            device = next(iter(state.params)).device
            with torch.enable_grad(), frozen_statistics(self._model), full_precision(device):
                loss = upper()
        finally:
            self._asked = False
        leaves = [(leaf, t) for m, pair in state.leaves.items() for leaf, t in zip(pair, state.buffers[m])]
        state.leaves.clear()
        pairs = [(p, tangent["value"]) for p, tangent in state.params.items()] + leaves
        if not loss.requires_grad:
            return
        grads = torch.autograd.grad(loss, [variable for variable, _ in pairs], allow_unused=True)
        for gradient, (variable, tangent) in zip(grads, pairs):
            whole = torch.zeros_like(variable) if gradient is None else gradient
            yield whole if self._reduce is None else self._reduce(whole), tangent

    # ------------------------------------------------------------------ checks

"""Derivatives of optimizer steps and of batch norm, and facts of graphs, for the forward tangent."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mmzoo.core.distributed import leads_nowhere


@dataclass
class Pending:
    """What backward leaves for `stepped`, of one parameter: its gradient, the tangent of that, and what the update
    reads before the optimizer overwrites it. fresh: the optimizer had no state of it."""

    gradient: Tensor
    moved: Tensor
    fresh: bool
    before: Tensor | None = None


# ---------------------------------------------------------------------- optimizers
def fault_of(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> str:
    """Why the update of a parameter group of this optimizer has no tangent here; empty if it has."""
    if type(optimizer) not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        return f"the update of {type(optimizer).__name__} is not known: use SGD, Adam or AdamW of torch.optim."
    wrong = [name for name in ("amsgrad", "maximize", "differentiable", "fused") if group.get(name)]
    if group.get("nesterov") and (group.get("foreach") or any(p.is_cuda for p in group["params"])):
        wrong.append("nesterov by foreach, which changes .grad in place")
    return f"{type(optimizer).__name__} with {' and '.join(wrong)} is not supported." if wrong else ""


def carry_sgd(tangent: dict[str, Tensor], group: Mapping[str, Any], pending: Pending) -> None:
    """Apply the derivative of torch's SGD step to a tangent, in place.

    Args:
        tangent: tangents of a parameter and its optimizer state.
        group: the parameter group.
        pending: what backward left.
    """
    moved, momentum = pending.moved, float(group["momentum"])
    moved = moved + float(group["weight_decay"]) * tangent["value"]
    if momentum != 0:
        share = 1.0 - float(group["dampening"])
        if pending.fresh:
            tangent["first"] = moved.clone()
        elif "first" in tangent:
            tangent["first"] = momentum * tangent["first"] + share * moved
        else:  # the optimizer's memory is older than the horizon
            tangent["first"] = share * moved
        moved = moved + momentum * tangent["first"] if group["nesterov"] else tangent["first"]
    tangent["value"] = tangent["value"] - float(group["lr"]) * moved


def carry_adam(
    tangent: dict[str, Tensor], group: Mapping[str, Any], memory: Mapping[str, Any], pending: Pending
) -> None:
    """Apply the derivative of torch's Adam or AdamW step to a tangent, in place.

    Args:
        tangent: tangents of a parameter and its optimizer state.
        group: the parameter group.
        memory: the optimizer's state after the step.
        pending: what backward left.
    """
    beta1, beta2 = (float(b) for b in group["betas"])
    lr, decay = float(group["lr"]), float(group["weight_decay"])
    gradient, moved = pending.gradient, pending.moved
    if group["decoupled_weight_decay"]:
        tangent["value"] = (1.0 - lr * decay) * tangent["value"]
    elif pending.before is not None:
        gradient, moved = gradient + decay * pending.before, moved + decay * tangent["value"]
    zero = torch.zeros_like(moved)
    first = beta1 * tangent.get("first", zero) + (1.0 - beta1) * moved
    second = beta2 * tangent.get("second", zero) + 2.0 * (1.0 - beta2) * gradient * moved
    tangent["first"], tangent["second"] = first, second
    steps = float(memory["step"])
    bias1, bias2 = 1.0 - beta1**steps, math.sqrt(1.0 - beta2**steps)
    root = memory["exp_avg_sq"].sqrt()
    size = root / bias2 + float(group["eps"])
    # Where the second moment is zero so was every gradient, and the first moment: its change has no effect.
    change = torch.where(root > 0, second / (2.0 * bias2 * root), zero)
    tangent["value"] = tangent["value"] - lr / bias1 * (first - memory["exp_avg"] * change / size) / size


# ---------------------------------------------------------------------- batch norm and graphs
def running_statistics(module: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Running mean and variance (C,) of a batch norm that tracks them."""
    assert module.running_mean is not None and module.running_var is not None
    return module.running_mean, module.running_var


def batch_share(module: _BatchNorm) -> float:
    """The weight of the last batch in the running statistics."""
    if module.momentum is not None:
        return float(module.momentum)
    return 1.0 / float(module.num_batches_tracked)  # type: ignore[arg-type]


def batch_statistics(x: Tensor) -> tuple[Tensor, Tensor] | None:
    """Mean and unbiased variance (C,) of the channels of x (N, C, ...), in its graph; None without one."""
    if not torch.is_grad_enabled():
        return None
    dims = [0, *range(2, x.ndim)]
    return x.mean(dims), x.var(dims, unbiased=True)


def eval_change(module: _BatchNorm, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """The first-order change of an output in eval mode, given the change of running mean and variance.

    Args:
        module: the batch norm.
        x: its input.
        mean: (C,), change of the running mean.
        var: (C,), change of the running variance.
    """
    shape = (1, -1, *[1] * (x.ndim - 2))
    at_mean, at_var = running_statistics(module)
    inverse = (at_var + module.eps).rsqrt()
    normal = (x - at_mean.view(shape)) * inverse.view(shape)
    change = -(mean * inverse).view(shape) - normal * (0.5 * var * inverse.square()).view(shape)
    return change if module.weight is None else change * module.weight.view(shape)


def _nodes(loss: Tensor) -> Iterator[Any]:
    """Every node of the graph of a loss, once."""
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        if not leads_nowhere(node):
            waiting.extend(following for following, _ in node.next_functions)


def reached_leaves(loss: Tensor) -> set[Tensor]:
    """The leaves of the graph of a loss that its backward gives a gradient."""
    return {node.variable for node in _nodes(loss) if hasattr(node, "variable")}


def in_half_precision(loss: Tensor) -> bool:
    """Whether anything in the graph of a loss is in half precision."""
    half = (torch.float16, torch.bfloat16)
    return any(m.dtype in half for node in _nodes(loss) for m in getattr(node, "_input_metadata", ()) if m is not None)

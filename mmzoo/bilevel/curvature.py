"""Curvature-vector products of a loss, and the contexts in which they are correct.

Losses must come from a forward with frozen batch statistics and dropout (`frozen_statistics`), in float32 or float64
without autocast, under `double_backward()`, since fused attention kernels have no second derivative. Products are
computed by reverse over reverse mode on one retained graph. Alternatives fail here: reverse over forward is silently
wrong through batch norm in train mode, and finite differences of gradients are useless across the kinks of ReLU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from mmzoo.bilevel.solvers import Operator
from mmzoo.core.scopes import scope_pattern
from mmzoo.errors import BadValue


# ---------------------------------------------------------------------- contexts
def not_still(model: nn.Module) -> list[str]:
    """The names of modules whose statistics or random numbers would change from one forward to the next."""
    moving = [name for name, module in model.named_modules() if module.training and _moves(module)]
    return [name or "(the model itself)" for name in moving]


def _moves(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.batchnorm._NormBase):  # batch norm, synchronised or not, and instance norm
        return isinstance(module, nn.modules.batchnorm._BatchNorm) or module.track_running_stats
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        return module.dropout > 0
    return bool(getattr(module, "drop_prob", 0))  # stochastic depth, as timm and transformers have it


@contextlib.contextmanager
def moving_only(params: Sequence[Tensor], model: nn.Module) -> Iterator[None]:
    """Let only `params` of a model's parameters require gradients in a block.

    A forward then builds no graph below the first layer that holds one of them, and computes that part only once.

    Args:
        params: the parameters.
        model: the model.
    """
    moving = {id(p) for p in params}
    still = [p for p in model.parameters() if p.requires_grad and id(p) not in moving]
    for p in still:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in still:
            p.requires_grad_(True)


# ---------------------------------------------------------------------- products
def flat_grad(
    value: Tensor, params: Sequence[Tensor], grad_output: Tensor | None = None, *, create_graph: bool = False
) -> Tensor:
    """The gradient with respect to all parameters as one vector; zeros where the value does not depend on them.

    Args:
        value: a tensor; a scalar unless `grad_output` is given.
        params: the parameters, P entries together.
        grad_output: the vector of the vector-Jacobian product.
        create_graph: allow the gradient to be differentiated.

    Returns:
        (P,).
    """
    if not value.requires_grad:
        return torch.cat([torch.zeros_like(p).reshape(-1) for p in params])
    return _flat_grad_of_all([value], params, [grad_output], create_graph=create_graph)


def _flat_grad_of_all(
    values: Sequence[Tensor],
    params: Sequence[Tensor],
    grad_outputs: Sequence[Tensor | None],
    *,
    create_graph: bool = False,
) -> Tensor:
    """(P,) gradient of the sum of all values times their grad_outputs, in one pass."""
    grads = torch.autograd.grad(
        values, params, grad_outputs, create_graph=create_graph, retain_graph=True, allow_unused=True
    )
    return torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for g, p in zip(grads, params)])


def hessian_operator(loss: Tensor, params: Sequence[Tensor]) -> Operator:
    """v -> H v with H the exact Hessian of `loss` (Pearlmutter, 1994), which may be indefinite.

    Runs one backward here. A product passes through two graphs and takes as long as 2.5 to 4 training steps.

    Args:
        loss: a scalar with its graph.
        params: the parameters, P entries together.

    Returns:
        A function from (P,) to (P,).
    """
    gradient = flat_grad(loss, params, create_graph=True)
    if not gradient.requires_grad:
        return torch.zeros_like
    return lambda v: flat_grad(gradient, params, v)


def gauss_newton_operator(
    outputs: Sequence[Tensor], loss_of: Callable[[Sequence[Tensor]], Tensor], params: Sequence[Tensor]
) -> Operator:
    """v -> J^T H_out J v: the Hessian without the curvature of the model (Schraudolph, 2002).

    Positive semi-definite if the loss is convex in the outputs. Runs one backward here; a product takes two passes and
    as long as 2.2 to 2.5 training steps.

    Args:
        outputs: outputs of the model.
        loss_of: the loss as a function of them.
        params: the parameters, P entries together.

    Returns:
        A function from (P,) to (P,).
    """
    leaves = [o.detach().requires_grad_() for o in outputs]
    with torch.enable_grad():
        value = loss_of(leaves)
        local = _grads(value, leaves, create_graph=True)
    used = [
        (o, leaf, g)
        for o, leaf, g in zip(outputs, leaves, local)
        if o.requires_grad and g is not None and g.requires_grad
    ]
    if not used:
        return torch.zeros_like
    ends, starts, slopes = (list(column) for column in zip(*used))
    weights = [torch.zeros_like(o, requires_grad=True) for o in ends]
    transposed = _flat_grad_of_all(ends, params, weights, create_graph=True)
    if not transposed.requires_grad:
        return torch.zeros_like

    def product(v: Tensor) -> Tensor:
        # J v is the derivative of w -> J^T w in the direction v, since that map is linear.
        found = torch.autograd.grad(transposed, weights, v, retain_graph=True, allow_unused=True)
        moved = [torch.zeros_like(w) if m is None else m for m, w in zip(found, weights)]
        curved = torch.autograd.grad(slopes, starts, moved, retain_graph=True, allow_unused=True)
        reached = [(o, c) for o, c in zip(ends, curved) if c is not None]
        if not reached:
            return torch.zeros_like(v)
        return _flat_grad_of_all([o for o, _ in reached], params, [c for _, c in reached])

    return product


def _grads(value: Tensor, leaves: Sequence[Tensor], *, create_graph: bool) -> Sequence[Tensor | None]:
    if not value.requires_grad:
        return [None] * len(leaves)
    return torch.autograd.grad(value, leaves, create_graph=create_graph, allow_unused=True)


def scoped_parameters(model: nn.Module, scope: str = "all") -> list[nn.Parameter]:
    """The trainable parameters in the scope of a solve; all others count as constants.

    The last layer of an encoder is the last of its modules, in order of construction, with a trainable matrix or kernel
    of its own, and everything after it (usually a norm).

    Args:
        model: the model.
        scope: "all", "heads" (`head` and `extra`), "last" (these and the last layer of each encoder), or
            "pattern:REGEX" (parameters whose name matches the expression).

    Raises:
        BadValue: the scope is malformed, or holds no trainable parameter.
    """
    wanted = scope_pattern(scope)
    last = _last_layers(model) if scope == "last" else set()
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    found = [p for name, p in named if name in last or wanted.search(name)]
    if not found:
        names = [name for name, _ in named]
        some = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        raise BadValue(f"scope {scope!r} holds none of the trainable parameters: {some or 'there are none'}.")
    return found


def _last_layers(model: nn.Module) -> set[str]:
    """The names of the parameters of each encoder's last layer."""
    found: set[str] = set()
    encoders = getattr(model, "encoders", None)
    for m, encoder in encoders.items() if isinstance(encoders, nn.ModuleDict) else ():
        taken: list[str] = []
        for name, module in reversed(list(encoder.named_modules(prefix=f"encoders.{m}"))):
            own = [(f"{name}.{n}", p) for n, p in module.named_parameters(recurse=False) if p.requires_grad]
            taken += [n for n, _ in own]
            if any(p.ndim > 1 for _, p in own):
                break
        found.update(taken)
    return found

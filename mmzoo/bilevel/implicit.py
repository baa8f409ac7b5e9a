"""The gradient of an upper loss in the weight between two inner losses.

`implicit_gradient` runs closures that return the losses, damps and solves, and reports how far the result can be
trusted. A solve keeps the graph of every micro-batch in memory. Its parts are public too: curvature products
(`mmzoo.bilevel.curvature`, with the conditions under which they are correct) and solvers (`mmzoo.bilevel.solvers`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from mmzoo.bilevel.curvature import (
    flat_grad,
    gauss_newton_operator,
    hessian_operator,
    moving_only,
    not_still,
    scoped_parameters,
)
from mmzoo.bilevel.problem import Hypergradient, Inner, Mixing, Solver, Upper, Warm
from mmzoo.bilevel.solvers import (
    Operator,
    Solution,
    conjugate_gradients,
    dot,
    length,
    minres,
    neumann,
    power_iteration,
    random_vector,
)
from mmzoo.core.modes import double_backward
from mmzoo.core.precision import full_precision
from mmzoo.errors import BadValue, Incompatible

_DEFAULT = Solver()
_HALF = (torch.float16, torch.bfloat16)


def _same(vector: Tensor) -> Tensor:
    """The mean over the one process that there is."""
    return vector


def implicit_gradient(
    inner: Callable[[], Inner] | Sequence[Callable[[], Inner]],
    upper: Callable[[], Tensor | Upper] | Sequence[Callable[[], Tensor | Upper]],
    of: nn.Module | Sequence[Tensor],
    alpha: float | Mixing,
    *,
    solver: Solver = _DEFAULT,
    warm: Warm | None = None,
    generator: torch.Generator | None = None,
    reduce: Callable[[Tensor], Tensor] = _same,
) -> Hypergradient:
    """d L_upper / d alpha at the present parameters: -(grad L_mm - grad L_cls)^T (H + mu I)^{-1} grad L_upper.

    Yang et al., NeurIPS 2024, eq. 3, by one solve for a given inner problem. One forward per micro-batch serves its
    gradients and every product, and keeps a graph only from the first layer on that holds a parameter in the scope.
    Cost in backwards over a micro-batch, from that layer on: 1 for each upper one; for each inner one 3 (identity: 2)
    and 2 per product, which pass through larger graphs and take about 2.5 training steps together. A failed solve
    raises nothing: see `usable`.

    Args:
        inner: one closure per micro-batch (or a single one), called once and in order, under full precision and
            `double_backward`. Results are averaged by weight. A loss that compares samples compares those of a
            micro-batch.
        upper: closures of the upper loss, in the same form.
        of: the model, whose parameters in `solver.scope` vary, or a list of tensors, of which those without
            `requires_grad` are skipped. A model is checked: use `frozen_statistics`.
        alpha: the weight, or a `Mixing`.
        solver: curvature, method and damping.
        warm: `warm` of the previous result, from which the solve and the estimate of lambda_max start; None: from zero.
        generator: draws the first vector of the power iteration; None: always the same one. The global generator is
            left unchanged.
        reduce: the mean of a vector (P,) over processes, each of which passes its share of every micro-batch; all
            obtain the same value. Called for one vector per loss and one per product.

    Raises:
        Incompatible: a module is not frozen, or precision is half.
        BadValue: vectors or weights do not fit.
    """
    params = _parameters(of, solver.scope)
    mixing = Mixing.of(alpha)
    still = moving_only(params, of) if isinstance(of, nn.Module) else contextlib.nullcontext()
    with torch.enable_grad(), double_backward(), full_precision(params[0].device), still:
        pieces = _checked([closure() for closure in _listed(inner)])
        share = _shares([piece.weight for piece in pieces])
        mixed, norms, product = _inner_terms(pieces, share, mixing, solver, params, reduce)
        losses = [_as_upper(closure()) for closure in _listed(upper)]
        share = _shares([piece.weight for piece in losses])
        gradient = reduce(_summed(w * flat_grad(u.loss, params) for w, u in zip(share, losses)))
        found = _solved(gradient, mixed, product, solver, warm, generator, (len(losses), len(pieces)))
        return replace(found, norms=norms)


def hypergradient(
    upper: Tensor,
    mixed: Tensor,
    operator: Operator,
    *,
    solve: Callable[[Operator, Tensor], Solution],
    damping: float = 0.0,
    max_residual: float = 0.5,
) -> Hypergradient:
    """-mixed^T (H + damping I)^{-1} upper, from given vectors.

    Args:
        upper: (P,), gradient of the upper loss.
        mixed: (P,), derivative of the inner gradient in the mixing weight; for the inner loss (1 - a) L_cls + a L_mm it
            is grad L_mm - grad L_cls exactly.
        operator: products with the curvature of the inner loss.
        solve: solves operator x = b.
        damping: added to the diagonal.
        max_residual: relative residual above which the result is not usable.
    """
    solution = solve(lambda v: operator(v) + damping * v, upper)
    value = -dot(mixed, solution.x)
    size = length(mixed) * length(solution.x)
    reason = _reason(value, solution, max_residual)
    direction = min(1.0, max(-1.0, value / size)) if size > 0 else 0.0
    return Hypergradient(
        value,
        direction,
        damping,
        solution,
        not reason,
        reason,
        products=solution.products,
        warm=None if reason else Warm(solution.x),
    )


def _reason(value: float, solution: Solution, max_residual: float) -> str:
    """Why a solution is not usable; empty when it is."""
    if not math.isfinite(value) or not math.isfinite(solution.residual):
        return "the value is not finite"
    if solution.residual <= max_residual:
        return ""
    cure = "use more damping, or hessian with minres"
    if solution.curvature <= 0 and solution.iterations == 0:
        return f"curvature {solution.curvature:.2g} at the first step: {cure}"
    if solution.curvature < 0:
        return f"residual {solution.residual:.2g} after curvature {solution.curvature:.2g} was met: {cure}"
    return f"residual {solution.residual:.2g} is above {max_residual:.2g}: use more iterations or more damping"


def _solved(
    gradient: Tensor,
    mixed: Tensor,
    product: Operator,
    solver: Solver,
    warm: Warm | None,
    generator: torch.Generator | None,
    pieces: tuple[int, int],
) -> Hypergradient:
    """Damp, solve, and account for it. pieces: how many micro-batches the upper and the inner loss came in."""
    if solver.curvature == "identity":
        found = hypergradient(gradient, mixed, torch.zeros_like, solve=lambda a, b: Solution(b, 0.0, 0, math.nan))
        return replace(found, warm=None, backwards=pieces[0] + 2 * pieces[1])
    x0, start, turns = _starts(gradient, solver, warm, generator)
    size, vector, spent = math.nan, None, 0
    for share in solver.dampings:
        if not math.isfinite(size) and ((solver.relative and share > 0) or solver.how == "neumann"):
            size, vector = power_iteration(product, start, iterations=turns)
            spent += turns
        damping = share * size if solver.relative and share > 0 else share
        found = _damped(gradient, mixed, product, solver, damping, size, x0)
        spent += found.products
        size = size if math.isfinite(size) else found.solution.largest
        if found.usable:
            break
    return replace(
        found,
        lambda_max=size,
        products=spent,
        backwards=pieces[0] + pieces[1] * (3 + 2 * spent),
        warm=Warm(found.solution.x, vector) if found.usable else None,
    )


def _damped(
    gradient: Tensor,
    mixed: Tensor,
    product: Operator,
    solver: Solver,
    damping: float,
    size: float,
    x0: Tensor | None,
) -> Hypergradient:
    """One solve with a damping, from x0. size: the estimate of lambda_max, for a Neumann series."""

    def solve(a: Operator, b: Tensor) -> Solution:
        if solver.how == "neumann":
            return neumann(a, b, terms=solver.iterations, step=1.0 / max(size + damping, 1e-30), x0=x0)
        method = conjugate_gradients if solver.how == "cg" else minres
        return method(a, b, max_iter=solver.iterations, tol=solver.tol, x0=x0)

    return hypergradient(gradient, mixed, product, solve=solve, damping=damping, max_residual=solver.max_residual)


def _starts(
    like: Tensor, solver: Solver, warm: Warm | None, generator: torch.Generator | None
) -> tuple[Tensor | None, Tensor, int]:
    """Where the solve and the power iteration start from, and how many products the latter takes."""
    for vector in () if warm is None else (warm.solution, warm.eigenvector):
        if vector is not None and vector.shape != like.shape:
            raise BadValue(
                f"the vectors to start from have {vector.numel()} entries, but there are {like.numel()} parameters: "
                "start without them when the scope or the model has changed."
            )
    x0 = None if warm is None else warm.solution.to(like)
    if warm is not None and warm.eigenvector is not None and bool(warm.eigenvector.any()):
        return x0, warm.eigenvector.to(like), solver.power_iterations[1]
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    return x0, random_vector(like, generator), solver.power_iterations[0]


def _inner_terms(
    pieces: Sequence[Inner],
    share: Sequence[float],
    mixing: Mixing,
    solver: Solver,
    params: Sequence[Tensor],
    reduce: Callable[[Tensor], Tensor],
) -> tuple[Tensor, tuple[float, float], Operator]:
    """The (P,) derivative of the inner gradient in alpha, the norms of the gradients of both losses, and products with
    the inner curvature; all averaged."""
    losses = [piece.losses(piece.outputs) for piece in pieces]
    both = [_summed(w * flat_grad(pair[i], params) for w, pair in zip(share, losses)) for i in (0, 1)]
    l_cls, l_mm = map(reduce, both)
    mixed, norms = mixing.slopes[0] * l_cls + mixing.slopes[1] * l_mm, (length(l_cls), length(l_mm))
    if solver.curvature == "identity":
        return mixed, norms, torch.zeros_like

    def total(piece: Inner) -> Callable[[Sequence[Tensor]], Tensor]:
        return lambda outputs: mixing.total(*piece.losses(outputs))

    if solver.curvature == "gauss_newton":
        operators = [gauss_newton_operator(p.outputs, total(p), params) for p in pieces]
    else:
        operators = [hessian_operator(mixing.total(*pair), params) for pair in losses]
    return mixed, norms, lambda v: reduce(_summed(w * operator(v) for w, operator in zip(share, operators)))


def _parameters(of: nn.Module | Sequence[Tensor], scope: str) -> list[Tensor]:
    """The tensors to move in; Incompatible for a model that does not stand still, or for half precision."""
    if isinstance(of, nn.Module):
        params: list[Tensor] = list(scoped_parameters(of, scope))
        if moving := not_still(of):
            raise Incompatible(
                f"batch statistics or dropout are active in {', '.join(moving[:4])}{', ...' if moving[4:] else ''}: "
                "the curvature would be that of another loss at every forward. Call within "
                "mmzoo.bilevel.frozen_statistics(model)."
            )
    else:
        params = [p for p in of if p.requires_grad]
        if scope != "all":
            raise BadValue(f"scope {scope!r} selects by name: give the model, not a list of tensors.")
        if not params:
            raise BadValue("none of the tensors requires a gradient.")
    if wrong := sorted({str(p.dtype) for p in params} - {"torch.float32", "torch.float64"}):
        raise Incompatible(
            f"parameters in {', '.join(wrong)}: second derivatives need float32 or float64 (model.float())."
        )
    return params


def _checked(pieces: list[Inner]) -> list[Inner]:
    for piece in pieces:
        if any(o.dtype in _HALF for o in piece.outputs):
            raise Incompatible(
                "the outputs are in half precision: run their forward inside the closure, or without autocast."
            )
    return pieces


def _as_upper(value: Tensor | Upper) -> Upper:
    return value if isinstance(value, Upper) else Upper(value)


def _listed(closures: Any) -> list[Callable[[], Any]]:
    listed = [closures] if callable(closures) else list(closures)
    if not listed:
        raise BadValue("at least one micro-batch is needed at each level.")
    return listed


def _shares(weights: Sequence[float]) -> list[float]:
    total = float(sum(weights))
    if not (total > 0 and math.isfinite(total) and min(weights) >= 0):
        raise BadValue(f"the weights of micro-batches must not be negative and have a positive sum: {list(weights)}.")
    return [float(w) / total for w in weights]


def _summed(terms: Iterator[Tensor]) -> Tensor:
    total = next(terms)
    for term in terms:
        total = total + term
    return total

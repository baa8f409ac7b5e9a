"""A learned alpha by equation 3: one implicit solve per update."""

from __future__ import annotations

import math
from functools import partial
from itertools import islice
from typing import Literal

from mmzoo.api import BadValue, Batch, Incompatible, Run
from mmzoo.bilevel import Hypergradient, Inner, Solver, Warm, frozen_statistics, implicit_gradient, scoped_parameters
from mmzoo.strategies.dynamic_gap.learners import Learned, StepRule, record_norms
from mmzoo.strategies.dynamic_gap.losses import GapLoss, first_items, joint
from mmzoo.strategies.dynamic_gap.settings import SolveSettings, UpperSettings


class Implicit(Learned):
    """h = -(d grad L / d alpha)^T (H + damping)^{-1} grad L_upper (Yang et al., NeurIPS 2024, eq. 3).

    Each solve starts from where the last one ended.

    Args:
        loss: the two inner losses.
        step: how a derivative moves alpha.
        upper: where the upper loss comes from, and how often alpha moves.
        solve: solver, damping, iterations, scope, batches and items, as `DynamicGap` takes them.
    """

    records_gradients = True

    def __init__(self, loss: GapLoss, step: StepRule, upper: UpperSettings, solve: SolveSettings) -> None:
        super().__init__(loss, step, upper)
        self.solve = solve
        # A solve takes a gradient of each upper batch, and for each inner one those of both losses, one for the matrix,
        # and two backwards a product: one to start from the last solution, one an iteration, one at the end of MINRES,
        # six of power iteration at first where there is damping. Declared are backwards over the whole model, with a
        # second solve where there may be one; a run counts those of a scope by their share.
        first_order = solve.solver == "identity"
        solves = len(self._solver().dampings)
        power = 0 if solve.solver == "hessian" and not solve.damping else 6
        spent = 2 if first_order else 3 + 2 * (power + solves * (solve.iterations + 2))
        upper_n = upper.upper_batches
        self.update_cost = (solve.batches + upper_n, upper_n + solve.batches * spent)

    def setup(self, run: Run) -> None:
        try:
            scoped_parameters(run.model, self.solve.scope)
        except BadValue as error:
            raise Incompatible(str(error)) from error

    def derivative(self, run: Run, alpha: float) -> Hypergradient:
        drawn = islice(run.train(self.stream("inner")), self.solve.batches)
        inner = [first_items(run, batch, self.solve.items) for batch in drawn]
        with frozen_statistics(run.model):
            found = implicit_gradient(
                [partial(self._inner_loss, run, batch) for batch in inner],
                [partial(self.upper_loss, run, batch) for batch in self.batches(run)],
                run.model,
                self.loss.mixing(alpha),
                warm=Warm(**self.warm) if self.warm else None,
                solver=self._solver(),
                generator=run.generator("dynamic_gap/power"),
                reduce=run.reduce,
            )
        run.cost.backward += found.backwards * _share(run, found)
        record_norms(run, *found.norms)
        kept = {} if found.warm is None else vars(found.warm)
        self.warm = {k: v.detach().clone() for k, v in kept.items() if v is not None}
        _record(run, found)
        return found

    def _solver(self) -> Solver:
        s = self.solve
        curvature: Literal["gauss_newton", "hessian", "identity"] = "gauss_newton"
        if s.solver == "hessian" or s.solver == "identity":
            curvature = s.solver
        method: Literal["neumann"] | None = "neumann" if s.solver == "neumann" else None
        return Solver(curvature, method, s.damping, s.iterations, scope=s.scope, fallback=s.fallback)

    def _inner_loss(self, run: Run, batch: Batch) -> Inner:
        step = joint(run, batch)
        return Inner(self.loss.outputs(step), partial(self.loss.of_outputs, step), len(batch))


def _record(run: Run, found: Hypergradient) -> None:
    """Log what the solver says of itself."""
    diagnostics = {
        "damping": found.damping,
        "residual": found.residual,
        "iterations": found.iterations,
        "curvature": found.curvature,
        "lambda_max": found.lambda_max,
        "products": found.products,
    }
    for name, value in diagnostics.items():
        if math.isfinite(value):
            run.log(f"dynamic_gap/{name}", value)


def _share(run: Run, found: Hypergradient) -> float:
    """What a backward through the scope counts of one through the whole model: its share of the parameters, which is
    more than its share of the work where late layers are narrow in space and wide in channels."""
    return found.solution.x.numel() / sum(p.numel() for p in run.model.parameters() if p.requires_grad)

"""Dynamic gap: classification and matching of modalities, weighted against each other over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmzoo.api import Batch, Incompatible, Outputs, Run, Step, Strategy, Terms
from mmzoo.autodiff import (
    Hypergradient,
    conjugate_gradients,
    double_backward,
    flat_grad,
    gauss_newton_operator,
    hessian_operator,
    hypergradient,
    largest_eigenvalue,
    minres,
)
from mmzoo.functional import cosine_similarities, info_nce, jensen_shannon, kl_to_mean

Schedule = Literal["constant", "stepwise", "heuristic", "learned"]
Matching = Literal["infonce", "kl_to_mean", "js"]


def heuristic(t: int) -> float:
    """alpha in epoch t, counted from 1: 1 - exp(-1 / t) (Yang et al., NeurIPS 2024)."""
    return 1.0 - math.exp(-1.0 / t)


def stepwise(p: float, epoch: int, n_epochs: int) -> float:
    """alpha in `epoch`, counted from 0: p in the first half of the run, 1 - p afterwards (h(p) of the paper)."""
    return p if epoch < n_epochs / 2 else 1.0 - p


class DynamicGap(Strategy):
    """Trains on (1 - alpha) * L_cls + alpha * L_mm (Yang et al., NeurIPS 2024, eq. 1).

    L_cls is the cross-entropy of the joint logits, L_mm a matching loss between modalities. matching="infonce" is
    the paper's: symmetric InfoNCE on cosine similarity over `temperature`, here the mean over unordered pairs, with
    small linear projections where widths differ. "kl_to_mean" is what the authors' code does on unimodal logits,
    "js" the Jensen-Shannon divergence that it is called.

    schedule: "constant" keeps `alpha`; "stepwise" is h(alpha); "heuristic" is 1 - exp(-1 / t); "learned" starts at
    `alpha` and after each epoch moves against the derivative of the upper loss (eq. 3),
        h = -(grad L_mm - grad L_cls)^T (H + damping)^{-1} grad L_upper,
    H the curvature of the inner loss: "gauss_newton" with conjugate gradients, or "hessian" with MINRES (the paper's
    formula). damping is relative to the largest eigenvalue. The paper names no step size, and the size of h depends
    on curvature and damping by orders of magnitude, so by default (`normalize`) the cosine between the two vectors
    takes the place of h. A change is at most `max_change`; alpha stays in [0, 1]; a solve that did not converge
    leaves alpha alone, and the record says so.

    upper: where the upper loss comes from. "slice" (default) holds labels that training does not see; "train" is how
    the paper reads, but at an inner optimum on the same data h cannot be negative, so that alpha only falls.
    """

    owns = frozenset({"task"})
    min_modalities = 2
    state = ("current", "n_updates", "n_unusable")
    neutral = {"schedule": "constant", "alpha": 0.0}  # noqa: RUF012

    def __init__(
        self, *, schedule: Schedule = "heuristic", alpha: float = 0.5, matching: Matching = "infonce",
        temperature: float = 0.5, floor: float = 1e-3, upper: Literal["slice", "train"] = "slice", eta: float = 0.1,
        max_change: float = 0.1, normalize: bool = True, curvature: Literal["gauss_newton", "hessian"] = "gauss_newton",
        damping: float = 0.01, iterations: int = 10,
    ) -> None:  # fmt: skip
        self.schedule = schedule
        self.alpha = alpha
        self.matching = matching
        self.temperature = temperature
        self.floor = floor
        self.upper = upper
        self.eta = eta
        self.max_change = max_change
        self.normalize = normalize
        self.curvature = curvature
        self.damping = damping
        self.iterations = iterations
        requires = {"unimodal"} if matching != "infonce" else set()
        if schedule == "learned":
            requires |= {"double_backward", "slice"} if upper == "slice" else {"double_backward"}
            # Once an epoch: two forwards, three gradients, and products with the curvature at two backwards each.
            self.cost = {  # type: ignore[misc]
                "forward": 1, "backward": 1, "forward_epoch": 2, "backward_epoch": 3 + 2 * (6 + iterations)
            }  # fmt: skip
            self.stochastic = True  # type: ignore[misc]  # power iteration starts from a drawn vector
        self.requires = frozenset(requires)  # type: ignore[misc]
        self.current = alpha
        self.n_updates = 0
        self.n_unusable = 0

    def setup(self, run: Run) -> None:
        self._dims = dict(run.model.head.dims)
        if self.matching == "infonce" and len(set(self._dims.values())) > 1:
            common = min(self._dims.values())
            run.add_module(
                "dynamic_gap",
                lambda: nn.ModuleDict({m: nn.Linear(d, common) for m, d in self._dims.items()}),
            )

    def epoch_start(self, run: Run) -> None:
        if self.schedule == "heuristic":
            self.current = heuristic(run.epoch + 1)
        elif self.schedule == "stepwise":
            self.current = stepwise(self.alpha, run.epoch, run.n_epochs)
        run.log("dynamic_gap/alpha", self.current)

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        if self.schedule == "constant" and self.current == 0.0:
            return terms
        if len(out.features) < 2:  # a pass that feeds a single modality has nothing to match
            return terms
        present = None if step.batch.present is None else step.kept(step.batch.present)
        features = {m: step.kept(z) for m, z in out.features.items()}
        unimodal = {m: step.kept(z) for m, z in out.unimodal.items()} if self.matching != "infonce" else {}
        match = self._match(self._matched(step.run, features, unimodal, present))
        return {**terms, "task": (1.0 - self.current) * terms["task"], "dynamic_gap/match": self.current * match}

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        if self.schedule != "learned":
            return
        found = self._hypergradient(run)
        run.log("dynamic_gap/hypergradient", found.value)
        run.log("dynamic_gap/direction", found.direction)
        run.log("dynamic_gap/damping", found.damping)
        run.log("dynamic_gap/residual", found.solution.residual)
        run.log("dynamic_gap/iterations", found.solution.iterations)
        run.log("dynamic_gap/usable", float(found.usable))
        if math.isfinite(found.solution.curvature):
            run.log("dynamic_gap/curvature", found.solution.curvature)
        self.n_updates += 1
        if not found.usable:
            self.n_unusable += 1
            return
        change = self.eta * (found.direction if self.normalize else found.value)
        change = min(self.max_change, max(-self.max_change, change))
        self.current = min(1.0, max(0.0, self.current - change))

    def _matched(
        self, run: Run, features: Mapping[str, Tensor], unimodal: Mapping[str, Tensor], present: Tensor | None
    ) -> list[Tensor]:
        """What the matching loss is a function of: similarity matrices, or unimodal logits."""
        if self.matching != "infonce":
            if present is not None:
                everything = present.all(1)
                return [z[everything] for z in unimodal.values()]
            return list(unimodal.values())
        if "dynamic_gap" in run.model.extra:
            project: Any = run.model.extra["dynamic_gap"]
            features = {m: project[m](z) for m, z in features.items()}
        columns = None if present is None else present[:, [run.modalities.index(m) for m in features]]
        return cosine_similarities(features, self.temperature, columns, self.floor)

    def _match(self, matched: Sequence[Tensor]) -> Tensor:
        if self.matching == "infonce":
            return info_nce(matched)
        if not len(matched[0]):
            return matched[0].sum() * 0.0
        return (kl_to_mean if self.matching == "kl_to_mean" else jensen_shannon)(matched)

    def _inner(self, target: Tensor, outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """L_cls and L_mm as functions of what the model gives."""
        logits, *matched = outputs
        return F.cross_entropy(logits, target), self._match(matched)

    def _outputs(self, run: Run, batch: Batch) -> list[Tensor]:
        out = run.forward(batch, mode="eval")
        unimodal = dict(out.unimodal) if self.matching != "infonce" else {}
        return [out.logits, *self._matched(run, out.features, unimodal, batch.present)]

    @torch.enable_grad()
    def _hypergradient(self, run: Run) -> Hypergradient:
        """Equation 3 on one inner and one upper batch, drawn anew each epoch."""
        inner = next(iter(run.train("dynamic_gap/inner")))
        upper = self._upper_batch(run)
        params = [p for p in run.model.parameters() if p.requires_grad]
        with double_backward():
            outputs = self._outputs(run, inner)
            l_cls, l_mm = self._inner(inner.target, outputs)
            mixed = flat_grad(l_mm, params) - flat_grad(l_cls, params)

            def total(values: Sequence[Tensor]) -> Tensor:
                cls, mm = self._inner(inner.target, values)
                return (1.0 - self.current) * cls + self.current * mm

            if self.curvature == "gauss_newton":
                operator = gauss_newton_operator(outputs, total, params)
            else:
                operator = hessian_operator(total(outputs), params)
            upper_out = run.forward(upper, mode="eval")
            gradient = flat_grad(F.cross_entropy(upper_out.logits, upper.target), params)
            size = largest_eigenvalue(operator, gradient, run.generator("dynamic_gap/power"))
            solver = conjugate_gradients if self.curvature == "gauss_newton" else minres
            found = hypergradient(
                gradient, mixed, operator, damping=self.damping * size,
                solve=partial(solver, max_iter=self.iterations, tol=1e-2),
            )  # fmt: skip
        # Forwards are counted by run.forward; a product with the curvature costs about two backwards.
        run.cost.backward += 3 + 2 * (6 + found.solution.iterations)
        return found

    def _upper_batch(self, run: Run) -> Batch:
        if self.upper == "train":
            return next(iter(run.train("dynamic_gap/upper")))
        batches = list(run.strategy_holdout())
        if not batches:
            raise Incompatible("the slice is empty: a learned alpha has nothing to learn from.")
        return batches[run.epoch % len(batches)]

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

Schedule = Literal["constant", "stepwise", "heuristic", "learned", "released", "released_learned"]
Form = Literal["paper", "additive", "released"]
Matching = Literal["infonce", "kl_to_mean", "js"]


def heuristic(t: int) -> float:
    """alpha in epoch t, counted from 1: 1 - exp(-1 / t) (Yang et al., NeurIPS 2024)."""
    return 1.0 - math.exp(-1.0 / t)


def stepwise(p: float, epoch: int, n_epochs: int) -> float:
    """alpha in `epoch`, counted from 0: p in the first half of the run, 1 - p afterwards (h(p) of the paper)."""
    return p if epoch < n_epochs / 2 else 1.0 - p


def released_alpha(epoch: int) -> float:
    """alpha in `epoch`, counted from 0, in the script that the authors' README names: a frozen polynomial."""
    cls = [0.204623704, 0.00335472727, 0.000122989557, -2.92947416e-6, 2.23835486e-8, -5.39717505e-11]
    return 1.0 - sum(c * float(epoch) ** k for k, c in enumerate(cls))


def released_surrogate(total: Tensor, cls: Tensor, params: Sequence[Tensor]) -> float:
    """What the authors' second script steps along: the mean over the *first* parameter tensor of H_total grad L_cls.

    It is the derivative of nothing, and depends on the order of the parameters; it is here to show what that script
    does. No inverse, no mixed derivative.
    """
    product = hessian_operator(total, params)(flat_grad(cls, params))
    return float(product[: params[0].numel()].mean())


class DynamicGap(Strategy):
    """Trains on (1 - alpha) * L_cls + alpha * L_mm (Yang et al., NeurIPS 2024, eq. 1).

    L_cls is the cross-entropy of the joint logits, L_mm a matching loss between modalities. matching="infonce" is
    the paper's: symmetric InfoNCE on cosine similarity over `temperature`, here the mean over unordered pairs, with
    small linear projections where widths differ. "kl_to_mean" is what the authors' code does on unimodal logits,
    "js" the Jensen-Shannon divergence that it is called. In several processes the negatives are those of all.

    form: "paper" as above. "additive" is L_cls + alpha * L_mm, which keeps the classification step at any alpha;
    (1 - alpha) also shrinks it, and a comparison that does not notice is confounded with the learning rate.
    "released" is twice the paper's form, as in the authors' code.

    schedule: "constant" keeps `alpha`; "stepwise" is h(alpha); "heuristic" is 1 - exp(-1 / t); "learned" starts at
    `alpha` and moves against the derivative of the upper loss (eq. 3),
        h = -(d grad L / d alpha)^T (H + damping)^{-1} grad L_upper,
    H the curvature of the inner loss: "gauss_newton" with conjugate gradients, or "hessian" with MINRES (the paper's
    formula). damping is relative to the largest eigenvalue. The paper names no step size, and the size of h depends
    on curvature and damping by orders of magnitude, so by default (`normalize`) the cosine between the two vectors
    takes the place of h. A change is at most `max_change`; alpha stays in [0, 1]; a solve that did not converge
    leaves alpha alone, and the record says so. "released" and "released_learned" are what the authors' two scripts
    do instead: a frozen polynomial, and a surrogate that is not a derivative, on eight items of the slice.

    upper: where the upper loss comes from. "slice" (default) holds labels that training does not see; "train" is how
    the paper reads, but at an inner optimum on the same data h cannot be negative, so that alpha only falls.

    Recorded each epoch: alpha, L_cls, L_mm, the norms of their gradients on one batch, and all that the solver tells.
    """

    owns = frozenset({"task"})
    min_modalities = 2
    state = ("current", "n_updates", "n_unusable")
    neutral = {"schedule": "constant", "alpha": 0.0}  # noqa: RUF012

    def __init__(
        self, *, schedule: Schedule = "heuristic", alpha: float = 0.5, form: Form = "paper",
        matching: Matching = "infonce", temperature: float = 0.5, floor: float = 1e-3,
        upper: Literal["slice", "train"] = "slice", eta: float = 0.1, max_change: float = 0.1, normalize: bool = True,
        curvature: Literal["gauss_newton", "hessian"] = "gauss_newton", damping: float = 0.01, iterations: int = 10,
    ) -> None:  # fmt: skip
        self.schedule = schedule
        self.alpha = alpha
        self.form = form
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
        learns = schedule in ("learned", "released_learned")
        requires = {"unimodal"} if matching != "infonce" else set()
        requires |= {"double_backward"} if learns else set()
        requires |= {"slice"} if learns and upper == "slice" else set()
        self.requires = frozenset(requires)  # type: ignore[misc]
        # Once an epoch the gradients of both losses on one batch; a learned alpha adds two forwards, three gradients,
        # and products with the curvature at two backwards each.
        products = 6 + iterations if schedule == "learned" else 1
        more = (3, 5 + 2 * products) if learns else (1, 2)
        self.cost = {"forward": 1, "backward": 1, "forward_epoch": more[0], "backward_epoch": more[1]}  # type: ignore[misc]
        self.stochastic = schedule == "learned"  # type: ignore[misc]  # power iteration starts from a drawn vector
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
        elif self.schedule == "released":
            self.current = min(1.0, max(0.0, released_alpha(run.epoch)))
        run.log("dynamic_gap/alpha", self.current)
        self._log_gradients(run)

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        if self.schedule == "constant" and self.current == 0.0:
            return terms
        if len(out.features) < 2:  # a pass that feeds a single modality has nothing to match
            return terms
        present = None if step.batch.present is None else step.kept(step.batch.present)
        features = {m: step.kept(z) for m, z in out.features.items()}
        unimodal = {m: step.kept(z) for m, z in out.unimodal.items()} if self.matching != "infonce" else {}
        match = self._match(self._matched(step.run, features, unimodal, present))
        step.scratch[self] = (terms["task"].detach(), match.detach())
        cls, mm = self._weights()
        return {**terms, "task": cls * terms["task"], "dynamic_gap/match": mm * match}

    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        if self in step.scratch:
            cls, mm = step.scratch.pop(self)
            step.run.log("dynamic_gap/l_cls", cls)
            step.run.log("dynamic_gap/l_mm", mm)

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        if self.schedule == "released_learned":
            self._released_update(run)
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

    def _weights(self) -> tuple[float, float]:
        """The factors on L_cls and L_mm."""
        if self.form == "additive":
            return 1.0, self.current
        scale = 2.0 if self.form == "released" else 1.0
        return scale * (1.0 - self.current), scale * self.current

    def _log_gradients(self, run: Run) -> None:
        """The norms of the gradients of both losses on one batch: where a branch's features are small, that of the
        matching loss can dwarf the other."""
        batch = next(iter(run.train("dynamic_gap/inner")))
        params = [p for p in run.model.parameters() if p.requires_grad]
        with torch.enable_grad():
            cls, mm = self._inner(batch.target, self._outputs(run, batch))
            if not mm.requires_grad:  # nothing to train, nothing to tell
                return
            norms = [float(torch.linalg.vector_norm(flat_grad(x, params))) for x in (cls, mm)]
        run.cost.backward += 2
        run.log("dynamic_gap/gradient_cls", norms[0])
        run.log("dynamic_gap/gradient_mm", norms[1])

    def _released_update(self, run: Run) -> None:
        """The step of the authors' second script: rate 1e-4, halved every 20 epochs, alpha kept in [0.05, 0.95]."""
        batch = self._upper_batch(run).map(lambda t: t[:8])
        params = [p for p in run.model.parameters() if p.requires_grad]
        with torch.enable_grad(), double_backward():
            cls, mm = self._inner(batch.target, self._outputs(run, batch))
            on_cls, on_mm = self._weights()
            surrogate = released_surrogate(on_cls * cls + on_mm * mm, cls, params)
        run.cost.backward += 4
        run.log("dynamic_gap/surrogate", surrogate)
        rate = 1e-4 * 0.5 ** (run.epoch // 20)
        self.current = min(0.95, max(0.05, self.current - rate * surrogate))
        self.n_updates += 1

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
        features = {m: run.gather(z) for m, z in features.items()}
        columns = None if columns is None else run.gather(columns)
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
            # The derivative of the inner gradient in alpha; the inner loss is linear in it.
            mixed = flat_grad(l_mm, params)
            if self.form != "additive":
                mixed = (mixed - flat_grad(l_cls, params)) * (2.0 if self.form == "released" else 1.0)

            def total(values: Sequence[Tensor]) -> Tensor:
                cls, mm = self._inner(inner.target, values)
                on_cls, on_mm = self._weights()
                return on_cls * cls + on_mm * mm

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

"""Dynamic gap: classification and matching of modalities, weighted against each other over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmzoo.api import BadValue, Batch, Incompatible, Outputs, Pass, Run, Step, Strategy, Terms
from mmzoo.bilevel import (
    Derivative,
    ForwardTangent,
    Hypergradient,
    Inner,
    Mixing,
    Solver,
    Upper,
    Warm,
    double_backward,
    flat_grad,
    frozen_statistics,
    full_precision,
    hessian_operator,
    implicit_gradient,
    scoped_parameters,
)
from mmzoo.functional import cosine_similarities, info_nce, jensen_shannon, kl_to_mean, same_class

Schedule = Literal["constant", "stepwise", "heuristic", "learned", "released", "released_learned"]
Form = Literal["paper", "additive", "released"]
Matching = Literal["infonce", "class", "kl_to_mean", "js"]
Solve = Literal["gauss_newton", "hessian", "neumann", "identity", "tangent"]


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


def released_surrogate(
    total: Tensor, cls: Tensor, params: Sequence[Tensor], reduce: Callable[[Tensor], Tensor] = lambda vector: vector
) -> float:
    """What the authors' second script steps along: the mean over the *first* parameter tensor of H_total grad L_cls.

    It is the derivative of nothing, and depends on the order of the parameters; it is here to show what that script
    does. No inverse, no mixed derivative. reduce: the mean of a vector (P,) over processes.
    """
    product = reduce(hessian_operator(total, params)(reduce(flat_grad(cls, params))))
    return float(product[: params[0].numel()].mean())


def released_step(alpha: float, surrogate: float, epoch: int) -> float:
    """alpha after an epoch of the authors' second script: rate 1e-4, halved every 20 epochs, kept in [0.05, 0.95]."""
    return min(0.95, max(0.05, alpha - 1e-4 * 0.5 ** (epoch // 20) * surrogate))


class DynamicGap(Strategy):
    """Trains on (1 - alpha) * L_cls + alpha * L_mm (Yang et al., NeurIPS 2024, eq. 1).

    L_cls is the cross-entropy of the joint logits, plus `unimodal` times the sum of those of each modality's own logits
    (ours; 0 in the paper), and L_mm a matching loss between modalities. matching="infonce" is
    the paper's: symmetric InfoNCE on cosine similarity over `temperature`, here the mean over unordered pairs, with
    small linear projections where widths differ. "class" is the same with every item of one class as a match, so that
    it does not push apart what the labels put together (ours). "kl_to_mean" is what the authors' code does on unimodal
    logits, "js" the Jensen-Shannon divergence that it is called. In several processes the negatives are those of all.

    form: "paper" as above. "additive" is L_cls + alpha * L_mm, which keeps the classification step at any alpha;
    (1 - alpha) also shrinks it, and a comparison that does not notice is confounded with the learning rate.
    "released" is twice the paper's form, as in the authors' code.

    schedule: "constant" keeps `alpha`; "stepwise" is h(alpha); "heuristic" is 1 - exp(-1 / t); "learned" starts at
    `alpha` and after each epoch moves against the derivative of the upper loss (eq. 3),
        h = -(d grad L / d alpha)^T (H + damping)^{-1} grad L_upper.
    solver: "gauss_newton" with conjugate gradients; "hessian" with MINRES, the paper's formula; "neumann", a series in
    the Gauss-Newton matrix; "identity", first order; or "tangent", which needs no inverse: the derivative of the
    weights in alpha is carried forward through the steps of the epoch as they were taken, batch statistics, momentum
    and weight decay included (no clipping, micro-batches, bf16, compiled encoders or fused optimizer; about three backwards
    a step). damping is relative to the
    largest eigenvalue; scope is "all" parameters, "heads", "last" (heads and the last layer of each encoder), or
    "pattern:REGEX" on their names; those outside count as constants, and no product passes through the layers below
    (with matching on features L_mm does not move a head, so that "heads" can hardly do anything but lower alpha);
    `batches` and `upper_batches` say how many of them
    a solve sees, and `items` how many items of each inner one at most. Of the inner problem it leaves out weight decay and the terms that other members
    of a chain add; the tangent does not.

    alpha is moved once an epoch, at its end, or after every `every` steps (the inner iterations of the paper's
    algorithm 1, which it does not number); the tangent then follows that many.

    The paper names no step size, and the size of h depends on solver and damping by orders of magnitude, so by default
    (`normalize`) the cosine between the two vectors takes the place of h. A change is at most `max_change`; alpha
    stays in [0, 1]; a solve that did not converge leaves alpha alone, and the record says so. "released" and
    "released_learned" are what the authors' two scripts do instead: a frozen polynomial, and a surrogate that is not a
    derivative, on eight items of the slice.

    upper: where the upper loss comes from. "slice" (default) holds labels that training does not see; "train" is how
    the paper reads, but at an inner optimum on the same data h cannot be negative, so that alpha only falls.

    Recorded each epoch: alpha, L_cls, L_mm, the norms of their gradients on one batch, and all that the solver tells.
    """

    owns = frozenset({"task"})
    min_modalities = 2
    state = ("current", "n_steps", "n_updates", "n_unusable", "warm")
    neutral = {"schedule": "constant", "alpha": 0.0, "form": "paper", "unimodal": 0.0}  # noqa: RUF012

    def __init__(
        self,
        *,
        schedule: Schedule = "heuristic",
        alpha: float = 0.5,
        form: Form = "paper",
        matching: Matching = "infonce",
        temperature: float = 0.5,
        floor: float = 1e-3,
        unimodal: float = 0.0,
        upper: Literal["slice", "train"] = "slice",
        eta: float = 0.1,
        max_change: float = 0.1,
        normalize: bool = True,
        solver: Solve = "gauss_newton",
        damping: float = 0.01,
        iterations: int = 10,
        scope: str = "all",
        batches: int = 1,
        items: int | None = None,
        upper_batches: int = 4,
        every: int | None = None,
    ) -> None:
        self.schedule = schedule
        self.alpha = alpha
        self.form = form
        self.matching = matching
        self.temperature = temperature
        self.floor = floor
        self.unimodal = unimodal
        self.upper = upper
        self.eta = eta
        self.max_change = max_change
        self.normalize = normalize
        self.solver = solver
        self.damping = damping
        self.iterations = iterations
        self.scope = scope
        self.batches = batches
        self.items = items
        self.upper_batches = upper_batches
        self.every = every
        self._declare()
        self.current = alpha
        self.n_steps = 0
        self.n_updates = 0
        self.n_unusable = 0
        self.warm: dict[str, Tensor] = {}
        self._tangent: ForwardTangent | None = None

    def _declare(self) -> None:
        """What the chosen schedule and solver need and cost."""
        learns = self.schedule in ("learned", "released_learned")
        tangent = self.schedule == "learned" and self.solver == "tangent"
        self._solves = self.schedule == "learned" and not tangent
        self._on_features = self.matching in ("infonce", "class")
        requires = set() if self._on_features and not self.unimodal else {"unimodal"}
        requires |= {"double_backward", "plain_steps"} if tangent else set()
        requires |= {"slice"} if learns and self.upper == "slice" else set()
        self.requires = frozenset(requires)  # type: ignore[misc]
        if tangent:
            self.owns = frozenset({"task", "backward"})  # type: ignore[misc]
        # A solve takes a gradient of each upper batch, and for each inner one those of both losses, one for the matrix,
        # and two backwards a product, of which power iteration makes six at first. What does not solve takes the
        # gradients of both losses on one batch an epoch for the record. Declared are backwards over the whole model;
        # a run counts those of a scope by their share.
        products = 0 if self.solver == "identity" else 6 + self.iterations + 1
        spent = 2 if self.solver == "identity" else 3 + 2 * products
        record = (0, 0) if self._solves else (1, 2)
        solve = {
            "learned": (self.batches + self.upper_batches, self.upper_batches + self.batches * spent),
            "released_learned": (1, 4),
        }.get(self.schedule, (0, 0))
        if tangent:
            solve = (self.upper_batches, self.upper_batches)
        step = {"forward": 1.0, "backward": 3.0 if tangent else 1.0}
        if self.every is not None and self.schedule == "learned":
            step = {
                "forward": step["forward"] + solve[0] / self.every,
                "backward": step["backward"] + solve[1] / self.every,
            }
            solve = (0, 0)
        epoch = {"forward_epoch": record[0] + solve[0], "backward_epoch": record[1] + solve[1]}
        self.cost = {**step, **epoch}  # type: ignore[misc]
        self.stochastic = self.schedule == "learned"  # type: ignore[misc]  # batches and power iteration are drawn

    def setup(self, run: Run) -> None:
        self._dims = dict(run.model.head.dims)
        if self._solves:
            try:
                scoped_parameters(run.model, self.scope)
            except BadValue as error:
                raise Incompatible(str(error)) from error
        if self._on_features and len(set(self._dims.values())) > 1:
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
        if not self._solves:  # a solve tells them for nothing
            self._log_gradients(run)
        if "backward" in self.owns:
            if self._tangent is None:  # there is no optimizer yet in setup
                self._tangent = ForwardTangent(
                    run.optimizer, run.model, reduce=run.reduce if run.n_processes > 1 else None
                )
            self._tangent.reset()

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        if self.schedule == "constant" and self._mixing().factors == (1.0, 0.0) and not self.unimodal:
            return terms
        if len(out.features) < 2:  # a pass that feeds a single modality has nothing to match
            return terms
        match = self._match(step, self._matched(step, out), tuple(out.features))
        task = terms["task"]
        if self.unimodal:
            own = {m: step.kept(z) for m, z in out.unimodal.items()}
            task = task + self.unimodal * self._own_loss(step, own)
        step.scratch[self] = (task, match)
        cls, mm = self._mixing().factors
        return {**terms, "task": cls * task, "dynamic_gap/match": mm * match}

    def backward(self, step: Step, terms: Terms) -> None:
        if self._tangent is None or self not in step.scratch:
            return super().backward(step, terms)
        loss = sum(terms.values(), torch.zeros((), device=step.run.device))
        self._tangent.backward_of(loss, self._mixing().slope(*step.scratch[self]))
        step.run.cost.backward += 3

    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        if self not in step.scratch:
            return
        cls, mm = step.scratch.pop(self)
        step.run.log("dynamic_gap/l_cls", cls)
        step.run.log("dynamic_gap/l_mm", mm)
        if self._tangent is not None:
            self._tangent.stepped()
        self.n_steps += 1
        if self.schedule == "learned" and self.every is not None and self.n_steps % self.every == 0:
            self._learn(step.run)
            step.run.log("dynamic_gap/alpha", self.current)
            if self._tangent is not None:
                self._tangent.reset()

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        if self.schedule == "released_learned":
            self._released_update(run)
        if self.schedule == "learned" and self.every is None:
            self._learn(run)
        if self._tangent is not None:
            self._tangent.close()  # nothing is watched until the next epoch in which this strategy acts

    def _learn(self, run: Run) -> None:
        found = self._implicit(run) if self._tangent is None else self._forward(run, self._tangent)
        for name, value in (("hypergradient", found.value), ("direction", found.direction)):
            if math.isfinite(value):
                run.log(f"dynamic_gap/{name}", value)
        run.log("dynamic_gap/usable", float(found.usable))
        self._move(run, found)

    def _move(self, run: Run, found: Hypergradient | Derivative) -> None:
        self.n_updates += 1
        if not found.usable:
            self.n_unusable += 1
            run.warn("the solve for alpha did not converge, and alpha was left alone")
            return
        change = self.eta * (found.direction if self.normalize else found.value)
        change = min(self.max_change, max(-self.max_change, change))
        self.current = min(1.0, max(0.0, self.current - change))

    def _mixing(self) -> Mixing:
        """The factors on L_cls and L_mm, and their slopes in alpha."""
        if self.form == "additive":
            return Mixing.additive(self.current)
        paper = Mixing.of(self.current)
        if self.form == "paper":
            return paper
        return Mixing((2 * paper.factors[0], 2 * paper.factors[1]), (2 * paper.slopes[0], 2 * paper.slopes[1]))

    def _log_gradients(self, run: Run) -> None:
        """The norms of the gradients of both losses on one batch: where a branch's features are small, that of the
        matching loss can dwarf the other."""
        batch = self._some(run, next(iter(run.train("dynamic_gap/inner"))))
        params = [p for p in run.model.parameters() if p.requires_grad]
        with torch.enable_grad():
            cls, mm = self._both(run, batch)
            if not mm.requires_grad:  # nothing to train, nothing to tell
                return
            norms = [float(torch.linalg.vector_norm(run.reduce(flat_grad(x, params)))) for x in (cls, mm)]
        run.cost.backward += 2
        self._log_norms(run, norms)

    @staticmethod
    def _log_norms(run: Run, norms: Sequence[float]) -> None:
        cls, mm = norms
        run.log("dynamic_gap/gradient_cls", cls)
        run.log("dynamic_gap/gradient_mm", mm)
        if cls > 0 and math.isfinite(mm / cls):
            run.log("dynamic_gap/gradient_ratio", mm / cls)

    def _released_update(self, run: Run) -> None:
        """One step of the authors' second script, on eight items of the slice."""
        batch = self._upper_batches(run)[0].map(lambda t: t[: -(-8 // run.n_processes)])
        params = [p for p in run.model.parameters() if p.requires_grad]
        with torch.enable_grad(), double_backward(), full_precision(run.device):
            cls, mm = self._both(run, batch)
            surrogate = released_surrogate(self._mixing().total(cls, mm), cls, params, run.reduce)
        run.cost.backward += 4
        run.log("dynamic_gap/surrogate", surrogate)
        self.current = released_step(self.current, surrogate, run.epoch)
        self.n_updates += 1

    def _matched(self, step: Step, out: Outputs) -> list[Tensor]:
        """What the matching loss is a function of: similarity matrices over the items of all processes, or each modality's
        own logits."""
        if not self._on_features:
            return [step.kept(z) for z in out.unimodal.values()]
        features: Mapping[str, Tensor] = out.features
        if "dynamic_gap" in step.run.model.extra:
            project: Any = step.run.model.extra["dynamic_gap"]
            features = {m: project[m](z) for m, z in features.items()}
        columns = self._columns(step, tuple(features))
        gathered = {m: step.run.gather(z) for m, z in features.items()}
        return cosine_similarities(gathered, self.temperature, columns, self.floor)

    @staticmethod
    def _columns(step: Step, modalities: Sequence[str]) -> Tensor | None:
        """Which items of all processes are in the loss and have each of some modalities, (items, modalities) bool; None
        where all are and have. Whole batches, since all processes must hold as many rows."""
        present, keep = step.batch.present, step.keep
        if present is None and keep is None:
            return None
        every = torch.ones(len(step.batch), len(modalities), dtype=torch.bool, device=step.run.device)
        there = every if present is None else present[:, [step.run.modalities.index(m) for m in modalities]]
        return step.run.gather(there if keep is None else there & keep[:, None])

    def _match(self, step: Step, matched: Sequence[Tensor], modalities: Sequence[str]) -> Tensor:
        """L_mm of some modalities. With matching="class" an item matches all of its class, else itself."""
        if self._on_features:
            same = self.matching == "class"
            target = step.run.gather(step.batch.target) if same else None
            return info_nce(matched, None if target is None else same_class(target, self._columns(step, modalities)))
        columns = [step.here(m) for m in modalities]
        complete = None if columns[0] is None else torch.stack([c for c in columns if c is not None]).all(0)
        return step.mean((kl_to_mean if self.matching == "kl_to_mean" else jensen_shannon)(matched), complete)

    @staticmethod
    def _own_loss(step: Step, own: Mapping[str, Tensor]) -> Tensor:
        """The sum of each modality's own classification loss, over the items that have it."""
        return torch.stack([step.loss(z, step.here(m)) for m, z in own.items()]).sum()

    def _outputs(self, step: Step) -> list[Tensor]:
        """What both losses are functions of, from a forward in eval mode."""
        out = step.run.forward(step.batch, mode="eval")
        own = [step.kept(out.unimodal[m]) for m in step.run.modalities] if self.unimodal else []
        return [step.kept(out.logits), *own, *self._matched(step, out)]

    def _inner(self, step: Step, outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """L_cls and L_mm as functions of what the model gives."""
        modalities = step.run.modalities
        logits, *matched = outputs
        task = step.loss(logits)
        if self.unimodal:
            own, matched = dict(zip(modalities, matched)), matched[len(modalities) :]
            task = task + self.unimodal * self._own_loss(step, own)
        return task, self._match(step, matched, modalities)

    def _both(self, run: Run, batch: Batch) -> tuple[Tensor, Tensor]:
        """L_cls and L_mm of a batch, in eval mode."""
        step = _joint(run, batch)
        return self._inner(step, self._outputs(step))

    def _implicit(self, run: Run) -> Hypergradient:
        """Equation 3 on batches drawn anew each epoch, starting from where the last solve ended."""
        inner = [self._some(run, batch) for batch in islice(run.train(self._stream("inner")), self.batches)]
        curvature = self.solver if self.solver in ("hessian", "identity") else "gauss_newton"
        method: Literal["neumann"] | None = "neumann" if self.solver == "neumann" else None
        with frozen_statistics(run.model):
            found = implicit_gradient(
                [partial(self._inner_piece, run, batch) for batch in inner],
                [partial(self._upper_piece, run, batch) for batch in self._upper_batches(run)],
                run.model,
                self._mixing(),
                warm=Warm(**self.warm) if self.warm else None,
                solver=Solver(curvature, method, self.damping, self.iterations, scope=self.scope),
                generator=run.generator("dynamic_gap/power"),
                reduce=run.reduce,
            )
        run.cost.backward += found.backwards * self._share(run, found)
        self._log_norms(run, found.norms)
        self.warm = (
            {} if found.warm is None else {k: v.detach().clone() for k, v in vars(found.warm).items() if v is not None}
        )
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
        return found

    @staticmethod
    def _share(run: Run, found: Hypergradient) -> float:
        """What a backward through the scope counts of one through the whole model: its share of the parameters, which
        is more than its share of the work where late layers are narrow in space and wide in channels."""
        return found.solution.x.numel() / sum(p.numel() for p in run.model.parameters() if p.requires_grad)

    def _forward(self, run: Run, tangent: ForwardTangent) -> Derivative:
        """The derivative along the steps of this epoch."""
        batches = self._upper_batches(run)

        def upper() -> Tensor:
            pieces = [self._upper_piece(run, batch) for batch in batches]
            total = sum(p.weight for p in pieces)
            return torch.stack([p.loss * (p.weight / total) for p in pieces]).sum()

        found = tangent.derivative(upper)
        run.cost.backward += len(batches)
        run.log("dynamic_gap/horizon", found.horizon)
        return found

    def _inner_piece(self, run: Run, batch: Batch) -> Inner:
        step = _joint(run, batch)
        return Inner(self._outputs(step), partial(self._inner, step), len(batch))

    def _upper_piece(self, run: Run, batch: Batch) -> Upper:
        step = _joint(run, batch)
        return Upper(step.loss(step.kept(run.forward(batch, mode="eval").logits)), len(batch))

    def _stream(self, level: str) -> str:
        """The name of a stream of batches: each solve of an epoch has its own."""
        return f"dynamic_gap/{level}" + ("" if self.every is None else f"/{self.n_updates}")

    def _some(self, run: Run, batch: Batch) -> Batch:
        """The items of an inner batch that a solve sees: as many from every process."""
        if self.items is None:
            return batch
        share = -(-self.items // run.n_processes)
        return batch.map(lambda t: t[:share])

    def _upper_batches(self, run: Run) -> list[Batch]:
        """Batches of the training data or of the slice, drawn anew each epoch."""
        if self.upper == "train":
            return list(islice(run.train(self._stream("upper")), self.upper_batches))
        held = list(islice(run.strategy_holdout(self._stream("upper")), self.upper_batches))
        if not held:
            raise Incompatible("the slice is empty: a learned alpha has nothing to learn from.")
        return held


def _joint(run: Run, batch: Batch) -> Step:
    """A batch in a pass that feeds all modalities, apart from training."""
    return Step(run, batch).at(Pass())

"""The strategy that trains on both losses, weighted by an alpha that a learner changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mmzoo.api import Outputs, Run, Step, Strategy, Terms
from mmzoo.bilevel import flat_grad
from mmzoo.strategies.dynamic_gap.forward import Forward
from mmzoo.strategies.dynamic_gap.implicit import Implicit
from mmzoo.strategies.dynamic_gap.learners import Constant, Heuristic, Learner, Linear, StepRule, Stepwise, record_norms
from mmzoo.strategies.dynamic_gap.losses import GapLoss, first_items
from mmzoo.strategies.dynamic_gap.released import ReleasedPolynomial, ReleasedSurrogate
from mmzoo.strategies.dynamic_gap.settings import (
    LossSettings,
    Schedule,
    SolveSettings,
    StepSettings,
    UpperSettings,
    pick,
    takes_fields_of,
)


def learner_of(schedule: Schedule, alpha: float, loss: GapLoss, settings: Mapping[str, Any]) -> Learner:
    """The learner that a schedule names.

    Args:
        schedule: how alpha changes.
        alpha: the constant, p of "stepwise", or the start of "linear" and of a learned one.
        loss: the two losses that alpha weighs.
        settings: all parameters of step, upper level and solve by name.
    """
    step, upper = StepRule(pick(StepSettings, settings)), pick(UpperSettings, settings)
    solve = pick(SolveSettings, settings)
    makers: Mapping[Schedule, Callable[[], Learner]] = {
        "constant": Constant,
        "stepwise": lambda: Stepwise(alpha),
        "linear": lambda: Linear(alpha),
        "heuristic": Heuristic,
        "learned": lambda: (
            Forward(loss, step, upper) if solve.solver == "tangent" else Implicit(loss, step, upper, solve)
        ),
        "released": ReleasedPolynomial,
        "released_learned": lambda: ReleasedSurrogate(loss, upper),
    }
    return makers[schedule]()


class DynamicGap(Strategy):
    """Trains on (1 - alpha) * L_cls + alpha * L_mm (Yang et al., NeurIPS 2024, eq. 1).

    L_cls is the cross-entropy of the joint logits, and L_mm a matching loss between modalities. Recorded each epoch:
    alpha, L_cls, L_mm, the norms of their gradients on one batch, and the values that the learner of alpha reports.

    Differs from the paper, which gives no step size: the size of the derivative depends on solver and damping by orders
    of magnitude, so by default the cosine between the two vectors replaces it (`normalize`), and changes are bounded
    (`max_change`). The paper takes the upper loss from the training data, where the derivative cannot be negative at an
    inner optimum, so that alpha only decreases; by default we use the meta set, labels that training does not see. A
    solve that did not converge leaves alpha unchanged, and the record says so.

    Args:
        schedule: "constant" keeps `alpha`; "stepwise" is alpha in the first half of the run and 1 - alpha afterwards;
            "linear" decreases from alpha in the first epoch to 0 in the last; "heuristic" (default) is 1 - exp(-1 / t);
            "learned" starts at `alpha` and moves against the derivative of the upper loss (eq. 3), h = -(d grad L / d
            alpha)^T (H + damping)^{-1} grad L_upper; "released" and "released_learned" follow the authors' two scripts
            (`dynamic_gap.released`).
        alpha: the constant, p of "stepwise", or the start of "linear" and of a learned alpha.
        form: "paper" as above; "additive" is L_cls + alpha * L_mm, which keeps the classification step at any alpha;
            "released" is twice the paper's form, as in the authors' code. (1 - alpha) also shrinks the classification
            step: a comparison that ignores this is confounded with the learning rate.
        matching: "infonce" is the paper's, symmetric InfoNCE on cosine similarity over `temperature`; the mean over
            unordered pairs, and linear projections for different widths, are ours. "class" (ours): the same with every
            sample of one class as a match, so that it does not separate samples of the same class. "kl_to_mean": the
            loss of the authors' code, on unimodal logits; "js": the Jensen-Shannon divergence that they call it. With
            several processes the negatives come from all of them.
        temperature: temperature of the similarities.
        floor: norm below which a feature is not scaled up, which bounds the gradient.
        unimodal: factor on the sum of the cross-entropies of each modality's own logits in L_cls (ours; 0 in the
            paper).
        upper: source of the upper loss, "slice" (the meta set) or "train".
        upper_batches: batches of the upper level per update.
        every: steps between two updates, the inner iterations of the paper's algorithm 1, which gives no number; None:
            one update at the end of each epoch.
        step: "eta" steps by eta times the derivative. "rms" steps by the derivative over its running root mean square,
            times `travel` over the number of updates in the run.
        travel: how far "rms" moves alpha in a run in which the derivative keeps its sign.
        eta: step size of alpha.
        max_change: largest change of alpha in one update.
        normalize: step along the cosine instead of the raw derivative.
        solver: "gauss_newton" with conjugate gradients; "hessian" with MINRES, the paper's formula; "neumann", a series
            in the Gauss-Newton matrix; "identity", first order; "tangent", forward mode through the steps as taken,
            batch statistics, momentum and weight decay included (without clipping, micro-batches, bf16, compiled
            encoders or fused optimizer; about three backwards per step). The others leave weight decay and the terms of
            other members of a chain out of the inner problem.
        damping: added to the diagonal, relative to the largest eigenvalue.
        fallback: damping of a second solve where the first is not usable, if larger than `damping`; None: no second one.
        iterations: largest number of products with the curvature in a solve.
        scope: the parameters that a solve covers: "all", "heads", "last" (heads and the last layer of each encoder) or
            "pattern:REGEX" on their names; the others count as constants. Matching on features does not depend on the
            head, so that "heads" can hardly do anything but lower alpha.
        batches: batches of the inner problem per solve.
        items: largest number of samples in each of them; None: all.
    """

    owns = frozenset({"task"})
    min_modalities = 2
    state = ("current", "n_steps")
    neutral = {"schedule": "constant", "alpha": 0.0, "form": "paper", "unimodal": 0.0}  # noqa: RUF012
    items: int | None

    @takes_fields_of(LossSettings, StepSettings, UpperSettings, SolveSettings)
    def __init__(self, *, schedule: Schedule = "heuristic", alpha: float = 0.5, **settings: Any) -> None:
        self.schedule: Schedule = schedule
        self.alpha = alpha
        vars(self).update(settings)  # parameters are attributes of the same name
        self.loss = GapLoss(pick(LossSettings, settings))
        self.learner = learner_of(schedule, alpha, self.loss, settings)
        self.current = alpha
        self.n_steps = 0
        self._declare()

    def _declare(self) -> None:
        """What losses and learner ask for and cost."""
        learner = self.learner
        self.requires = self.loss.requires | learner.requires
        self.owns = type(self).owns | learner.owns
        self.stochastic = learner.stochastic
        record = (0, 0) if learner.records_gradients else (1, 2)
        a_step, an_epoch = learner.step_cost, learner.update_cost
        if learner.every is not None:
            a_step = (a_step[0] + an_epoch[0] / learner.every, a_step[1] + an_epoch[1] / learner.every)
            an_epoch = (0, 0)
        self.cost = {
            "forward": a_step[0],
            "backward": a_step[1],
            "forward_epoch": record[0] + an_epoch[0],
            "backward_epoch": record[1] + an_epoch[1],
        }

    def setup(self, run: Run) -> None:
        self.learner.setup(run)
        self.loss.setup(run)

    def epoch_start(self, run: Run) -> None:
        self.current = self.learner.epoch_start(run, self.current)
        run.log("dynamic_gap/alpha", self.current)
        if not self.learner.records_gradients:
            self._record_gradients(run)
        self.learner.watch(run)

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        cls, mm = self.loss.mixing(self.current).factors
        if self.schedule == "constant" and (cls, mm) == (1.0, 0.0) and not self.loss.settings.unimodal:
            return terms
        if len(out.features) < 2:  # a pass that feeds a single modality has nothing to match
            return terms
        task, match = self.loss.of_step(step, out, terms["task"])
        step.scratch[self] = (task, match)
        return {**terms, "task": cls * task, "dynamic_gap/match": mm * match}

    def backward(self, step: Step, terms: Terms) -> None:
        if "backward" not in self.owns or self not in step.scratch:
            return super().backward(step, terms)
        loss = sum(terms.values(), torch.zeros((), device=step.run.device))
        self.learner.backward(step, loss, self.loss.mixing(self.current).slope(*step.scratch[self]))

    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        if self not in step.scratch:
            return
        cls, mm = step.scratch.pop(self)
        step.run.log("dynamic_gap/l_cls", cls)
        step.run.log("dynamic_gap/l_mm", mm)
        self.learner.stepped()
        self.n_steps += 1
        if self.learner.every is not None and self.n_steps % self.learner.every == 0:
            self.current = self.learner.update(step.run, self.current)
            step.run.log("dynamic_gap/alpha", self.current)
            self.learner.watch(step.run)

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        if self.learner.every is None:
            self.current = self.learner.update(run, self.current)
        self.learner.close()

    def _record_gradients(self, run: Run) -> None:
        """The norms of the gradients of both losses on one batch: where a branch's features are small, that of the
        matching loss can dwarf the other."""
        batch = first_items(run, next(iter(run.train("dynamic_gap/inner"))), self.items)
        params = [p for p in run.model.parameters() if p.requires_grad]
        with torch.enable_grad():
            losses = self.loss.of_batch(run, batch)
            if not losses[1].requires_grad:  # nothing to train
                return
            cls, mm = (self._norm(run, x, params) for x in losses)
        run.cost.backward += 2
        record_norms(run, cls, mm)

    @staticmethod
    def _norm(run: Run, loss: Tensor, params: list[Any]) -> float:
        return float(torch.linalg.vector_norm(run.reduce(flat_grad(loss, params))))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **self.learner.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict({k: v for k, v in state.items() if k in self.state})
        self.learner.load_state_dict({k: v for k, v in state.items() if k not in self.state})

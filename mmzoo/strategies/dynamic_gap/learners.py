"""How alpha changes: the base of all learners, the fixed schedules, and the base of every learned alpha."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from itertools import islice
from typing import Any

from torch import Tensor

from mmzoo.api import BadValue, Batch, Incompatible, Run, Step
from mmzoo.bilevel import Derivative, Hypergradient, Upper
from mmzoo.strategies.dynamic_gap.losses import GapLoss, joint
from mmzoo.strategies.dynamic_gap.settings import StepSettings, UpperSettings


def heuristic(t: int) -> float:
    """alpha in epoch t, counted from 1: 1 - exp(-1 / t) (Yang et al., NeurIPS 2024)."""
    return 1.0 - math.exp(-1.0 / t)


def stepwise(p: float, epoch: int, n_epochs: int) -> float:
    """alpha in `epoch`, counted from 0: p in the first half of the run, 1 - p afterwards (h(p) of the paper).

    Args:
        p: alpha in the first half.
        epoch: the epoch, from 0.
        n_epochs: length of the run.
    """
    return p if epoch < n_epochs / 2 else 1.0 - p


class Learner:
    """How alpha changes over a run. This base class leaves it constant.

    `DynamicGap` calls `epoch_start`, then in each step `backward` and `stepped`, and `update` at the end of an epoch or
    after every `every` steps. `warm` holds a learner's memory, name -> tensor, and is stored in checkpoints.
    """

    #: what the learner asks for and replaces, as `Strategy.requires` and `Strategy.owns` say it
    requires: frozenset[str] = frozenset()
    owns: frozenset[str] = frozenset()
    #: whether it draws random numbers
    stochastic: bool = False
    #: whether `update` records the norms of both gradients itself
    records_gradients: bool = False
    #: forwards and backwards of a step, and of an update
    step_cost: tuple[float, float] = (1.0, 1.0)
    update_cost: tuple[float, float] = (0.0, 0.0)
    #: steps between two updates; None: one update, at the end of an epoch
    every: int | None = None

    def __init__(self) -> None:
        self.n_updates = 0
        self.n_unusable = 0
        self.warm: dict[str, Tensor] = {}

    def setup(self, run: Run) -> None:
        """Called before training. Raises Incompatible if alpha cannot be learned in this run."""

    def epoch_start(self, run: Run, alpha: float) -> float:
        """The alpha that an epoch starts with."""
        return alpha

    def watch(self, run: Run) -> None:
        """Follow the steps from here on; called at the start of an epoch and after each update within it."""

    def backward(self, step: Step, loss: Tensor, slope: Tensor) -> None:
        """The backward of a step, where `owns` holds "backward".

        Args:
            step: the training pass.
            loss: the sum of all loss terms.
            slope: the derivative of the loss in alpha at fixed parameters.
        """
        step.run.backward(loss)

    def stepped(self) -> None:
        """Called after each optimizer step."""

    def update(self, run: Run, alpha: float) -> float:
        """The next alpha."""
        return alpha

    def close(self) -> None:
        """Stop following the steps: the epoch has ended."""

    def state_dict(self) -> dict[str, Any]:
        return {"n_updates": self.n_updates, "n_unusable": self.n_unusable, "warm": copy.deepcopy(self.warm)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises BadValue when the keys are not those of `state_dict`."""
        if set(state) != set(self.state_dict()):
            raise BadValue(f"state of a learner of alpha has {sorted(state)}; expected {sorted(self.state_dict())}.")
        self.n_updates, self.n_unusable = state["n_updates"], state["n_unusable"]
        self.warm = copy.deepcopy(dict(state["warm"]))


class Constant(Learner):
    """A constant alpha."""


class Stepwise(Learner):
    """p in the first half of the run, 1 - p afterwards (h(p) of the paper).

    Args:
        p: alpha in the first half.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def epoch_start(self, run: Run, alpha: float) -> float:
        return stepwise(self.p, run.epoch, run.n_epochs)


class Heuristic(Learner):
    """alpha_t = 1 - exp(-1 / t) in epoch t, counted from 1."""

    def epoch_start(self, run: Run, alpha: float) -> float:
        return heuristic(run.epoch + 1)


class Linear(Learner):
    """alpha decreases linearly from p in the first epoch to 0 in the last: a control for every learned decrease.

    Args:
        p: alpha in the first epoch.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def epoch_start(self, run: Run, alpha: float) -> float:
        return self.p * (1.0 - run.epoch / max(1, run.n_epochs - 1))


class StepRule:
    """How a derivative h changes alpha, by at most `max_change`, within [0, 1].

    step="eta": by eta times h, or times its direction. step="rms": by h over its running root mean square (decay 0.9,
    bias corrected as in Adam), times travel / updates: if the derivative keeps its sign, alpha changes by about
    `travel` in the run, for any number of parameters and length of the run.

    Args:
        settings: step, travel, eta, max_change and normalize, as `DynamicGap` takes them.
    """

    DECAY = 0.9

    def __init__(self, settings: StepSettings) -> None:
        self.settings = settings
        #: steps so far, and the decayed mean of the squares; used by "rms" alone
        self.seen: tuple[int, float] = (0, 0.0)

    def __call__(self, alpha: float, found: Hypergradient | Derivative, updates: int) -> float:
        """The alpha after a step against the derivative. updates: how many there are in the whole run."""
        s = self.settings
        if s.step == "rms":
            change = s.travel / updates * self._scaled(found.value)
        else:
            change = s.eta * (found.direction if s.normalize else found.value)
        change = min(s.max_change, max(-s.max_change, change))
        return min(1.0, max(0.0, alpha - change))

    def _scaled(self, value: float) -> float:
        """The value over its running root mean square, itself included."""
        n, mean = self.seen[0] + 1, self.DECAY * self.seen[1] + (1 - self.DECAY) * value**2
        self.seen = (n, mean)
        size = math.sqrt(mean / (1 - self.DECAY**n))
        return value / size if size > 0 else 0.0


class Learned(Learner, ABC):
    """A learned alpha, which moves against the derivative of the upper loss that `derivative` computes.

    Args:
        loss: the two inner losses.
        step: how a derivative changes alpha.
        upper: where the upper loss comes from, and how often alpha is updated.
    """

    stochastic = True  # the batches of both levels are drawn

    def __init__(self, loss: GapLoss, step: StepRule, upper: UpperSettings) -> None:
        super().__init__()
        self.loss, self.step, self.upper = loss, step, upper
        self.every = upper.every
        self.requires = frozenset({"slice"} if upper.upper == "slice" else ())

    @abstractmethod
    def derivative(self, run: Run, alpha: float) -> Hypergradient | Derivative:
        """d L_upper / d alpha at the present weights."""

    def update(self, run: Run, alpha: float) -> float:
        found = self.derivative(run, alpha)
        for name, value in (("hypergradient", found.value), ("direction", found.direction)):
            if math.isfinite(value):
                run.log(f"dynamic_gap/{name}", value)
        run.log("dynamic_gap/usable", float(found.usable))
        self.n_updates += 1
        if not found.usable:
            self.n_unusable += 1
            run.warn("the solve for alpha did not converge: alpha is unchanged")
            return alpha
        per_run = run.n_epochs if self.every is None else max(1, run.n_epochs * run.steps_per_epoch // self.every)
        return self.step(alpha, found, per_run)

    def state_dict(self) -> dict[str, Any]:
        own = {"step": list(self.step.seen)} if self.step.settings.step == "rms" else {}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if "step" in state:
            self.step.seen = (int(state["step"][0]), float(state["step"][1]))

    def stream(self, level: str) -> str:
        """The name of a random stream of batches; each update of an epoch has its own."""
        return f"dynamic_gap/{level}" + ("" if self.every is None else f"/{self.n_updates}")

    def batches(self, run: Run) -> list[Batch]:
        """The batches of the upper level, newly drawn for each update."""
        return upper_batches(run, self.upper, self.stream("upper"))

    @staticmethod
    def upper_loss(run: Run, batch: Batch) -> Upper:
        """The upper loss of one batch: the cross-entropy of the joint logits, in eval mode."""
        step = joint(run, batch)
        return Upper(step.loss(step.kept(run.forward(batch, mode="eval").logits)), len(batch))


def upper_batches(run: Run, settings: UpperSettings, name: str) -> list[Batch]:
    """Batches of the training data or of the meta set.

    Args:
        run: the run.
        settings: which of the two, and how many.
        name: name of the random stream that orders them.

    Raises:
        Incompatible: the meta set is empty.
    """
    if settings.upper == "train":
        return list(islice(run.train(name), settings.upper_batches))
    held = list(islice(run.meta_batches(name), settings.upper_batches))
    if not held:
        raise Incompatible("the meta set is empty: a learned alpha has nothing to learn from.")
    return held


def record_norms(run: Run, cls: float, mm: float) -> None:
    """Log the norms of the gradients of L_cls and L_mm, and their ratio where it is finite."""
    run.log("dynamic_gap/gradient_cls", cls)
    run.log("dynamic_gap/gradient_mm", mm)
    if cls > 0 and math.isfinite(mm / cls):
        run.log("dynamic_gap/gradient_ratio", mm / cls)

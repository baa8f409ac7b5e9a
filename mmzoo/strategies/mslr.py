"""Learning rates per modality (MSLR): kept from unimodal training, scaled together, or adapted on the meta set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F

from mmzoo.api import Incompatible, Pass, Run, Step, Strategy

#: a compounded factor stays within these bounds: an accuracy of zero would otherwise end a modality's training for good
BOUNDS = (1e-3, 1e3)


def ratio(before: Sequence[float], accuracy: float, memory: int = 5, include_current: bool = False) -> float | None:
    """An epoch's accuracy over the mean of the `memory` accuracies before it; None while there are fewer.

    Args:
        before: earlier accuracies, oldest first.
        accuracy: that of the epoch.
        memory: how many are averaged.
        include_current: average the last `memory` accuracies with this one among them. The ratio is 1 for a mean of
            zero.
    """
    recent = [*before, accuracy][-memory:] if include_current else before[-memory:]
    if len(recent) < memory:
        return None
    mean = math.fsum(recent) / memory
    return accuracy / mean if mean > 0 else 1.0


def grid(points: int, span: float) -> list[float]:
    """`points` factors from 1 / span to span, equally spaced in their logarithm, those nearest to 1 first."""
    steps = [(2 * i - points + 1) / max(1, points - 1) for i in range(points)]
    return [span**x for x in sorted(steps, key=abs)]


class MSLR(Strategy):
    """Scales the learning rate of each modality (MSLR, Yao and Mihalcea, Findings of ACL 2022).

    The scheduled rate of a modality's encoder and of its part of the head is multiplied by a factor: the rate, never
    the gradient, which would be the same for plain SGD only. The paper's formula for "smart" could not be verified.
    Within a fork the factors are constant.

    Args:
        mode: "keep": the factor c_u, the best for modality u by itself. "smart": c_u s, one s for all modalities,
            searched over the same grid with copies of the joint model (ours). "dynamic" (default): c_u q_u; after each
            epoch q_u is the accuracy of the modality's own logits on the meta set over the mean of the `memory` epochs
            before, 1 until there are that many; it applies from the next epoch on. This is the rule of the authors of
            AGM (ICCV 2023).
        factors: modality -> c_u, relative to the run's rate; 1 for names left out. None: 1 for "dynamic"; otherwise
            each modality is trained by itself on copies, with the rates of a grid, and the one with the highest
            accuracy on the meta set is used; ties go to the lower loss, then to the rate nearest to the run's.
        scope: "branch": encoder and part of the head; "encoder": the encoder only.
        memory: epochs that are averaged; 5 in both public forms.
        period: epochs between two updates of "dynamic". The second public form is period=5 with include_current,
            compound and scope="encoder".
        include_current: average the present accuracy too.
        compound: multiply the present rate instead of the initial one.
        points: rates in the grid.
        span: the grid extends from 1 / span to span.
        trial: length of a trial, as a fraction of the run.

    Raises:
        Incompatible: `factors` has a name that is no modality.
    """

    requires = frozenset({"unimodal", "slice"})
    min_modalities = 2
    neutral = {"mode": "keep", "factors": {}}  # noqa: RUF012
    state = ("found", "shared", "accuracies", "ratios", "measured")
    cost = {"forward": 1, "backward": 1, "slice": 1}  # noqa: RUF012

    def __init__(
        self,
        *,
        mode: Literal["dynamic", "keep", "smart"] = "dynamic",
        factors: Mapping[str, float] | None = None,
        scope: Literal["branch", "encoder"] = "branch",
        memory: int = 5,
        period: int = 1,
        include_current: bool = False,
        compound: bool = False,
        points: int = 5,
        span: float = 10.0,
        trial: float = 0.25,
    ) -> None:
        self.mode = mode
        self.factors = factors
        self.scope = scope
        self.memory = memory
        self.period = period
        self.include_current = include_current
        self.compound = compound
        self.points = points
        self.span = span
        self.trial = trial
        self._declare()
        self.found: dict[str, float] = {}
        self.shared = 0.0
        self.accuracies: dict[str, list[float]] = {}
        self.ratios: dict[str, float] = {}
        self.measured = 0

    def _declare(self) -> None:
        """What the chosen mode needs and costs. All modalities alone are together one forward, like the joint model."""
        if self.mode == "dynamic":
            return
        searches = (self.factors is None) + (self.mode == "smart")
        self.requires = frozenset({"slice"} if searches else ())
        passes = 1 + searches * self.points * self.trial
        scored = {"slice_run": searches * self.points} if searches else {}
        self.cost = {"forward": passes, "backward": passes, **scored}

    def setup(self, run: Run) -> None:
        if unknown := sorted(set(self.factors or {}) - set(run.modalities)):
            raise Incompatible(
                f"MSLR has factors for {', '.join(unknown)}; the modalities here are {', '.join(run.modalities)}. "
                "Name those in factors: {...: 0.5}."
            )

    def factor(self, modality: str) -> float:
        """The present factor on a modality's learning rate."""
        given = self.found if self.factors is None else self.factors
        factor = given.get(modality, 1.0)
        if self.mode == "dynamic":
            return factor * self.ratios.get(modality, 1.0)
        return factor * self.shared if self.mode == "smart" and self.shared else factor

    def epoch_start(self, run: Run) -> None:
        if self.mode != "dynamic" and not run.forked:
            self._search(run)
        for m in run.modalities:
            self._set(run, m, self.factor(m))
            run.log(f"mslr/{m}", self.factor(m))

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        if self.mode != "dynamic":
            return
        for m, scores in metrics["unimodal"].items():
            accuracy, before = scores["acc"], self.accuracies.get(m, [])
            found = ratio(before, accuracy, self.memory, self.include_current)
            if found is not None and self.measured % self.period == 0:
                compounded = min(BOUNDS[1], max(BOUNDS[0], self.ratios.get(m, 1.0) * found))
                self.ratios[m] = compounded if self.compound else found
            self.accuracies[m] = [*before, accuracy][-self.memory :]
        self.measured += 1

    def window_end(self, run: Run) -> None:
        for m in run.modalities:
            self._set(run, m, 1.0)

    def _set(self, run: Run, modality: str, factor: float) -> None:
        parts = ("encoder",) if self.scope == "encoder" else ("encoder", "head")
        for group in run.model.groups().keys() & {f"{part}:{modality}" for part in parts}:
            run.set_lr_scale(group, factor)

    def _search(self, run: Run) -> None:
        """Find what is not there yet; each trial is a copy trained from the weights at hand."""
        tried = grid(self.points, self.span)
        epochs = max(1, round(self.trial * (run.n_epochs - run.epoch)))
        if self.factors is None and not self.found:
            for m in run.modalities:
                alone = [_Alone(modality=m, factor=x) for x in tried]
                self.found[m] = tried[_best([_score(run.fork(trial, epochs=epochs), m) for trial in alone])]
        if self.mode == "smart" and not self.shared:
            kept = {m: self.factor(m) for m in run.modalities}
            forms = [MSLR(mode="keep", factors={m: c * x for m, c in kept.items()}, scope=self.scope) for x in tried]
            self.shared = tried[_best([_score(run.fork(form, epochs=epochs)) for form in forms])]


class _Alone(Strategy):
    """Trains one modality, and what it needs of the head, at a rate of its own."""

    def __init__(self, *, modality: str, factor: float) -> None:
        self.modality = modality
        self.factor = factor

    def epoch_start(self, run: Run) -> None:
        for group in run.model.groups():
            run.set_lr_scale(group, self.factor)

    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        return [replace(p, present=frozenset({self.modality})) for p in passes]


@torch.no_grad()
def _score(run: Run, modality: str | None = None) -> tuple[float, float]:
    """Accuracy and minus the mean loss on the slice, of all modalities or of one alone over the items that have it."""
    total = torch.zeros(3, dtype=torch.float64, device=run.device)
    fed = None if modality is None else frozenset({modality})
    for batch in run.meta_batches("mslr"):
        step = Step(run, batch).at(Pass(present=fed))
        logits, target = step.kept(run.forward(batch, present=fed, mode="eval").logits), step.target
        losses = F.cross_entropy(logits, target, reduction="none").to(total.dtype)
        hits = (logits.argmax(1) == target).to(total.dtype)
        total += torch.stack([hits.sum(), -losses.sum(), torch.ones_like(losses).sum()])
    hits, loss, n = run.reduce(total).tolist()
    return (hits / n, loss / n) if n and math.isfinite(loss) else (-1.0, -math.inf)


def _best(scores: Sequence[tuple[float, float]]) -> int:
    return max(range(len(scores)), key=scores.__getitem__)

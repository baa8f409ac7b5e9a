"""Balanced multimodal learning (Greedy): isolate a branch from the others while it learns too fast from them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from mmzoo.api import Grads, Outputs, Pass, Run, Step, Strategy, Terms


def relative_change(params: Iterable[nn.Parameter]) -> Tensor:
    """mu = ||g||^2 / ||w||^2 over all entries of the parameters together, a scalar.

    A missing gradient counts as zero. If all weights are zero or a gradient is not finite, mu is zero; the authors'
    code then stops or continues with NaN.
    """
    params = list(params)
    if not params:
        return torch.zeros((), dtype=torch.float64)
    grads = [p.grad for p in params if p.grad is not None]
    weight = nn.utils.get_total_norm([p.detach() for p in params]).double().square()
    change = nn.utils.get_total_norm(grads).to(weight.device).double().square() / weight
    return torch.where(change.isfinite(), change, 0.0)


class Greedy(Strategy):
    """Isolates the branch that learns too fast from the other modality (Greedy, Wu et al., ICML 2022).

    mu_main,u and mu_bypass,u are ||grad||^2 / ||w||^2 of branch u and of the parameters through which the other
    modality reaches it: its gates and the shared squeeze, which counts for both. Both are summed over regular steps;
    speed_u = log(sum mu_bypass,u / sum mu_main,u), the conditional learning speed, and d = speed_0 - speed_1. If |d| >
    epsilon, the next `window` steps are rebalancing steps: the running mean of its gates replaces the gates of the
    faster branch, so that it learns from its own input alone. The sums do not change meanwhile.

    Differs from the authors' code: each gate has its own mean (theirs uses the first one's for both), evaluation always
    uses the gates (theirs whatever the last step used) and does not update their means, and a branch that has not
    learned at all (log of zero) never starts rebalancing.

    Args:
        epsilon: threshold on |d|; 0.01 in the code.
        window: number of rebalancing steps; 5 in the code.
        start_epoch: all steps before this epoch, counted from 0, are regular; 1 in the code.
        schedule: "speed" (default), as above. "random", the paper's control: each step isolates no branch or one of
            them, with equal probability; epsilon and window have no effect.
        loss: "branches" (default): the sum of the branches' cross-entropies replaces that of the joint logits. "joint"
            keeps the latter.
        log: "log10" as in the code (default), or "ln" as in the paper.
    """

    requires = frozenset({"unimodal", "mean_gates"})
    min_modalities = 2
    max_modalities: int | None = 2
    owns = frozenset({"task"})
    neutral = {"schedule": "speed", "loss": "joint", "epsilon": math.inf}  # noqa: RUF012
    state = ("sums", "speeds", "cut", "left")

    def __init__(
        self,
        *,
        epsilon: float = 0.01,
        window: int = 5,
        start_epoch: int = 1,
        schedule: Literal["speed", "random"] = "speed",
        loss: Literal["branches", "joint"] = "branches",
        log: Literal["log10", "ln"] = "log10",
    ) -> None:
        self.epsilon = epsilon
        self.window = window
        self.start_epoch = start_epoch
        self.schedule = schedule
        self.loss = loss
        self.log = log
        self.stochastic = schedule == "random"
        self.sums = torch.zeros(2, 0, dtype=torch.float64)  # (bypass and main, M)
        self.speeds = torch.zeros(0, dtype=torch.float64)
        self.cut = torch.zeros((), dtype=torch.int64)  # whose gates are replaced while `left` is not 0
        self.left = torch.zeros((), dtype=torch.int64)  # rebalancing steps still to go

    def setup(self, run: Run) -> None:
        if self.sums.shape[1] == 0:
            self.sums = self.sums.new_zeros(2, len(run.modalities))
            self.speeds = self.speeds.new_zeros(len(run.modalities))
        for name in self.state:
            setattr(self, name, getattr(self, name).to(run.device))

    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        held = self._drawn(step) if self.schedule == "random" else (self.left > 0, self.cut)
        flags = {m: held[0] & (held[1] == i) for i, m in enumerate(step.run.modalities)}
        return [replace(p, flags={**p.flags, "mean_gates": flags}) for p in passes]

    def _drawn(self, step: Step) -> tuple[Tensor, Tensor]:
        """Whether somebody is cut off in this step, and who."""
        draw = torch.randint(len(step.run.modalities) + 1, (), generator=step.generator("greedy"))
        draw = draw.to(step.run.device) - 1
        return (draw >= 0) & (step.run.epoch >= self.start_epoch), draw

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        if self.loss == "joint":
            return terms
        own = [step.loss(step.kept(z), step.here(m)) for m, z in out.unimodal.items()]
        return {**terms, "task": torch.stack(own).sum()}

    @torch.no_grad()
    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        for m, held in step.pass_.flags.get("mean_gates", {}).items():
            step.run.log(f"greedy/cut/{m}", held.double())
        if self.schedule == "random":
            return
        views = step.run.model.views()
        changes = [[relative_change(views[f"{kind}:{m}"]) for m in step.run.modalities] for kind in ("bypass", "main")]
        device = self.sums.device
        self._observe(
            torch.stack([torch.stack([c.to(device) for c in row]) for row in changes]),
            step.run.epoch >= self.start_epoch,
        )
        for m, speed in zip(step.run.modalities, self.speeds):
            step.run.log(f"greedy/speed/{m}", torch.where(speed.isfinite(), speed, 0.0))

    def _observe(self, changes: Tensor, unlocked: bool) -> None:
        """Take in mu of a step, (bypass and main, M), and decide on the next: all on the device."""
        regular = self.left == 0
        self.sums = self.sums + torch.where(regular, changes, 0.0)
        ratio = self.sums[0] / self.sums[1]
        self.speeds = torch.where(regular, ratio.log10() if self.log == "log10" else ratio.log(), self.speeds)
        d = self.speeds.max() - self.speeds.min()  # |d| of two
        biased = d.isfinite() & (d > self.epsilon) & unlocked
        self.cut = torch.where(regular, torch.where(biased, self.speeds.argmax(), 0), self.cut)
        self.left = torch.where(regular, torch.where(biased, self.window, 0), self.left - 1)


class GreedyMany(Greedy):
    """Greedy for any number of modalities (ours): d is the largest minus the smallest speed.

    The branch with the largest speed is isolated. With two modalities it equals `Greedy`, whose parameters it has.
    """

    max_modalities = None

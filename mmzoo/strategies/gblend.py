"""Gradient blending (G-Blend): joint and unimodal losses, weighted by how each overfits and generalises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from mmzoo.api import BadValue, Batch, Incompatible, Outputs, Pass, Run, Step, Strategy, Terms
from mmzoo.functional import loss_over

Formula = Literal["guarded", "paper", "absolute", "gap", "clamped"]
Number = TypeVar("Number", float, Tensor)
#: the branch of the joint logits, beside one branch a modality
FUSED = "fused"


def gains(train: Tensor, val: Tensor) -> tuple[Tensor, Tensor]:
    """Generalisation dG and overfitting dO of each branch between two checkpoints.

    dG = L^V_n - L^V_N, the fall of the validation loss; dO = O_N - O_n with O = L^V - L^T, the growth of its gap to the
    training loss.

    Args:
        train: (2, K), mean training losses of K branches at the first and the last checkpoint.
        val: (2, K), mean validation losses.
    """
    gap = val - train
    return val[0] - val[1], gap[1] - gap[0]


def scores(train: Tensor, val: Tensor, formula: Formula = "guarded", eps: float = 0.01) -> Tensor:
    """(K,) unnormalised weights dG / dO^2 (Wang et al., CVPR 2020, Prop. 1).

    Args:
        train: (2, K), as for `gains`.
        val: (2, K), as for `gains`.
        formula: "paper": as it stands; negative if the validation loss rose, infinite or NaN if the gap did not change.
            "guarded" (ours): max(dG, 0) / max(dO^2, (eps s)^2), s the largest change of any loss, so that adding a
            constant to a branch or scaling all losses changes nothing. Public code: "clamped" (tsai) has absolute
            floors of 1e-8 under dO^2 and under the result; "absolute" (BalanceBenchmark) drops the sign, so that a
            branch that got worse counts too; "gap" (MultiBench) uses |L^V_N / (L^V_N - L^T_N)^2| without differences, a
            negative gap as 1e-4.
        eps: relative floor of "guarded".
    """
    gain, over = gains(train, val)
    if formula == "paper":
        return gain / over.square()
    if formula == "absolute":
        return (gain / over.square()).abs()
    if formula == "gap":
        gap = val[1] - train[1]
        return (val[1] / torch.where(gap < 0, 1e-4, gap).square()).abs()
    if formula == "clamped":
        return (gain.clamp_min(0.0) / over.square().clamp_min(1e-8)).nan_to_num(nan=0.0).clamp_min(1e-8)
    largest = torch.stack([train[0] - train[1], gain]).abs().max()
    floor = (eps * largest).square().clamp_min(torch.finfo(gain.dtype).tiny)
    return gain.clamp_min(0.0) / over.square().maximum(floor)


def normalised(raw: Tensor, least: float = 0.0) -> Tensor:
    """(K,) weights that add up to one, mixed with equal weights so that none is below `least`.

    Equal weights if the sum is zero or a value is not finite, in any formula.

    Args:
        raw: (K,), the unnormalised weights.
        least: smallest weight, if none is negative.
    """
    equal = torch.full_like(raw, 1.0 / len(raw))
    total = raw.sum()
    if not bool(torch.isfinite(raw).all()) or float(total) == 0.0:
        return equal
    share = min(1.0, least * len(raw))
    return (1.0 - share) * raw / total + share * equal


def blended(losses: Mapping[str, Number], weights: Mapping[str, float]) -> dict[str, Number]:
    """w_k L_k for each branch."""
    return {k: weights[k] * loss for k, loss in losses.items()}


class GBlend(Strategy):
    """Trains on sum_k w_k CE_k, with w_k proportional to dG_k / dO_k^2 (G-Blend, Wang et al., CVPR 2020, Prop. 1).

    The branches k are the joint logits and one linear classifier on each modality's features. Predictions use the joint
    logits.

    Differs from the paper, which finally trains on all training samples: the meta set, on which weights are estimated,
    is never trained on. Copies train their own branch only, whatever else is in a chain. Samples without a modality do
    not count in its branch, and only modalities that may be updated take part (Pass.moves). Within a fork the weights
    are constant.

    Args:
        mode: "online": the run is split into super-epochs, the first of `warmup` epochs, the others of `super_epoch`.
            At the start of each, every branch is trained alone on a copy of the present model for its length; the mean
            losses before and after, on training samples and on the meta set, give its weights. "offline": once, with
            copies trained for the whole run. "fixed": the given `weights`.
        formula: see `scores`; "guarded" by default.
        warmup: epochs of the first super-epoch; 10 as reported for the paper.
        super_epoch: epochs of the others; 5 as reported for the paper.
        eps: relative floor of "guarded".
        least: smallest weight of a branch under "guarded"; at weight zero the joint classifier would not be trained.
        weights: weights of "fixed" by modality and for "fused", zero for names left out; None: equal weights.

    Raises:
        Incompatible: `weights` has a name that is no modality.
    """

    owns = frozenset({"task"})
    requires = frozenset({"slice"})
    min_modalities = 2
    neutral = {"mode": "fixed", "weights": {FUSED: 1.0}}  # noqa: RUF012
    state = ("current", "until")
    cost = {"forward": 3.8, "backward": 3, "slice": 0.8}  # noqa: RUF012

    def __init__(
        self,
        *,
        mode: Literal["online", "offline", "fixed"] = "online",
        formula: Formula = "guarded",
        warmup: int = 10,
        super_epoch: int = 5,
        eps: float = 0.01,
        least: float = 0.01,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        if weights is not None and mode != "fixed":
            raise BadValue(f"weights are given, but mode {mode!r} estimates them. Give mode='fixed' with them.")
        self.mode = mode
        self.formula = formula
        self.warmup = warmup
        self.super_epoch = super_epoch
        self.eps = eps
        self.least = least
        self.weights = weights
        self._declare()
        self.current: dict[str, float] = {}
        self.until = 0

    def _declare(self) -> None:
        """Each modality fed alone is 1/M of a forward, so that all branches together are two."""
        if self.mode == "fixed":
            self.requires = frozenset()
            self.cost = {"forward": 1, "backward": 1}
            return
        self.cost = {"forward": 3, "backward": 3}
        if self.mode == "online":
            # All branches before and after, on training items and slice; spread over the epochs that it is good for.
            often = 4 / self.super_epoch
            self.cost = {"forward": 3 + often, "backward": 3, "slice": often}

    def setup(self, run: Run) -> None:
        known = [*run.modalities, FUSED]
        if unknown := sorted(set(self.weights or {}) - set(known)):
            raise Incompatible(
                f"GBlend has weights for {', '.join(unknown)}; the branches here are {', '.join(known)}. "
                "Name those in weights: {...: 0.3, fused: 0.7}."
            )
        for m, width in run.model.head.dims.items():
            run.add_module(f"gblend_{m}", lambda width=width: nn.Linear(width, run.n_classes))  # type: ignore[misc]

    def epoch_start(self, run: Run) -> None:
        due = not self.current or (self.mode == "online" and run.epoch >= self.until)
        if self.mode != "fixed" and due and not run.forked:
            self._estimate(run)
        for branch, weight in self._weights(run).items():
            run.log(f"gblend/{branch}", weight)

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        weights = self._weights(step.run)
        # A weight of zero adds no term: a zero gradient would still move its classifier by weight decay.
        own = {m: branch_loss(step, out, m) for m in out.features if weights[m] and step.pass_.moves(m)}
        task, *scaled = blended({FUSED: terms["task"], **own}, weights).values()
        return {**terms, "task": task, **{f"gblend/{m}": loss for m, loss in zip(own, scaled)}}

    def _weights(self, run: Run) -> Mapping[str, float]:
        branches = [*run.modalities, FUSED]
        if self.weights is not None:
            return {b: self.weights.get(b, 0.0) for b in branches}
        return self.current or dict.fromkeys(branches, 1.0 / len(branches))

    def _estimate(self, run: Run) -> None:
        """Train every branch alone on a copy, and set the weights until the end of the super-epoch."""
        length = max(1, run.n_epochs - run.epoch)
        if self.mode == "online":
            length = min(length, self.super_epoch if self.current else self.warmup)
        branches = [*run.modalities, FUSED]
        train, val = torch.stack([self._trial(run, b, length) for b in branches], -1)
        raw = scores(train, val, self.formula, self.eps)
        if not bool(torch.isfinite(raw).all()) or not float(raw.sum()) > 0.0:
            # A negative sum would turn every sign round: who got worse would be trained, who gained untrained.
            run.warn("G-Blend: the losses of the trial trainings give no weights; equal ones were taken")
            raw = torch.ones_like(raw)
        weights = normalised(raw, self.least if self.formula == "guarded" else 0.0)
        self.current = dict(zip(branches, weights.tolist()))
        self.until = run.epoch + length
        run.log("gblend/worse", float((gains(train, val)[0] < 0).sum()))

    def _trial(self, run: Run, branch: str, epochs: int) -> Tensor:
        """(2, 2): the branch's loss on training items and on the slice, before and after it is trained alone."""
        trained = run.fork(_Branch(branch=branch), epochs=epochs)
        return torch.stack(
            [
                torch.stack([_mean_loss(r, branch, data) for r, data in zip((run, trained), sides)])
                for sides in ((run.train(), trained.train()), (run.meta_batches(), trained.meta_batches()))
            ]
        )


class _Branch(Strategy):
    """Trains one branch alone: a modality through its classifier, or the joint logits."""

    owns = frozenset({"task"})

    def __init__(self, *, branch: str) -> None:
        self.branch = branch

    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        fed = None if self.branch == FUSED else frozenset({self.branch})
        return [replace(p, present=fed) for p in passes]

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        return terms if self.branch == FUSED else {"task": branch_loss(step, out, self.branch)}


def branch_loss(step: Step, out: Outputs, modality: str) -> Tensor:
    """The loss of a modality's own classifier over the samples that have it; zero if none has.

    Args:
        step: the batch in its pass.
        out: its outputs.
        modality: the modality.
    """
    return step.loss(_logits(step, out, modality), step.here(modality))


def _logits(step: Step, out: Outputs, modality: str) -> Tensor:
    found: Tensor = step.run.model.extra[f"gblend_{modality}"](step.kept(out.features[modality]))
    return found


@torch.no_grad()
def _mean_loss(run: Run, branch: str, batches: Iterator[Batch]) -> Tensor:
    """The mean over items of a branch's loss in eval mode; zero where no item has the modality."""
    total = torch.zeros(2, dtype=torch.float64, device=run.device)
    fed = None if branch == FUSED else frozenset({branch})
    for batch in batches:
        step = Step(run, batch).at(Pass(present=fed))
        out = run.forward(batch, present=fed, mode="eval")
        logits = step.kept(out.logits) if branch == FUSED else _logits(step, out, branch)
        loss, n = loss_over(run.criterion, logits, step.target), len(step.target)
        total += torch.stack([loss.double() * n, torch.ones_like(total[0]) * n])
    total = run.reduce(total)
    return total[0] / total[1].clamp_min(1.0)

"""InfoReg: keep the encoder of the leading modality near its recent weights while it gains much information."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mmzoo.api import Grads, Incompatible, Outputs, Run, Step, Strategy, Terms
from mmzoo.functional import constant
from mmzoo_later.classifiers import add_classifiers, own_losses


def pulls(scores: Tensor, strengths: Tensor) -> Tensor:
    """(M,) beta_u = strength_u * exp(tanh(s_u - max of the others)) for the modality with the highest score, else 0.

    All are 0 at a tie. The scores are sums over a batch, so that tanh is mostly near 1.

    Args:
        scores: (M,).
        strengths: (M,).
    """
    first, second = scores.topk(2).values
    ahead = (scores == first) & (first > second)
    return torch.where(ahead, strengths * torch.exp(torch.tanh(scores - second)), 0.0)


def rate(traces: Sequence[float], length: int = 10) -> float:
    """k = (T_now - T_before) / T_now, T the mean of the last `length` traces, now and one epoch ago.

    1 while there are fewer than two positive means.

    Args:
        traces: the traces, oldest first.
        length: how many are averaged.
    """
    now, before = traces[-length:], traces[:-1][-length:]
    if not before or math.fsum(now) == 0.0 or math.fsum(before) == 0.0:
        return 1.0
    a, b = math.fsum(now) / len(now), math.fsum(before) / len(before)
    return (a - b) / a


class InfoReg(Strategy):
    """Pulls the leading encoder towards its weights at the start of the epoch (InfoReg, Huang et al., CVPR 2025).

    L = CE(logits, y) + weight * sum_m CE(V_m z_m, y). While an epoch is in the prime learning window of a modality (k >
    threshold), and the modality has the highest sum of true-class probabilities in the batch, its encoder's gradient
    becomes g + beta (theta - theta at the start of the epoch). Scores are those of the classifiers V_m. k is the
    relative growth of the mean trace of the Fisher information over 10 epochs; the trace of an epoch is the mean over
    its batches of the squared norm of the encoder's gradient (of the batch, not of single samples, as in the authors'
    code).

    Args:
        strength: strength of the pull.
        strengths: modality -> strength, in place of `strength`; the authors set 0.95 for audio and 0.1 for video.
        threshold: threshold on k.
        weight: factor on the unimodal losses.
        watch: the modality whose traces decide for all (the authors: audio); None: each decides for itself.
        trace: "loss" (default): the gradient before the pull is added. "released": after it, as in the authors' code,
            which feeds the pull back into k.
    """

    min_modalities = 2
    state = ("traces",)
    single_process = "it measures single batches, of which each of several processes has only a share"
    neutral = {"weight": 0.0, "strength": 0.0, "strengths": None}  # noqa: RUF012

    def __init__(
        self,
        *,
        strength: float = 0.95,
        strengths: Mapping[str, float] | None = None,
        threshold: float = 0.05,
        weight: float = 1.0,
        watch: str | None = None,
        trace: Literal["loss", "released"] = "loss",
    ) -> None:
        self.strength = strength
        self.strengths = strengths
        self.threshold = threshold
        self.weight = weight
        self.watch = watch
        self.trace = trace
        self.traces: dict[str, list[float]] = {}
        self.sums: dict[str, Tensor] = {}
        self.start: dict[str, dict[str, Tensor]] = {}

    def setup(self, run: Run) -> None:
        named = [*(self.strengths or {}), *([] if self.watch is None else [self.watch])]
        if unknown := sorted(set(named) - set(run.modalities)):
            raise Incompatible(
                f"InfoReg got settings for {', '.join(unknown)}; the modalities here are {', '.join(run.modalities)}. "
                "Name those in strengths and watch."
            )
        add_classifiers(run, "inforeg")

    def epoch_start(self, run: Run) -> None:
        if not self._holds:
            return
        groups = run.model.groups()
        self.start = {m: run.snapshot(f"encoder:{m}") for m in run.modalities if f"encoder:{m}" in groups}
        self.sums = {m: torch.zeros((), device=run.device) for m in self.start}
        for m in self.start:
            run.log(f"inforeg/rate/{m}", self._rate(m))

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        if self.weight == 0.0:
            return terms
        own = own_losses(step, out, "inforeg")
        return {**terms, **{name: self.weight * loss for name, loss in own.items()}}

    @torch.no_grad()
    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        if not self._holds:
            return
        beta = self._pulls(step, out)
        for m, start in self.start.items():
            group, moving = f"encoder:{m}", m in out.features
            if self.trace == "loss" and moving:
                self.sums[m] = self.sums[m] + grads.sq_norm(group)
            if m in beta and self._rate(m) > self.threshold:
                for name, p in step.run.model.encoders[m].named_parameters():
                    if p.grad is not None:
                        p.grad = p.grad + beta[m] * (p - start[name])
            if self.trace == "released" and moving:
                self.sums[m] = self.sums[m] + grads.sq_norm(group)

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        for m, total in self.sums.items():
            self.traces[m] = [*self.traces.get(m, []), float(total) / run.steps_per_epoch][-11:]

    def _pulls(self, step: Step, out: Outputs) -> dict[str, Tensor]:
        if len(out.features) < 2:
            step.run.warn("InfoReg: passes with one modality have nothing to compare, and were left as they are")
            return {}
        scores = step.true_class_scores(
            {m: step.run.model.extra[f"inforeg_{m}"](step.kept(z)) for m, z in out.features.items()}
        )
        given = self.strengths or {}
        beta = pulls(scores, constant([given.get(m, self.strength) for m in out.features], scores))
        for m, b in zip(out.features, beta):
            step.run.log(f"inforeg/pull/{m}", b)
        return dict(zip(out.features, beta))

    def _rate(self, modality: str) -> float:
        return rate(self.traces.get(self.watch or modality, []))

    @property
    def _holds(self) -> bool:
        """Whether any modality may be held back at all."""
        return bool(self.strength or any((self.strengths or {}).values()))

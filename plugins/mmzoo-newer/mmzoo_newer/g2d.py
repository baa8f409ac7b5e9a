"""G2D: distils unimodal teachers, and first trains the weakest modality by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from mmzoo.api import Grads, Outputs, Run, Step, Strategy, Terms
from mmzoo.functional import true_class_probabilities

Prioritise = Literal["run", "batch", "none"]


def logit_divergences(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """(B,) T^2 KL(softmax(teacher / T) || softmax(student / T)).

    Args:
        teacher: (B, C).
        student: (B, C).
        temperature: T.
    """
    log_t, log_s = ((z / temperature).log_softmax(-1) for z in (teacher, student))
    return temperature**2 * (log_t.exp() * (log_t - log_s)).sum(-1)


def feature_distances(student: Tensor, teacher: Tensor) -> Tensor:
    """(B,) the mean of (student - teacher)^2 over the features.

    Args:
        student: (B, D).
        teacher: (B, D).
    """
    return (student - teacher).square().mean(-1)


def ranked(confidence: Mapping[str, float]) -> list[str]:
    """The modalities by the confidence of their teachers, least confident first; ties by name."""
    return sorted(confidence, key=lambda m: (confidence[m], m))


def weakest_only(scores: Tensor) -> Tensor:
    """(M,) 1 for the modality whose teacher is least confident, 0 for the others; ties are all 1."""
    return (scores == scores.amin()).to(scores.dtype)


def active(weakest_first: Sequence[str], lengths: Sequence[int], epoch: int) -> tuple[str, ...]:
    """The modalities trained in an epoch: the j-th weakest only for lengths[j] epochs, in turn, then all.

    Args:
        weakest_first: the modalities in order.
        lengths: epochs of each stage.
        epoch: the epoch, from 0.
    """
    end = 0
    for modality, length in zip(weakest_first, lengths):
        end += length
        if epoch < end:
            return (modality,)
    return tuple(weakest_first)


def stage_lengths(stages: int, share: float, epochs: int) -> list[int]:
    """The epochs of each stage, equal up to rounding.

    Args:
        stages: number of stages.
        share: the fraction of the run that they take together.
        epochs: length of the run.
    """
    ends = [round(share * epochs * (i + 1) / max(1, stages)) for i in range(stages)]
    return [b - a for a, b in zip([0, *ends], ends)]


class G2D(Strategy):
    """Distils unimodal teachers and prioritises weak modalities (gradient-guided distillation, ICCV 2025).

    Rakib and Bagavathi. L = CE(f, y) + logit_weight sum_m T^2 KL(softmax(t_m / T) || softmax(f / T)) + feature_weight
    sum_m mean (z_m - teacher's z_m)^2, with t_m the logits of m's teacher: a frozen unimodal model in eval mode.
    Features of another width than the teacher's are not compared, with a warning. The authors' code modulates
    convolutions only.

    Args:
        logit_weight: factor on the logit terms.
        feature_weight: factor on the feature terms.
        temperature: T.
        prioritise: "run" (default): modalities are ranked once by the mean probability that their teachers give the
            true class on the training set; the weakest trains by itself, then the second, and so on for `share` of the
            run; then all train. Waiting encoders get no gradient: they keep their weights despite momentum and decay,
            their batch statistics change, and the head learns. "batch" (g2d_released): within that fraction of the run
            only the encoder whose teacher is least confident on the batch has a gradient; that of the others is zero,
            and momentum and decay still move them. "none": all train.
        share: fraction of the run in which modalities are prioritised (the authors': 150 of 300 epochs).
    """

    requires = frozenset({"teachers"})
    min_modalities = 2
    neutral = {"logit_weight": 0.0, "feature_weight": 0.0, "prioritise": "none"}  # noqa: RUF012
    state = ("weakest_first",)
    # The teachers see every batch too.
    cost = {"forward": 2, "backward": 1}  # noqa: RUF012

    def __init__(
        self,
        *,
        logit_weight: float = 1.0,
        feature_weight: float = 1.0,
        temperature: float = 1.0,
        prioritise: Prioritise = "run",
        share: float = 0.5,
    ) -> None:
        self.logit_weight = logit_weight
        self.feature_weight = feature_weight
        self.temperature = temperature
        self.prioritise = prioritise
        self.share = share
        if not logit_weight and not feature_weight and prioritise == "none":
            self.requires = frozenset()
            self.cost = {"forward": 1, "backward": 1}
        self.weakest_first: list[str] = []

    def setup(self, run: Run) -> None:
        for m in run.modalities if self.requires else ():
            run.teacher(m)  # trained now, where it was not given

    def epoch_start(self, run: Run) -> None:
        if self.prioritise != "run":
            return
        if not self.weakest_first:
            self.weakest_first = ranked({m: _confidence(run, m) for m in run.modalities})
        for m in run.modalities:
            run.log(f"g2d/{m}/trains", float(m in self._active(run)))

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        if not self.requires:
            return terms
        taught = {m: step.run.teacher_outputs(m, step.batch) for m in out.features}
        step.scratch[self] = {m: step.kept(t.logits) for m, t in taught.items()}
        added = {}
        for m, z in out.features.items():
            here = step.here(m)
            if self.logit_weight:
                apart = logit_divergences(step.kept(taught[m].logits), step.kept(out.logits), self.temperature)
                added[f"g2d/{m}/logits"] = self.logit_weight * step.mean(apart, here)
            if self.feature_weight and step.pass_.moves(m) and self._comparable(step.run, m):
                apart = feature_distances(step.kept(z), step.kept(taught[m].features[m]))
                added[f"g2d/{m}/features"] = self.feature_weight * step.mean(apart, here)
        return {**terms, **added}

    @torch.no_grad()
    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        if self.prioritise == "run":
            waiting = set(out.features) - set(self._active(step.run))
            for m in waiting if waiting < set(out.features) else ():
                grads.drop(f"encoder:{m}")
        elif self.prioritise == "batch" and len(out.features) > 1 and step.run.epoch < sum(self._lengths(step.run, 1)):
            kept = weakest_only(step.true_class_scores(step.scratch[self]))
            for m, factor in zip(out.features, kept):
                step.run.log(f"g2d/{m}/trains", factor)
                grads.scale(f"encoder:{m}", factor)

    def _active(self, run: Run) -> tuple[str, ...]:
        order = self.weakest_first
        return active(order, self._lengths(run, len(order) - 1), run.epoch)

    def _lengths(self, run: Run, stages: int) -> list[int]:
        return stage_lengths(stages, self.share, run.n_epochs)

    def _comparable(self, run: Run, modality: str) -> bool:
        theirs, ours = run.teacher(modality).head.dims[modality], run.model.head.dims[modality]
        if theirs != ours:
            run.warn(f"G2D: features of {modality} have width {ours}, its teacher's {theirs}; they were not compared")
        return theirs == ours


@torch.no_grad()
def _confidence(run: Run, modality: str) -> float:
    """Mean probability of the true class that a teacher gives the training samples which have its modality."""
    total = torch.zeros(2, dtype=torch.float64, device=run.device)
    for batch in run.train("g2d", shuffled=False):
        p = true_class_probabilities(run.teacher_outputs(modality, batch).logits, batch.target).double()
        here = torch.ones_like(p)
        if batch.present is not None:
            here = batch.present[:, run.modalities.index(modality)].double()
        total += torch.stack([(p * here).sum(), here.sum()])
    total = run.reduce(total)
    return float(total[0] / total[1].clamp_min(1.0))

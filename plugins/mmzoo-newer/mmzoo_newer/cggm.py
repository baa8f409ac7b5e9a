"""CGGM: auxiliary classifiers measure which modality gains, and slow its encoder down."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmzoo.api import Grads, Incompatible, Outputs, Run, Step, Strategy, Terms


def coefficients(now: Tensor, before: Tensor, eps: float = 1e-8) -> Tensor:
    """(M,) c_m = (S - d_m) / S with d the gains of the metric and S = sum d + eps, as in the authors' code.

    If gains cancel, c is of the order of 1 / eps; if their sum is negative, signs flip.

    Args:
        now: (M,), the metric.
        before: (M,), the metric of the previous batch.
        eps: added to the sum.
    """
    gain = now - before
    total = gain.sum() + eps
    return (total - gain) / total


def guarded(now: Tensor, before: Tensor) -> Tensor:
    """(M,) the same with negative gains counted as zero (ours): within [0, 1], and equal if no modality gains.

    Args:
        now: (M,), the metric.
        before: (M,), the metric of the previous batch.
    """
    gain = (now - before).clamp_min(0.0)
    total = gain.sum()
    equal = 1.0 - 1.0 / len(gain)
    return torch.where(total > 0, 1.0 - gain / torch.where(total > 0, total, 1.0), equal)


def direction(coefficient: Tensor, cosine: Tensor) -> Tensor:
    """(sum |c_m| - sum c_m cos_m) / M, a non-negative scalar.

    Args:
        coefficient: (M,), c.
        cosine: (M,), the cosines.
    """
    return (coefficient.abs().sum() - (coefficient * cosine).sum()) / len(coefficient)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """The cosine of two tensors `a` and `b` as vectors; zero if one of them is zero."""
    return nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)


class CGGM(Strategy):
    """Scales encoder gradients by the gains of auxiliary classifiers (CGGM, Guo et al., NeurIPS 2024).

    A linear classifier V_m on each modality's features, which passes no gradient to them, has the accuracy a_m on the
    batch. Its gain over the previous batch gives c_m (`guarded` or `coefficients`), and the gradient of encoder m is
    scaled by rho c_m. weight > 0 adds weight * `direction` to the next batch's loss, of the cosine between V_m and the
    part of the head's linear classifier that reads m, as the authors' code computes it; the paper compares gradients.

    Differs from the authors' code: their term uses the weights of the previous step; here it uses the present weights
    with the coefficients of the previous step. Their optimizer of the classifiers is a separate learning rate here.

    Args:
        rho: factor on the encoders' gradients.
        weight: factor on the direction term; 0 leaves it out.
        guard: count losses of accuracy as zero gain (ours). False is the released rule.
        lr_scale: learning rate of the classifiers relative to that of the model.

    Raises:
        Incompatible: in setup, weight is positive and the head has no linear classifier for each modality.
    """

    min_modalities = 2
    state = ("before", "coefficient")

    def __init__(self, *, rho: float = 1.3, weight: float = 0.2, guard: bool = True, lr_scale: float = 0.5) -> None:
        self.rho = rho
        self.weight = weight
        self.guard = guard
        self.lr_scale = lr_scale
        self.before: dict[str, Tensor] = {}
        self.coefficient: dict[str, Tensor] = {}

    def setup(self, run: Run) -> None:
        head = run.model.head
        if self.weight and any(head.classifier(m) is None for m in run.modalities):
            raise Incompatible(
                f"CGGM compares its classifiers with the head's linear classifier of each modality; head "
                f"{type(head).__name__} has none. Take head concat or sum, or weight=0."
            )
        for m, width in head.dims.items():
            run.add_module(f"cggm_{m}", lambda width=width: nn.Linear(width, run.n_classes))  # type: ignore[misc]

    def epoch_start(self, run: Run) -> None:
        for m in run.modalities:
            run.set_lr_scale(f"extra:cggm_{m}", self.lr_scale)

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        extra = step.run.model.extra
        logits = {m: extra[f"cggm_{m}"](step.kept(z.detach())) for m, z in out.features.items()}
        step.scratch[self] = {m: z.detach() for m, z in logits.items()}
        added = {f"cggm/{m}": step.loss(z, step.here(m)) for m, z in logits.items()}
        if self.weight and self.coefficient.keys() >= set(logits):
            added["cggm/direction"] = self.weight * self._direction(step, list(logits))
        return {**terms, **added}

    @torch.no_grad()
    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        logits: Mapping[str, Tensor] = step.scratch[self]
        now = self._accuracies(step, logits)
        before = torch.stack([self.before.get(m, torch.zeros_like(a)) for m, a in now.items()])
        measured = torch.stack(list(now.values()))
        c = guarded(measured, before) if self.guard else coefficients(measured, before)
        for m, factor in zip(now, c):
            step.run.log(f"cggm/{m}/coefficient", factor)
            if len(now) > 1:
                grads.scale(f"encoder:{m}", self.rho * factor)
        self.before = {**self.before, **now}
        self.coefficient = {**self.coefficient, **dict(zip(now, c))}

    def _accuracies(self, step: Step, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """modality -> share of right predictions on the batch; that of the batch before where nobody has it."""
        found = {}
        for m, z in logits.items():
            right = (z.argmax(1) == step.target).to(z.dtype)
            here, accuracy = step.here(m), step.run.reduce(step.mean(right, step.here(m)))
            if here is not None:
                seen = step.run.reduce(here.any().to(z.dtype))
                accuracy = torch.where(seen > 0, accuracy, self.before.get(m, torch.zeros_like(accuracy)))
            found[m] = accuracy
        return found

    def _direction(self, step: Step, names: list[str]) -> Tensor:
        head, extra = step.run.model.head, step.run.model.extra
        found = []
        for m in names:
            weight, _ = head.classifier(m)  # type: ignore[misc]
            found.append(cosine(extra[f"cggm_{m}"].weight.detach(), weight))  # type: ignore[operator, union-attr]
        return direction(torch.stack([self.coefficient[m] for m in names]), torch.stack(found))

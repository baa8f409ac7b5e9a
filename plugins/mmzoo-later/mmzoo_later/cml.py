"""Calibrating multimodal learning (CML): confidence must not rise when a modality is removed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from mmzoo.api import Outputs, Step, Strategy, Terms

Form = Literal["authors", "masked", "peer"]


def rank_loss(
    full: Tensor,
    part: Tensor,
    target: Tensor,
    margin: float = 0.0,
    form: Form = "authors",
    counted: Tensor | None = None,
    reduce: Callable[[Tensor], Tensor] = lambda x: x,
) -> Tensor:
    """How far the confidence max_c p_c rises from `full` to `part`, summed over the samples, a scalar.

    Args:
        full: (B, C), probabilities with a modality.
        part: (B, C), probabilities without it.
        target: (B,).
        margin: subtracted from the rise.
        form: with d = conf(part) - conf(full), "masked": sum_i max(0, d_i - margin) over samples that `full` predicts
            correctly. "authors": plus the same over those that both get wrong, without a gradient through conf(full).
            "peer": max(0, sum_i d_i), the form of BalanceBenchmark, which computes the mask and does not use it.
        counted: (B,) bool, the samples that count; None: all.
        reduce: the mean over processes; for "peer" the samples of all decide which of the two values holds.
    """
    (sure, guess), (less, other) = full.max(1), part.max(1)
    rises = less - sure
    here = torch.ones_like(rises) if counted is None else counted.to(rises.dtype)
    if form == "peer":
        total = (rises * here).sum()
        return torch.where(reduce(total.detach()) > 0, total, 0.0)
    right, wrong = (guess == target).to(rises.dtype), ((guess != target) & (other != target)).to(rises.dtype)
    loss = ((rises * right - margin).clamp_min(0.0) * here).sum()
    if form == "authors":
        loss = loss + (((less - sure.detach()) * wrong - margin).clamp_min(0.0) * here).sum()
    return loss


class CML(Strategy):
    """Adds weight * the sum of rank losses along one chain of sets of modalities (CML, Ma et al., ICML 2023).

    In each step modalities are removed one by one in random order; each set is compared with the one before it, by the
    head on the features of the set only. A sample counts if it has the removed modality and another one. The loss is a
    sum over the batch, as in the authors' code: its strength grows with the batch size.

    Args:
        weight: factor on the sum.
        margin: subtracted inside max(0, .), as in the authors' code.
        form: see `rank_loss`.
    """

    min_modalities = 2
    stochastic = True
    neutral = {"weight": 0.0}  # noqa: RUF012

    def __init__(self, *, weight: float = 0.1, margin: float = 0.0, form: Form = "authors") -> None:
        self.weight = weight
        self.margin = margin
        self.form = form

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        names = list(out.features)
        if self.weight == 0.0 or len(names) < 2:
            return terms
        order = [names[i] for i in torch.randperm(len(names), generator=step.generator("cml"))]
        before, logits, ranks = names, out.logits, []
        for gone in order[:-1]:
            left = [m for m in before if m != gone]
            fewer = step.run.model.outputs({m: out.features[m] for m in left}, step.batch.present).logits
            full, part = (step.kept(z).softmax(-1) for z in (logits, fewer))
            both = _both(step, gone, left)
            ranks.append(rank_loss(full, part, step.target, self.margin, self.form, both, step.run.reduce))
            before, logits = left, fewer
        # A sum over the items of all processes: gradients are averaged over these.
        return {**terms, "cml/rank": self.weight * step.run.n_processes * torch.stack(ranks).sum()}


def _both(step: Step, gone: str, left: list[str]) -> Tensor | None:
    """(B',) bool: which items have the modality that goes and one of those that stay; None for all."""
    here = {m: step.here(m) for m in (gone, *left)}
    if here[gone] is None:
        return None
    return here[gone] & torch.stack([here[m] for m in left]).any(0)  # type: ignore[operator, misc]

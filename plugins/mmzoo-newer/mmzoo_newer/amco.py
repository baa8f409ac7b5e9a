"""AMCo: masks classes of the dominant modality, in the form of a later benchmark."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmzoo.api import Outputs, Run, Step, Strategy, Terms


def mask_rate(level: float, ramp: float = 0.3) -> float:
    """p = sin(pi / 2 min(ramp, level) / ramp), the fraction of classes that is masked.

    Args:
        level: how far masking has advanced.
        ramp: level at which all classes are masked.
    """
    return math.sin(math.pi / 2 * min(ramp, level) / ramp)


def masked_classes(rate: float, n_classes: int) -> int:
    """floor(p C) for a `rate` p and C = `n_classes`, with p C rounded if it is whole up to rounding errors."""
    return math.floor(rate * n_classes + 1e-9)


def masked(own: Mapping[str, Tensor], dependent: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
    """The logits, with those of dependent modalities multiplied by a class mask.

    Args:
        own: modality -> (B, C).
        dependent: modality -> 1 if it is dependent, else 0.
        mask: (C,).
    """
    return {m: z * torch.where(dependent[m] > 0, mask, torch.ones_like(mask)) for m, z in own.items()}


def dominance(own: Mapping[str, Tensor]) -> Tensor:
    """(B, M) each modality's share of the softmax over the concatenated logits of all modalities.

    Args:
        own: modality -> (B, C).
    """
    parts = torch.cat(list(own.values()), 1).softmax(1).split([z.shape[1] for z in own.values()], dim=1)
    return torch.stack([p.sum(1) for p in parts], 1)


class AMCo(Strategy):
    """Masks classes of the dominant modality (adaptive mask co-optimisation), as implemented in BalanceBenchmark.

    The original paper was not available. Unimodal logits o_m of an additive head; those of a modality that was
    dependent in the previous batch are multiplied by a 0/1 mask of the classes, drawn once per batch: f = A sum_m
    masked(o_m) + a with a trained C x C layer, L = CE(f, y) + weight sum_m CE(masked(o_m), y). m is dependent if its
    mean share of the softmax over all concatenated o_m is above sigma. floor(p C) classes are masked, p = `mask_rate`
    of the level, which is 0 at the start of an epoch and grows by epoch * growth per batch. Predictions are those of A
    f + a. The layer is always present, so that no parameter values give plain training.

    Args:
        sigma: share above which a modality is dependent; from 1 on, none is.
        ramp: level at which all classes are masked.
        growth: growth of the level per batch and epoch.
        weight: factor on the unimodal losses.
    """

    requires = frozenset({"unimodal", "additive"})
    owns = frozenset({"predict"})
    min_modalities = 2
    state = ("dependent", "layer")

    def __init__(self, *, sigma: float = 0.5, ramp: float = 0.3, growth: float = 0.1, weight: float = 1.0) -> None:
        self.sigma = sigma
        self.ramp = ramp
        self.growth = growth
        self.weight = weight
        self.dependent: dict[str, Tensor] = {}
        #: weight and bias of the layer, for `predict`, which sees outputs only
        self.layer: list[Tensor] = []

    def setup(self, run: Run) -> None:
        run.add_module("amco", lambda: nn.Linear(run.n_classes, run.n_classes))
        self._refresh(run)

    def epoch_start(self, run: Run) -> None:
        self.dependent = {m: torch.zeros((), device=run.device) for m in run.modalities}

    def outputs(self, step: Step, out: Outputs) -> Outputs:
        own = masked(out.unimodal, self.dependent, self._mask(step, out.logits))
        total = torch.stack(list(own.values())).sum(0)
        return out.replace(logits=step.run.model.extra["amco"](total), unimodal=own)

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        if not self.weight:
            return terms
        own = {f"amco/{m}": self.weight * step.loss(step.kept(z), step.here(m)) for m, z in out.unimodal.items()}
        return {**terms, **own}

    @torch.no_grad()
    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        share = step.run.reduce(step.mean(step.kept(dominance(out.unimodal))))
        flags = (share > self.sigma).to(share.dtype)
        for m, value, flag in zip(out.unimodal, share, flags):
            step.run.log(f"amco/{m}/share", value)
            self.dependent[m] = flag
        self._refresh(step.run)

    def predict(self, out: Outputs) -> Outputs:
        weight, bias = self.layer
        return out.replace(logits=nn.functional.linear(out.logits, weight, bias), ranking=None)

    def _mask(self, step: Step, like: Tensor) -> Tensor:
        """(C,) zeros for the classes that are masked in this batch, ones for the others."""
        classes = step.run.n_classes
        level = step.run.batch_in_epoch * step.run.epoch * self.growth
        order = torch.randperm(classes, generator=step.generator("amco"))
        gone = masked_classes(mask_rate(level, self.ramp), classes)
        return (order >= gone).to(like.dtype).to(like.device)

    def _refresh(self, run: Run) -> None:
        layer = run.model.extra["amco"]
        self.layer = [layer.weight.detach(), layer.bias.detach()]  # type: ignore[operator, union-attr, list-item]

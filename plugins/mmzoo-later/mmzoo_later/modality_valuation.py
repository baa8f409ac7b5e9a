"""Sample- and modality-level valuation: repeat samples with only the modalities that contribute least."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from mmzoo.api import Batch, Run, Strategy
from mmzoo.functional import shapley_weights

Benefit = Literal["size", "one"]
#: contributions of one item are multiples of 1 / M!; they are compared with thresholds up to rounding
ROUNDING = 1e-6


def contributions(
    correct: Mapping[frozenset[str], Tensor], modalities: Sequence[str], benefit: Benefit = "size"
) -> Tensor:
    """(n, M) Shapley values of each sample, of v(S) = |S| if the prediction from S alone is correct, else 0.

    They add up to v of all modalities.

    Args:
        correct: set of modalities -> (n,) bool.
        modalities: the modalities in order.
        benefit: "one": v(S) = 1 if the prediction is correct.
    """
    value = {s: c.double() * (len(s) if benefit == "size" else 1) for s, c in correct.items()}
    weights = shapley_weights(modalities)
    return torch.stack([sum(w * value[s] for s, w in weights[m].items() if s) for m in modalities], 1)  # type: ignore[misc]


def extra_copies(contribution: Tensor) -> Tensor:
    """How often a sample is repeated with only this modality: 3 below -0.1, 2 below 0.4, 1 below 1, else never."""
    steps = [contribution < threshold - ROUNDING for threshold in (1.0, 0.4, -0.1)]
    return torch.stack(steps).sum(0)


class ModalityValuation(Strategy):
    """Resamples training data by the contribution of each modality (Wei et al., CVPR 2024).

    Before each epoch from `warmup` on, predictions from each set of modalities (other inputs set to zero) give the
    Shapley value phi of each modality for each sample. Predictions are those of the head's joint logits. Training on
    more samples means more steps per epoch: `cost` is the most that two modalities can take. More than two modalities
    are ours.

    Args:
        level: "sample" (default): a sample is repeated for each modality u, with all others dropped,
            `extra_copies(phi_u)` times. "modality": with the mean values over a random part of the training samples,
            2/3 (max - min) strength * n random samples (each at most once) are repeated with the best modality dropped.
        warmup: first epoch of the resampling.
        part: fraction of the training samples measured for "modality".
        strength: factor on the number of repeats for "modality".
        benefit: "size" (default) is the authors' v. "one" is that of a third party with the same thresholds, so that a
            sample which every set predicts correctly is repeated too.
    """

    owns = frozenset({"data"})
    single_process = "it makes epochs of other lengths, which processes that train together must share"
    min_modalities = 2
    cost = {"forward": 6, "backward": 5, "forward_coalition": 1}  # noqa: RUF012

    def __init__(
        self,
        *,
        level: Literal["sample", "modality"] = "sample",
        warmup: int = 5,
        part: float = 0.2,
        strength: float = 1.0,
        benefit: Benefit = "size",
    ) -> None:
        self.level = level
        self.warmup = warmup
        self.part = part
        self.strength = strength
        self.benefit = benefit
        self.stochastic = level == "modality"
        if level == "modality":
            self.cost = {"forward": 3, "backward": 2, "forward_coalition": 1}

    def epoch_start(self, run: Run) -> None:
        if run.epoch < self.warmup:
            return
        if self.level == "sample":
            self._repeat_items(run)
        else:
            self._repeat_weakest(run)

    def window_end(self, run: Run) -> None:
        run.set_sampling(None)

    def _repeat_items(self, run: Run) -> None:
        phi, present = [], []
        for batch in run.train("modality_valuation", shuffled=False):
            phi.append(self._contributions(run, batch))
            present.append(_present(run, batch))
        values, here = torch.cat(phi), torch.cat(present)
        self._log(run, values)
        copies = extra_copies(values) * here
        n, modalities = len(values), run.modalities
        rows, drop = [torch.arange(n)], [torch.zeros(n, len(modalities), dtype=torch.bool)]
        for m in sorted(modalities):  # by name, so that the order in which the data lists them does not matter
            u = modalities.index(m)
            again = torch.repeat_interleave(torch.arange(n), copies[:, u].cpu())
            rows.append(again)
            drop.append((torch.arange(len(modalities)) != u).expand(len(again), -1))
            run.log(f"modality_valuation/copies/{m}", len(again) / n)
        run.set_sampling(torch.cat(rows), torch.cat(drop))

    def _repeat_weakest(self, run: Run) -> None:
        generator = run.generator("modality_valuation")
        phi, present = [], []
        for batch in run.train("modality_valuation", shuffled=False):
            some = torch.randperm(len(batch), generator=generator)[: math.ceil(self.part * len(batch))]
            phi.append(self._contributions(run, batch.map(partial(_rows, some))))
            present.append(_present(run, batch).cpu())
        values, here = torch.cat(phi), torch.cat(present)
        self._log(run, values)
        mean, n = values.mean(0), len(here)
        best, spread = int(mean.argmax()), float(mean.max() - mean.min())
        others = torch.arange(len(run.modalities)) != best
        able = (here & others).any(1).nonzero().squeeze(1)  # who has something left
        extra = round(2 / 3 * spread * self.strength * n)
        again = able[torch.randperm(len(able), generator=generator)][:extra]
        drop = torch.zeros(n + len(again), len(run.modalities), dtype=torch.bool)
        drop[n:, best] = True
        run.log("modality_valuation/copies", len(again) / n)
        run.set_sampling(torch.cat([torch.arange(n), again]), drop)

    @torch.no_grad()
    def _contributions(self, run: Run, batch: Batch) -> Tensor:
        sets = [s for k in range(1, len(run.modalities) + 1) for s in itertools.combinations(run.modalities, k)]
        found = run.coalitions(batch, sets)
        right = {s: out.logits.argmax(1) == batch.target for s, out in found.items()}
        return contributions(right, run.modalities, self.benefit)

    def _log(self, run: Run, values: Tensor) -> None:
        for m, value in zip(run.modalities, values.mean(0)):
            run.log(f"modality_valuation/{m}", value)


def _rows(chosen: Tensor, x: Tensor) -> Tensor:
    return x[chosen.to(x.device)]


def _present(run: Run, batch: Batch) -> Tensor:
    """(B, M) bool, also where the batch says nothing."""
    if batch.present is not None:
        return batch.present
    return torch.ones(len(batch), len(run.modalities), dtype=torch.bool, device=batch.target.device)

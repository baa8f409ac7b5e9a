"""Data Remixing: each sample trains the modality that separates its classes least, in batches of one modality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from mmzoo.api import Batch, Outputs, Pass, Run, Step, Strategy, Terms


def separability(p: Tensor) -> Tensor:
    """(...) KL(p || uniform) in bits, sum_c p log2(p C), with p at least 1e-9 and not renormalised.

    Args:
        p: (..., C).
    """
    clipped = p.clamp_min(1e-9)
    return (clipped * (clipped * p.shape[-1]).log2()).sum(-1)


def least_separable(scores: Tensor) -> Tensor:
    """(n,) the modality with the smallest score, the last one at a tie.

    Args:
        scores: (M, n).
    """
    number = torch.arange(len(scores), device=scores.device)[:, None]
    return torch.where(scores == scores.amin(0), number, -1).amax(0)


class Remix(Strategy):
    """Trains each sample with the one modality that separates it least (Data Remixing, Ma et al., ICML 2025).

    For `warmup` epochs L = CE(f, y) + warm_weight sum_m CE(o_m, y). Then, before each epoch, one pass in eval mode
    finds for every sample the modality with the least `separability` of softmax(o_m); the sample keeps it and loses the
    others. Batches hold samples of one modality: L = CE(f, y) + weight CE(o_m, y), f the head's logits with the others
    absent. Each sample is used once per epoch.

    The authors' model is the head `separate` with hidden=0. Their code runs the muted encoders too, whose batch
    statistics then change; here they do not run, and their parameters are unchanged.

    Args:
        warmup: epochs at the start, with all modalities.
        warm_weight: factor on the unimodal losses in the warm-up.
        weight: factor on the unimodal loss afterwards.
        order: "blocks" (default) trains all samples of one modality, then those of the next, by name, as in the
            released code; "interleave" shuffles them, and a batch takes one step per modality.
    """

    requires = frozenset({"unimodal"})
    owns = frozenset({"data"})
    single_process = (
        "it assigns the samples of the whole training set, of which each of several processes has only a share"
    )
    min_modalities = 2
    neutral = {"warmup": 1_000_000, "warm_weight": 0.0}  # noqa: RUF012
    cost = {"forward": 2, "backward": 1}  # noqa: RUF012

    def __init__(
        self,
        *,
        warmup: int = 10,
        warm_weight: float = 0.5,
        weight: float = 1.0,
        order: Literal["blocks", "interleave"] = "blocks",
    ) -> None:
        self.warmup = warmup
        self.warm_weight = warm_weight
        self.weight = weight
        self.order = order

    def epoch_start(self, run: Run) -> None:
        if run.epoch < self.warmup:
            return
        names = sorted(run.modalities)  # by name, so that the order in which the data lists them does not matter
        keep = torch.cat([_assigned(run, batch, names) for batch in run.train("remix", shuffled=False)])
        rows = torch.arange(len(keep))
        if self.order == "blocks":
            mixed = torch.randperm(len(keep), generator=run.generator("remix"))
            rows = mixed[keep[mixed].argsort(stable=True)]
        kept = torch.tensor([run.modalities.index(m) for m in names])[keep[rows]]
        drop = torch.arange(len(names)) != kept[:, None]
        for i, m in enumerate(names):
            run.log(f"remix/{m}", (keep == i).double().mean())
        run.set_sampling(rows, drop, ordered=self.order == "blocks")

    def window_end(self, run: Run) -> None:
        run.set_sampling(None)

    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        if step.run.epoch < self.warmup:
            return passes
        return [
            p if len(fed) == 1 else replace(p, name=f"{p.name}/{m}", present=frozenset({m}))
            for p in passes
            for fed in [p.fed(step.run.modalities)]
            for m in sorted(fed)
        ]

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        weight = self.warm_weight if step.run.epoch < self.warmup else self.weight
        if not weight:
            return terms
        own = {f"remix/{m}": weight * step.loss(step.kept(z), step.here(m)) for m, z in out.unimodal.items()}
        return {**terms, **own}


@torch.no_grad()
def _assigned(run: Run, batch: Batch, names: Sequence[str]) -> Tensor:
    """(B,) number of the modality in `names` that each sample keeps, one that it has where it has any."""
    own = run.forward(batch, mode="eval").unimodal
    scores = torch.stack([separability(own[m].softmax(-1)) for m in names])
    if batch.present is not None:
        here = torch.stack([batch.present[:, run.modalities.index(m)] for m in names])
        scores = scores.masked_fill(~here, torch.inf)
    return least_separable(scores).cpu()

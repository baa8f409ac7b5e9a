"""BSS: train first on samples whose modalities agree."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmzoo.api import Batch, Outputs, Run, Step, Strategy, Terms

Similarity = Literal["softmax", "logits"]


def similarities(own: Sequence[Tensor], form: Similarity = "softmax", present: Tensor | None = None) -> Tensor:
    """(n,) the mean over pairs of modalities of the cosine of their predictions.

    Args:
        own: (n, C) of each modality.
        form: of probabilities ("softmax") or of raw logits.
        present: (n, M) bool; incomplete pairs are left out, and a sample without any has the mean of the others. None:
            all.
    """
    vectors = [z.softmax(-1) if form == "softmax" else z for z in own]
    pairs = list(itertools.combinations(range(len(own)), 2))
    cosine = torch.stack([F.cosine_similarity(vectors[a], vectors[b], dim=-1) for a, b in pairs], 1)
    if present is None:
        return cosine.mean(1)
    there = torch.stack([present[:, a] & present[:, b] for a, b in pairs], 1).to(cosine.dtype)
    counted = there.sum(1)
    mean = (cosine * there).sum(1) / counted.clamp_min(1.0)
    some = (counted > 0).to(cosine.dtype)
    return torch.where(counted > 0, mean, (mean * some).sum() / some.sum().clamp_min(1.0))


def sample_losses(
    own: Sequence[Tensor],
    fused: Tensor,
    target: Tensor,
    own_weight: float = 1.0,
    fused_weight: float = 1.0,
    present: Tensor | None = None,
) -> Tensor:
    """(n,) own_weight sum_m CE_m + fused_weight CE of the joint logits.

    Args:
        own: (n, C) of each modality.
        fused: (n, C).
        target: (n,).
        own_weight: factor on the unimodal losses.
        fused_weight: factor on the joint loss.
        present: (n, M) bool; absent modalities count as the mean of the others. None: all.
    """
    each = torch.stack([F.cross_entropy(z, target, reduction="none") for z in own], 1)
    if present is not None:
        there = present.to(each.dtype)
        each = each * there * (len(own) / there.sum(1, keepdim=True).clamp_min(1.0))
    return own_weight * each.sum(1) + fused_weight * F.cross_entropy(fused, target, reduction="none")


def scaled(values: Tensor) -> Tensor:
    """(n,) (v - min) / (max - min); zeros if all are equal."""
    low, high = values.amin(), values.amax()
    return torch.where(high > low, (values - low) / torch.where(high > low, high - low, 1.0), 0.0)


def hardness(similarity: Tensor, loss: Tensor) -> Tensor:
    """(n,) (1 - `similarity`) + `loss`, each scaled to [0, 1]."""
    return (1.0 - scaled(similarity)) + scaled(loss)


def draw_weights(similarity: Tensor, loss: Tensor, floor: float = 0.01) -> Tensor:
    """(n,) 1 - (loss - similarity) + floor, each scaled to [0, 1]: proportional to the probability to be drawn next.

    Args:
        similarity: (n,).
        loss: (n,).
        floor: smallest weight.
    """
    return 1.0 - (scaled(loss) - scaled(similarity)) + floor


def pace(epoch: int, start: float, grow: float) -> float:
    """The fraction of the samples in an epoch counted from 1: the root of a line from start^2 to 1.

    Args:
        epoch: the epoch, from 1.
        start: the fraction at the start.
        grow: epochs until it is 1.
    """
    return min(1.0, math.sqrt(start**2 + epoch * (1.0 - start**2) / grow)) if grow > 0 else 1.0


class BSS(Strategy):
    """Orders training samples by how much their modalities agree (Zhou et al., IJCAI 2025).

    Balance-aware sequence sampling. L = own sum_m CE(o_m, y) + fused CE(f, y). s is the mean cosine of the modalities'
    predictions for a sample, l its loss, each scaled to [0, 1] over the training set. Scores are computed in eval mode;
    the authors compute them in train mode, where they change batch statistics and are noisy. The authors' model is the
    head `separate` with hidden=0.

    Args:
        mode: "curriculum" (default) sorts samples by (1 - s) + l once, with the initial model, and trains epoch t (from
            1) on the first n pace(t) of them. "sampling" draws before each epoch an order of all samples without
            replacement, with probabilities proportional to 1 - l + s + floor.
        own: factor on the unimodal losses.
        fused: factor on the joint loss.
        start: fraction of the samples at the start of the curriculum, before its first epoch.
        grow: fraction of the run after which it uses all samples.
        floor: smallest weight in a draw; the largest is 2.
        similarity: of probabilities ("softmax") or of raw logits.
        decision: prediction from "sum": sum_m o_m + f (the authors', default); "own": sum_m o_m (their script for
            CREMA-D); over the modalities present. "head": that of the head.
    """

    requires = frozenset({"unimodal"})
    owns = frozenset({"data", "predict", "task"})
    single_process = (
        "it orders the samples of the whole training set, of which each of several processes has only a share"
    )
    min_modalities = 2
    neutral = {"mode": "curriculum", "own": 0.0, "fused": 1.0, "start": 1.0}  # noqa: RUF012
    state = ("order",)
    cost = {"forward": 1, "backward": 1}  # noqa: RUF012

    def __init__(
        self,
        *,
        mode: Literal["curriculum", "sampling"] = "curriculum",
        own: float = 1.0,
        fused: float = 1.0,
        start: float = 0.1,
        grow: float = 1 / 3,
        floor: float = 0.01,
        similarity: Similarity = "softmax",
        decision: Literal["sum", "own", "head"] = "sum",
    ) -> None:
        self.mode = mode
        self.own = own
        self.fused = fused
        self.start = start
        self.grow = grow
        self.floor = floor
        self.similarity = similarity
        self.decision = decision
        if mode == "sampling":
            self.cost = {"forward": 2, "backward": 1}
        self.order: Tensor | None = None

    def epoch_start(self, run: Run) -> None:
        if self.mode == "sampling":
            weights = draw_weights(*self._scores(run), self.floor).cpu()
            order = torch.multinomial(weights, len(weights), generator=run.generator("bss"))
            run.set_sampling(order, ordered=True)
            return
        share = pace(run.epoch + 1, self.start, self.grow * run.n_epochs)
        run.log("bss/share", share)
        if share >= 1.0:
            run.set_sampling(None)
            return
        if self.order is None:
            self.order = hardness(*self._scores(run)).argsort(stable=True).cpu()
        run.set_sampling(self.order[: max(1, int(share * len(self.order)))])

    def window_end(self, run: Run) -> None:
        run.set_sampling(None)

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        terms = {**terms, "task": self.fused * terms["task"]}
        if not self.own:
            return terms
        own = {f"bss/{m}": self.own * step.loss(step.kept(z), step.here(m)) for m, z in out.unimodal.items()}
        return {**terms, **own}

    def predict(self, out: Outputs) -> Outputs:
        if self.decision == "head":
            return out
        parts = [z if out.present is None else z * out.present[m][:, None] for m, z in out.unimodal.items()]
        total = torch.stack([*parts, *([out.logits] if self.decision == "sum" else [])]).sum(0)
        return out.replace(logits=total, ranking=None)

    def _scores(self, run: Run) -> tuple[Tensor, Tensor]:
        """(n,) similarity and (n,) loss of every training sample."""
        found = [self._of_batch(run, batch) for batch in run.train("bss", shuffled=False)]
        own, fused, target, present = zip(*found)
        logits = [torch.cat(pieces) for pieces in zip(*own)]
        here = None if present[0] is None else torch.cat(present)
        joint, y = torch.cat(fused), torch.cat(target)
        return (
            similarities(logits, self.similarity, here),
            sample_losses(logits, joint, y, self.own, self.fused, here),
        )

    @torch.no_grad()
    def _of_batch(self, run: Run, batch: Batch) -> tuple[list[Tensor], Tensor, Tensor, Tensor | None]:
        out = run.forward(batch, mode="eval")
        return [out.unimodal[m] for m in run.modalities], out.logits, batch.target, batch.present

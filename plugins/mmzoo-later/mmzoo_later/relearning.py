"""Diagnosing and re-learning: reset an encoder towards its initial weights by how much it overfits."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmzoo.api import Batch, Run, Strategy


def purity(features: Tensor, target: Tensor, n_clusters: int) -> float:
    """The fraction of samples in the most common class of their cluster, under k-means of features scaled to [0, 1].

    Clusters are those of scikit-learn's KMeans with seed 0; with fewer samples than clusters each sample is one.

    Args:
        features: (n, D).
        target: (n,).
        n_clusters: number of clusters.
    """
    from sklearn.cluster import KMeans  # a second to import, and needed a few times a run

    x = features.double()
    low, high = x.amin(0), x.amax(0)
    x = (x - low) / torch.where(high > low, high - low, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct items than clusters is nothing to worry about
        found = KMeans(min(n_clusters, len(x)), random_state=0).fit_predict(x.cpu().numpy())
    cluster, classes = torch.as_tensor(found, dtype=torch.int64), target.cpu()
    size = int(classes.max()) + 1
    counts = torch.bincount(cluster * size + classes, minlength=n_clusters * size).view(-1, size)
    return float(counts.amax(1).sum()) / len(x)


def forgetting(gap: Tensor, strength: float = 3.0) -> Tensor:
    """w = tanh(`strength` * |`gap`|): how far a modality is reset towards its initial weights."""
    return torch.tanh(strength * gap.abs())


class Relearning(Strategy):
    """Resets encoders towards their initial weights by their generalisation gap (Wei et al., ECCV 2024).

    After every `every` epochs, at most `times` times and never after the last: gap_m = |purity of m's features on
    training samples - purity on the meta set|, w_m = tanh(strength gap_m), theta_m <- w_m theta_m(initial) + (1 - w_m)
    theta_m for all parameters of encoder m. Batch statistics, head and optimizer state are unchanged. Samples without
    the modality are left out.

    Differs from the authors, who compare training and validation samples: here a meta set replaces the latter, since
    validation selects the epoch. Features are scaled to [0, 1] on each of the two sets separately.

    Args:
        every: epochs between two resets.
        times: largest number of resets.
        strength: factor on the gap.
    """

    requires = frozenset({"slice"})
    state = ("initial", "done")
    single_process = "it clusters the features of whole splits, of which each of several processes has only a share"
    neutral = {"strength": 0.0}  # noqa: RUF012
    cost = {"forward": 1.05, "backward": 1, "slice": 0.05}  # noqa: RUF012

    def __init__(self, *, every: int = 20, times: int = 3, strength: float = 3.0) -> None:
        self.every = every
        self.times = times
        self.strength = strength
        self.requires = frozenset({"slice"} if strength else ())
        often = 1 / every if strength else 0
        self.cost = {"forward": 1 + often, "backward": 1, "slice": often}
        self.initial: dict[str, dict[str, Tensor]] = {}
        self.done = 0

    def setup(self, run: Run) -> None:
        if self.strength and not self.initial:
            self.initial = {m: run.snapshot(f"encoder:{m}") for m in _trained(run)}

    def epoch_end(self, run: Run, metrics: Mapping[str, Any]) -> None:
        due = (run.epoch + 1) % self.every == 0 and self.done < self.times and run.epoch + 1 < run.n_epochs
        if not self.strength or not due:
            return
        self.done += 1
        seen, unseen = _features(run, run.train("relearning")), _features(run, run.meta_batches("relearning"))
        for m in _trained(run):
            w = forgetting(run.reduce(self._gap(run, seen[m], unseen[m])), self.strength)
            run.log(f"relearning/{m}", w)
            run.edit(f"encoder:{m}", partial(_back, self.initial[m], w))

    @staticmethod
    def _gap(run: Run, seen: tuple[Tensor, Tensor], unseen: tuple[Tensor, Tensor]) -> Tensor:
        if not len(seen[1]) or not len(unseen[1]):
            return torch.zeros((), device=run.device)
        a, b = (purity(*items, run.n_classes) for items in (seen, unseen))
        return torch.tensor(abs(a - b), device=run.device)


def _back(initial: Mapping[str, Tensor], w: Tensor, name: str, value: Tensor) -> Tensor:
    """(1 - w) value + w initial."""
    return torch.lerp(value, initial[name], w.to(value))


def _trained(run: Run) -> list[str]:
    """The modalities whose encoders have parameters."""
    return [m for m in run.modalities if f"encoder:{m}" in run.model.groups()]


@torch.no_grad()
def _features(run: Run, batches: Iterable[Batch]) -> dict[str, tuple[Tensor, Tensor]]:
    """modality -> (n, D) features in eval mode and (n,) targets of the items that have it."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {m: [] for m in run.modalities}
    for batch in batches:
        for i, (m, z) in enumerate(run.forward(batch, mode="eval").features.items()):
            here = slice(None) if batch.present is None else batch.present[:, i]
            found[m].append((z[here], batch.target[here]))
    return {m: (torch.cat([z for z, _ in pieces]), torch.cat([y for _, y in pieces])) for m, pieces in found.items()}

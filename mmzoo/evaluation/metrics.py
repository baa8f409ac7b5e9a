"""Scores of predictions. Oracles in the tests: scikit-learn, and the vectors of the authors' code."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def accuracy(scores: Tensor, target: Tensor) -> float:
    """Share of items whose highest score is the target's; ties go to the first class."""
    return float((scores.argmax(1) == target).double().mean())


def macro_f1(scores: Tensor, target: Tensor) -> float:
    """F1 of the arg-max, averaged over the classes that occur in the target or among the predictions.

    This is scikit-learn's rule; averaging over all classes instead lowers the number where a class is absent.
    """
    predicted, n_classes = scores.argmax(1), scores.shape[1]
    hits = torch.bincount(target[predicted == target], minlength=n_classes)
    total = torch.bincount(target, minlength=n_classes) + torch.bincount(predicted, minlength=n_classes)
    occurs = total > 0
    return float((2 * hits[occurs].double() / total[occurs].double()).mean())


def average_precision(scores: Tensor, target: Tensor) -> Tensor:
    """(C,) step-wise average precision of each score column, equal scores grouped; NaN without positives.

    scores: (N, C), used as they are: softmax scores and raw logits give different numbers, since the softmax
    couples the columns.
    """
    n, n_classes = scores.shape
    ranked, order = scores.double().sort(0, descending=True)
    positive = (target[:, None] == torch.arange(n_classes, device=target.device)).gather(0, order).double()
    found = positive.cumsum(0)
    last = torch.ones_like(ranked, dtype=torch.bool)
    last[:-1] = ranked[:-1] != ranked[1:]
    at_last = torch.where(last, found, 0.0)
    before = torch.cat([torch.zeros_like(at_last[:1]), at_last.cummax(0).values[:-1]])
    precision = found / torch.arange(1, n + 1, device=scores.device).double()[:, None]
    return (torch.where(last, found - before, 0.0) * precision).sum(0) / found[-1]


def mean_average_precision(scores: Tensor, target: Tensor) -> float:
    """Mean of the average precision over the classes that have at least one item."""
    return float(average_precision(scores, target).nanmean())


def classification(scores: Tensor, target: Tensor, logits: Tensor) -> dict[str, float]:
    """acc, macro_f1 and map of `scores` (N, C), and the cross-entropy `loss` of `logits`."""
    return {
        "acc": accuracy(scores, target),
        "macro_f1": macro_f1(scores, target),
        "map": mean_average_precision(scores, target),
        "loss": float(F.cross_entropy(logits.double(), target)),
    }


def gap(scores: Mapping[str, float]) -> float:
    """Largest minus smallest score of the modalities; for two this is the absolute difference of the paper's GAP."""
    return max(scores.values()) - min(scores.values()) if scores else 0.0


def imbalance(shares: Mapping[str, float]) -> float:
    """(max - min) / sum of |phi| of the modalities' contributions phi: 0 where all give the same, 1 where one gives all.

    Our definition: papers speak of a normalised difference of Shapley values, and no released code has one. It is at
    most 1, also with contributions below zero; 0 where nothing contributes.
    """
    total = sum(map(abs, shares.values()))
    return gap(shares) / total if total else 0.0


def utilisation(whole: float, without: float) -> float:
    """u = (A - A_without) / A: the share of the accuracy A that is lost without a modality; below zero if it is in the way.

    For two modalities A_without is the accuracy of the other alone, u(m1|m2); for more, of all others together. After
    the conditional utilisation rate of Wu et al. (ICML 2022), who take the accuracy of one branch of a coupled model and
    put the mean in place of what the other passes to it; here both are accuracies of the joint answer.
    """
    return (whole - without) / whole


def modality_gap(a: Tensor, b: Tensor, *, normalize: bool = True) -> float:
    """Distance between the centroids of two sets of embeddings (N, D) (Liang et al., NeurIPS 2022).

    normalize: scale each embedding to unit length first; the distance then lies in [0, 2].
    """
    if normalize:
        a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    return float((a.mean(0) - b.mean(0)).norm())

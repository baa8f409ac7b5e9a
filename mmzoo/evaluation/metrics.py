"""Metrics of predictions. Tests compare them with scikit-learn and with vectors of the authors' code."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor


def accuracy(scores: Tensor, target: Tensor) -> float:
    """Fraction of samples whose highest score (N, C) is the target's; ties go to the first class."""
    return float((scores.argmax(1) == target).double().mean())


def macro_f1(scores: Tensor, target: Tensor) -> float:
    """F1 of the arg-max, averaged over the classes that occur in the target or among the predictions.

    This is scikit-learn's rule; averaging over all classes lowers the number if a class is absent.

    Args:
        scores: (N, C).
        target: (N,).
    """
    predicted, n_classes = scores.argmax(1), scores.shape[1]
    hits = torch.bincount(target[predicted == target], minlength=n_classes)
    total = torch.bincount(target, minlength=n_classes) + torch.bincount(predicted, minlength=n_classes)
    occurs = total > 0
    return float((2 * hits[occurs].double() / total[occurs].double()).mean())


def average_precision(scores: Tensor, target: Tensor) -> Tensor:
    """(C,) step-wise average precision of each column of scores, with equal scores grouped; NaN without positives.

    Args:
        scores: (N, C), used as they are: softmax scores and raw logits give different numbers, since the softmax
            couples the columns.
        target: (N,).
    """
    n, n_classes = scores.shape
    ranked, order = scores.double().T.contiguous().sort(1, descending=True)  # rows of memory sort four times as fast
    positive = (target == torch.arange(n_classes, device=target.device)[:, None]).gather(1, order)
    found = positive.cumsum(1).double()
    last = torch.ones_like(ranked, dtype=torch.bool)
    last[:, :-1] = ranked[:, :-1] != ranked[:, 1:]
    at_last = torch.where(last, found, 0.0)
    before = torch.cat([torch.zeros_like(at_last[:, :1]), at_last.cummax(1).values[:, :-1]], 1)
    precision = found / torch.arange(1, n + 1, device=scores.device).double()
    return (torch.where(last, found - before, 0.0) * precision).sum(1) / found[:, -1]


def mean_average_precision(scores: Tensor, target: Tensor) -> float:
    """Mean of the average precision over the classes with at least one sample.

    Args:
        scores: (N, C).
        target: (N,).
    """
    return float(average_precision(scores, target).nanmean())


def classification(scores: Tensor, target: Tensor, logits: Tensor) -> dict[str, float]:
    """acc, macro_f1 and map of the scores, and the cross-entropy `loss` of the logits.

    Args:
        scores: (N, C).
        target: (N,).
        logits: (N, C).
    """
    return {
        "acc": accuracy(scores, target),
        "macro_f1": macro_f1(scores, target),
        "map": mean_average_precision(scores, target),
        "loss": float(F.cross_entropy(logits.double(), target)),
    }


def gap(scores: Mapping[str, float]) -> float:
    """The largest minus the smallest score of the modalities; for two, the absolute difference of the paper's GAP."""
    return max(scores.values()) - min(scores.values()) if scores else 0.0


def imbalance(shares: Mapping[str, float]) -> float:
    """(max - min) / sum of |phi| of the contributions phi: 0 if all are equal, 1 if one modality contributes all.

    Our definition: papers mention a normalised difference of Shapley values, and no released code computes one. It is
    at most 1, also with negative contributions; 0 if nothing contributes.

    Args:
        shares: modality -> contribution phi.
    """
    total = sum(map(abs, shares.values()))
    return gap(shares) / total if total else 0.0


def utilisation(whole: float, without: float) -> float:
    """u = (A - A_without) / A: the fraction of the accuracy A that is lost without a modality; negative if it hurts.

    For two modalities A_without is the accuracy of the other one, u(m1|m2); for more, of all others together. After the
    conditional utilisation rate of Wu et al. (ICML 2022), who use the accuracy of one branch of a coupled model and
    replace what the other passes to it by the mean; here both are accuracies of the joint prediction.

    Args:
        whole: accuracy A with all modalities.
        without: accuracy without the modality.
    """
    return (whole - without) / whole


def modality_gap(a: Tensor, b: Tensor, *, normalize: bool = True) -> float:
    """Distance between the centroids of two sets of embeddings (Liang et al., NeurIPS 2022).

    Args:
        a: (N, D).
        b: (N, D).
        normalize: scale each embedding to unit length first; the distance then lies in [0, 2].
    """
    if normalize:
        a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    return float((a.mean(0) - b.mean(0)).norm())

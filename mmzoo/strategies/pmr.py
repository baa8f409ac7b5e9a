"""Prototypical modal rebalance (PMR): pull the slow modality towards its class prototypes."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmzoo.api import Outputs, Run, Step, Strategy, Terms

Variant = Literal["paper", "code"]


def neg_distance(features: Tensor, prototypes: Tensor, seen: Tensor | None = None) -> Tensor:
    """(B, C) minus the Euclidean distance to each prototype, the logits of eq. 7; -inf for classes never seen.

    The gradient at distance zero is zero, where the square root in the authors' code gives NaN. The same holds at
    distances of rounding size, e.g. to a prototype of one sample: the gradient would be a unit vector of random
    direction.

    Args:
        features: (B, D).
        prototypes: (C, D).
        seen: (C,) bool; None: all.
    """
    distance = torch.cdist(features, prototypes, compute_mode="donot_use_mm_for_euclid_dist")
    with torch.no_grad():
        rounding = 8 * torch.finfo(distance.dtype).eps * torch.linalg.vector_norm(prototypes, dim=1)
    distance = -torch.where(distance > rounding, distance, 0.0)
    return distance if seen is None else distance.masked_fill(~seen, -torch.inf)


def coefficients(scores: Tensor, variant: Variant = "paper") -> Tensor:
    """(M,) weights of the prototype losses: clip(s_max / s_u - 1, 0, 1), zero for the strongest modality.

    For two modalities these are beta and gamma of Fan et al., CVPR 2023, eq. 11; for more the reference is the
    strongest one (ours).

    Args:
        scores: (M,), the sums s_u of true-class probabilities.
        variant: "code": 1 for every modality behind the strongest, as in the authors' code.
    """
    ahead = scores.max() / scores.clamp_min(torch.finfo(scores.dtype).tiny)
    return (ahead - 1.0).clamp(0.0, 1.0) if variant == "paper" else (ahead > 1.0).to(scores.dtype)


def entropies(logits: Tensor) -> Tensor:
    """(B,) entropy of softmax(logits); classes at -inf contribute nothing to value and gradient."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p.masked_fill(torch.isneginf(log_p), 0.0)).sum(-1)


def class_sums(features: Tensor, target: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """(C, D) the sum of the features of each class, and (C,) the number of samples.

    Args:
        features: (B, D).
        target: (B,).
        n_classes: number of classes C.
    """
    total = features.new_zeros(n_classes, features.shape[1]).index_add_(0, target, features)
    return total, torch.bincount(target, minlength=n_classes).to(features.dtype)


def mixed(old: Tensor, fresh: Tensor, momentum: float) -> Tensor:
    """The prototypes after one update: momentum * old + (1 - momentum) * fresh (eq. 12).

    Args:
        old: (C, D).
        fresh: (C, D).
        momentum: weight of the old ones.
    """
    return momentum * old + (1 - momentum) * fresh


class PMR(Strategy):
    """Adds alpha * sum_u c_u * PCE_u, a prototype loss of the slow modalities (PMR, Fan et al., CVPR 2023, eqs. 7-13).

    PCE_u is the cross-entropy under softmax(-distance to class prototypes) of modality u, and c_u follows from the
    batch sums of true-class probabilities (`coefficients`). In the first `entropy_epochs` epochs minus mu * c * H(p of
    the strongest modality) is added, c the largest c_u.

    Prototypes are class means of features in eval mode, over a random `fraction` of the training samples before each
    epoch, mixed as momentum * old + (1 - momentum) * new. A class that does not occur keeps its old prototype, and one
    never seen is left out; in the authors' code it makes every loss NaN.

    Args:
        alpha: factor on the prototype losses; 1 or 2 in the paper.
        mu: factor on the entropy; 0.01 or 0.001 in the paper.
        entropy_epochs: epochs with the entropy term (ours; the paper gives no number).
        momentum: weight of the old prototypes; 0.2 in the code.
        fraction: fraction of the training samples; 0.1 in the paper.
        variant: "paper" (default): as above. "code": hard c_u, no entropy term, and no momentum before the third set of
            prototypes, as in the authors' code.
    """

    min_modalities = 2
    neutral = {"alpha": 0.0, "mu": 0.0}  # noqa: RUF012
    state = ("prototypes", "seen", "updates")
    # One extra forward for a tenth of the data, an epoch.
    cost = {"forward": 1.1, "backward": 1}  # noqa: RUF012

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        mu: float = 0.01,
        entropy_epochs: int = 10,
        momentum: float = 0.2,
        fraction: float = 0.1,
        variant: Variant = "paper",
    ) -> None:
        self.alpha = alpha
        self.mu = mu
        self.entropy_epochs = entropy_epochs
        self.momentum = momentum
        self.fraction = fraction
        self.variant = variant
        self.cost = {"forward": 1 + fraction, "backward": 1}
        self.prototypes: dict[str, Tensor] = {}
        self.seen: dict[str, Tensor] = {}
        self.updates = 0

    @torch.no_grad()
    def epoch_start(self, run: Run) -> None:
        wanted = max(1, int(self.fraction * run.steps_per_epoch))
        features: dict[str, list[Tensor]] = {m: [] for m in run.modalities}
        targets: dict[str, list[Tensor]] = {m: [] for m in run.modalities}
        for i, batch in enumerate(run.train("pmr")):
            if i == wanted:
                break
            out = run.forward(batch, mode="eval")
            for column, m in enumerate(run.modalities):
                here = slice(None) if batch.present is None else batch.present[:, column]
                features[m].append(out.features[m][here])
                targets[m].append(batch.target[here])
        for m in run.modalities:
            total, count = class_sums(torch.cat(features[m]), torch.cat(targets[m]), run.n_classes)
            total, count = run.reduce(total), run.reduce(count)
            self._absorb(m, total / count.clamp_min(torch.finfo(count.dtype).tiny)[:, None], count > 0)
        self.updates += 1

    def _absorb(self, modality: str, fresh: Tensor, seen: Tensor) -> None:
        if modality not in self.prototypes:
            if not bool(seen.any()):  # no drawn item has this modality: no prototypes yet, and no loss
                return
            self.prototypes[modality], self.seen[modality] = fresh, seen
            return
        momentum = 0.0 if self.variant == "code" and self.updates < 2 else self.momentum
        old, known = self.prototypes[modality], self.seen[modality]
        fresh = torch.where(known[:, None], mixed(old, fresh, momentum), fresh)
        self.prototypes[modality] = torch.where(seen[:, None], fresh, old)
        self.seen[modality] = known | seen

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        if self.alpha == 0.0 and self.mu == 0.0:
            return terms
        logits = {
            m: neg_distance(step.kept(z), self.prototypes[m], self.seen[m])
            for m, z in out.features.items()
            if m in self.prototypes
        }
        if len(logits) < 2:
            return terms
        with torch.no_grad():
            scores = step.true_class_scores(logits)
            weights = coefficients(scores, self.variant)
        added: dict[str, Tensor] = {}
        for (m, z), weight in zip(logits.items(), weights):
            added[f"pmr/{m}"] = self.alpha * weight * self._prototype_loss(step, z, step.here(m))
        if self.variant == "paper" and step.run.epoch < self.entropy_epochs and self.mu:
            strongest = torch.zeros_like(scores).index_fill_(0, scores.argmax(), 1.0)
            spread = torch.stack([step.mean(entropies(z), step.here(m)) for m, z in logits.items()])
            added["pmr/entropy"] = -self.mu * weights.max() * (spread * strongest).sum()
        return {**terms, **added}

    @staticmethod
    def _prototype_loss(step: Step, logits: Tensor, here: Tensor | None) -> Tensor:
        """Mean of -log p over the items that have the modality and whose class has a prototype."""
        loss = F.cross_entropy(logits, step.target, reduction="none")
        return step.mean(loss, torch.isfinite(loss) if here is None else torch.isfinite(loss) & here)

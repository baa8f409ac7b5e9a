"""Alternating unimodal adaptation (MLA): the modalities take turns to train a shared classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from mmzoo.api import Grads, Incompatible, Outputs, Pass, Run, Step, Strategy, Terms

Projection = Literal["owm", "owm_normalized", "released", "none"]
#: number of modalities -> the weights that the authors' script types in, for audio, visual and text in this order
FIXED: Mapping[int, tuple[float, ...]] = {2: (0.55, 0.45), 3: (0.35, 0.25, 0.4)}


def damping(batch: int, n_batches: int) -> float:
    """a = 0.1^(1 + batch / n_batches): from 0.1 at the start of an epoch to 0.01 at its end.

    Args:
        batch: index of the batch in its epoch.
        n_batches: batches per epoch.
    """
    found: float = 0.1 ** (1.0 + batch / n_batches)
    return found


def next_matrix(matrix: Tensor, mean: Tensor, a: float, projection: Projection = "owm") -> Tensor:
    """(D, D) the projection after a pass whose features have the mean r, with k = P r.

    Args:
        matrix: (D, D), the projection P before.
        mean: (D,), r.
        a: damping.
        projection: "owm": P - k k^T / (a + r^T k), recursive least squares as in OWM; P stays symmetric with
            eigenvalues in [0, 1]. "owm_normalized": the same, divided by its Frobenius norm. "released": P - k k^T / (a
            + k r^T), divided entry by entry, then by the norm; neither symmetric nor positive, and entries explode
            where the denominator is small. It amplifies rounding errors: two runs that differ by 1e-16 are unrelated
            after a few hundred passes.

    Returns:
        The new projection, or `matrix` if the new one is not finite.
    """
    k = matrix @ mean
    below = a + torch.outer(k, mean) if projection == "released" else a + (mean @ k).clamp_min(0.0)
    moved = matrix - torch.outer(k, k) / below
    if projection != "owm":
        moved = moved / moved.norm()
    return torch.where(moved.isfinite().all(), moved, matrix)


def projected(grad: Tensor, matrix: Tensor) -> Tensor:
    """The gradient (..., C, D) of the classifier's weight, times P^T."""
    return grad @ matrix.mT


def entropies(logits: Tensor) -> Tensor:
    """(...) the entropy of softmax(logits) over the last axis; a probability of zero contributes nothing."""
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p).sum(-1)


def entropy_weights(logits: Tensor, here: Tensor | None = None) -> Tensor:
    """(B, M) w_m = exp(max_j H_j - H_m) / sum, i.e. softmax over modalities of -H_m, for each sample.

    Args:
        logits: (B, M, C).
        here: (B, M) bool; an absent modality has weight zero, and a sample without any has finite weights. None: all.
    """
    return _shares(-entropies(logits), here)


def fused(logits: Tensor, weights: Tensor) -> Tensor:
    """(B, C) the weighted sum over modalities of logits (B, M, C).

    Args:
        logits: (B, M, C).
        weights: (B, M) or (M,).
    """
    return (weights.unsqueeze(-1) * logits).sum(-2)


def _shares(log_weight: Tensor, here: Tensor | None) -> Tensor:
    if here is not None:
        log_weight = log_weight.masked_fill(~here & here.any(1, keepdim=True), -torch.inf)
    return log_weight.softmax(1)


class MLA(Strategy):
    """Trains one modality after the other through a shared classifier (MLA, Zhang et al., CVPR 2024).

    Each batch takes one pass per modality, in the data's order: the modality's encoder and the shared classifier take a
    step on its cross-entropy, and the next modality starts from the classifier as updated. There is no joint loss.
    Samples without the modality are left out of its pass. The gradient of the classifier's weight is multiplied by P^T
    from the right (`next_matrix`), so that a step for one modality moves little along the mean features of earlier
    ones. P starts as the identity and is updated from the second pass on. The bias is not projected. P is never reset:
    with "owm" it shrinks throughout the run, and late in training the classifier's weight hardly moves.

    Recorded each epoch: the loss of each modality's passes, and `mla/kept`, the fraction of the classifier's gradient,
    by norm, that the projection keeps.

    Differs from the authors' code, which takes the softmax of the entropies over the batch, with one entropy per batch,
    so that a prediction depends on the other samples; this is not offered. Under the PyTorch release that they pin, the
    encoder of the first modality takes a second step with a zero gradient, which moves it by momentum and weight decay;
    here every encoder takes one step per batch.

    Args:
        projection: "owm" (default) is the paper's form as we read it. "released" is the formula of the authors' code,
            where it has no effect, since the code looks for a parameter by a name that does not occur. "none" is what
            that code computes. "owm_normalized": see `next_matrix`.
        fusion: the decision rule. "entropy" (default): unimodal logits weighted for each sample by `entropy_weights`.
            "fixed": the constant weights of the authors' script, for two or three modalities in the data's order.
            "mean": equal weights.
    """

    requires = frozenset({"unimodal"})
    owns = frozenset({"predict"})
    min_modalities = 2
    state = ("matrix", "passes")
    expected_failures = {"check_modality_order": "modalities take turns in the data's order"}  # noqa: RUF012

    def __init__(
        self, *, projection: Projection = "owm", fusion: Literal["entropy", "fixed", "mean"] = "entropy"
    ) -> None:
        self.projection = projection
        self.fusion = fusion
        self.matrix: Tensor | None = None
        self.passes = 0

    def setup(self, run: Run) -> None:
        if self.fusion == "fixed" and len(run.modalities) not in FIXED:
            raise Incompatible(
                f"fusion 'fixed' has weights for {' or '.join(map(str, FIXED))} modalities, not for "
                f"{len(run.modalities)}: take fusion=entropy or fusion=mean."
            )
        head = run.model.head
        if self.projection != "none" and not _classifiers(run, run.model.groups().get("head:shared", [])):
            raise Incompatible(
                f"MLA projects the gradient of a classifier that all modalities share; head {type(head).__name__} has none as "
                f"wide as its features ({head.dims}). {head.cures.get('shared', 'Take head shared, or projection=none.')}"
            )
        if head.how == "slice":
            raise Incompatible(
                f"MLA trains each modality's own logits, and those of head {type(head).__name__} are slices of a joint "
                f"classifier with a share of its bias. {head.cures.get('own', 'Take the head shared or sum.')}"
            )

    def plan(self, step: Step, passes: Sequence[Pass]) -> Sequence[Pass]:
        return [
            p if len(fed) == 1 else replace(p, name=f"{p.name}/{m}", present=frozenset({m}))
            for p in passes
            for fed in [p.fed(step.run.modalities)]
            for m in fed
        ]

    @torch.no_grad()
    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        if self.projection == "none" or len(out.features) != 1:
            return
        ((modality, z),) = out.features.items()
        if self.matrix is None:
            self.matrix = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        if self.passes:
            a = damping(step.run.batch_in_epoch, step.run.steps_per_epoch)
            self.matrix = next_matrix(self.matrix, self._mean(step, modality, z), a, self.projection)
        self.passes += 1
        for p in _classifiers(step.run, grads.params("head:shared")):
            before: Tensor = p.grad  # type: ignore[assignment]
            p.grad = projected(before, self.matrix)
            step.run.log("mla/kept", p.grad.norm() / before.norm().clamp_min(torch.finfo(before.dtype).tiny))

    @staticmethod
    def _mean(step: Step, modality: str, z: Tensor) -> Tensor:
        """(D,) mean of the features over the items, of all processes, that have the modality."""
        kept, here = step.kept(z), step.here(modality)
        weight = kept.new_ones(len(kept)) if here is None else here.to(z.dtype)
        sums = step.run.reduce(torch.cat([weight @ kept, weight.sum()[None]]))
        return sums[:-1] / sums[-1].clamp_min(torch.finfo(z.dtype).tiny)

    def updated(self, step: Step, out: Outputs, terms: Terms) -> None:
        if len(out.features) == 1:
            step.run.log(f"mla/{next(iter(out.features))}", terms["task"])

    def predict(self, out: Outputs) -> Outputs:
        logits = torch.stack(list(out.unimodal.values()), 1)
        here = None if out.present is None else torch.stack([out.present[m] for m in out.unimodal], 1)
        if self.fusion == "entropy":
            weights = entropy_weights(logits, here)
        else:
            n = logits.shape[1]
            typed = FIXED[n] if self.fusion == "fixed" else (1.0,) * n
            weights = _shares(logits.new_tensor(typed).log().expand(len(logits), -1), here)
        return out.replace(ranking=fused(logits, weights).softmax(-1))


def _classifiers(run: Run, params: Sequence[nn.Parameter]) -> list[nn.Parameter]:
    """The weights among `params` that turn features of the common width into logits."""
    widths = set(run.model.head.dims.values())
    return [p for p in params if len(widths) == 1 and p.shape == (run.n_classes, *widths)]

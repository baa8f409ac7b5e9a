"""Divergence-orientated fusion (DOMFN): samples on which the modalities disagree are left to single modalities."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mmzoo.api import Outputs, Run, Step, Strategy, Terms

Squash = Literal["softmax", "sigmoid"]

#: cross-entropy of an item from which its amended loss grows in proportion to it: a true class held for 2e-9
LIMIT = 20.0


def squashed(logits: Tensor, squash: Squash = "softmax") -> Tensor:
    """The scores in [0, 1] that predictions are compared by, (..., C).

    Args:
        logits: (..., C).
        squash: "softmax" or "sigmoid".
    """
    return logits.softmax(-1) if squash == "softmax" else logits.sigmoid()


def cross_entropy(logits: Tensor, target: Tensor, squash: Squash = "softmax") -> Tensor:
    """(B, ...) cross-entropy of each sample.

    Args:
        logits: (B, ..., C).
        target: (B,).
        squash: "sigmoid" uses the sigmoid scores as logits, as the authors' code does; the loss is then never below
            log(1 + (C - 1) / e).
    """
    log_p = (logits if squash == "softmax" else logits.sigmoid()).log_softmax(-1)
    at = target.view(-1, *[1] * (logits.ndim - 1)).expand(*logits.shape[:-1], 1)
    return -log_p.gather(-1, at).squeeze(-1)


def amended(own: Tensor, d: Tensor, eta: float) -> Tensor:
    """c^2 / 2 - eta d for each sample; above c = LIMIT the square continues as its tangent, which bounds the gradient.

    Args:
        own: the cross-entropies c.
        d: the divergences.
        eta: factor on the divergences.
    """
    square = torch.where(own < LIMIT, 0.5 * own.square(), LIMIT * (own - 0.5 * LIMIT))
    return square - eta * d


def mean_scores(own: Tensor, here: Tensor | None = None) -> Tensor:
    """(B, C) the mean score of the modalities present.

    Args:
        own: (B, M, C).
        here: (B, M) bool; None: all.
    """
    if here is None:
        return own.mean(1)
    weight = here.to(own.dtype)
    return (weight.unsqueeze(-1) * own).sum(1) / weight.sum(1, keepdim=True).clamp_min(1.0)


def divergences(own: Tensor, reference: Tensor, here: Tensor | None = None) -> Tensor:
    """(B, M) d_m = max_c (p_mc - r_c)^2, zero for an absent modality.

    If the reference is the mean of the modalities, d_m is at most ((M - 1) / M)^2, a quarter for two of them.

    Args:
        own: (B, M, C), the scores p.
        reference: (B, C) or (B, M, C), the reference r.
        here: (B, M) bool; None: all.
    """
    r = reference if reference.ndim == own.ndim else reference.unsqueeze(1)
    d = (own - r).square().amax(-1)
    return d if here is None else d * here


def agree(d: Tensor, tau: float, gamma: float) -> Tensor:
    """(B,) bool, whether d_m / tau < gamma for every modality; the joint classifier is then trusted.

    Args:
        d: (B, M), the divergences.
        tau: scale of the divergences.
        gamma: threshold.
    """
    return (d / tau < gamma).all(1)


def decision(own: Tensor, joint: Tensor, trusted: Tensor, here: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(B, C) the scores that decide, and (B,) their source: -1 for the joint classifier, else the modality's column.

    If the joint classifier is not trusted, the modality with the highest single score decides; the first of equal ones,
    where the authors' code keeps the result of the previous sample.

    Args:
        own: (B, M, C).
        joint: (B, C).
        trusted: (B,) bool.
        here: (B, M) bool; None: all.
    """
    confidence = own.amax(-1)
    if here is not None:
        confidence = confidence.masked_fill(~here, -1.0)
    best = confidence.argmax(1)
    rows = own.gather(1, best.view(-1, 1, 1).expand(-1, 1, own.shape[-1])).squeeze(1)
    return torch.where(trusted[:, None], joint, rows), torch.where(trusted, -1, best)


class DOMFN(Strategy):
    """Trains on the joint loss only where the modalities agree (DOMFN, Yang et al., ACM MM 2022), sample by sample.

    With p_m the scores of modality m, c_m its cross-entropy, c_0 that of the joint logits, and the divergence d_m =
    max_c (p_m - r)^2 from the reference r, a sample is trained on
      sum_m (c_m^2 / 2 - eta d_m) + sum_m c_m + c_0   if d_m / tau < gamma for every m,
      sum_m c_m                                       otherwise,
    and on sum_m c_m alone in the first `pretrain` epochs. The joint classifier decides in the first case, otherwise and
    during pretraining the most confident modality. The evaluated logits are those that decide. Absent modalities are
    left out.

    Only the abstract of the paper was available; the formulas are those of the authors' two releases, which differ.
    Ours: softmax scores, a tangent for c^2 / 2 above c = 20 (their c is always smaller), and the mean over the samples
    of a batch (theirs holds one).

    Args:
        eta: factor on the divergences.
        gamma: threshold of the divergences over tau.
        tau: scale of the divergences.
        pretrain: epochs of unimodal training at the start.
        squash: "softmax" (ours) or "sigmoid", the authors' scores, with the cross-entropy of the scores.
        reference: "mean": r is the mean of the p_m (their code for MOSI). "joint": r is p_0 (their code for resumes).
        fallback: the loss where modalities disagree. "ce": as above (MOSI). "amended": sum_m (c_m^2 / 2 - eta d_m),
            each modality moving only itself, with everything else in d_m constant (resumes; there the encoder also
            moves p_0).
    """

    requires = frozenset({"unimodal"})
    owns = frozenset({"task", "predict"})
    min_modalities = 2
    state = ("joint_trained",)

    def __init__(
        self,
        *,
        eta: float = 0.5,
        gamma: float = 0.8,
        tau: float = 0.2,
        pretrain: int = 5,
        squash: Squash = "softmax",
        reference: Literal["mean", "joint"] = "mean",
        fallback: Literal["ce", "amended"] = "ce",
    ) -> None:
        self.eta = eta
        self.gamma = gamma
        self.tau = tau
        self.pretrain = pretrain
        self.squash: Squash = squash
        self.reference = reference
        self.fallback = fallback
        self.joint_trained = True  # before any epoch of its own: what others train, in front of a window for instance

    def setup(self, run: Run) -> None:
        n = len(run.modalities)
        most = ((n - 1) / n) ** 2 if self.reference == "mean" else 1.0
        if most < self.tau * self.gamma:
            run.warn(
                f"DOMFN: with {n} modalities no divergence exceeds {most:.2f}, and the gate closes at tau * gamma = "
                f"{self.tau * self.gamma:.2g}: every sample is fused. A smaller tau changes that"
            )

    def epoch_start(self, run: Run) -> None:
        self.joint_trained = run.epoch >= self.pretrain

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        logits = torch.stack([step.kept(z) for z in out.unimodal.values()], 1)
        columns = [step.here(m) for m in out.unimodal]
        here = None if columns[0] is None else torch.stack([h for h in columns if h is not None], 1)
        own = cross_entropy(logits, step.target, self.squash)
        own = own if here is None else own * here
        if step.run.epoch < self.pretrain:
            return {**terms, "task": step.mean(own.sum(1))}
        joint = step.kept(out.logits)
        p, p_joint = squashed(logits, self.squash), squashed(joint, self.squash)
        d = divergences(p, self._reference(p, p_joint, here), here)
        trusted = agree(d.detach(), self.tau, self.gamma)
        step.run.log("domfn/trusted", step.mean(trusted.to(d.dtype)))
        together = (amended(own, d, self.eta) + own).sum(1) + cross_entropy(joint, step.target, self.squash)
        apart = own.sum(1)
        if self.fallback == "amended":
            d = divergences(p, self._held(p, p_joint, here), here)
            apart = amended(own, d, self.eta).sum(1)
        return {**terms, "task": step.mean(torch.where(trusted, together, apart))}

    def predict(self, out: Outputs) -> Outputs:
        p = squashed(torch.stack(list(out.unimodal.values()), 1), self.squash)
        p_joint = squashed(out.logits, self.squash)
        here = None if out.present is None else torch.stack([out.present[m] for m in out.unimodal], 1)
        d = divergences(p, self._reference(p, p_joint, here), here)
        trusted = agree(d, self.tau, self.gamma) & self.joint_trained
        scores, whose = decision(p, p_joint, trusted, here)
        every = torch.stack([*out.unimodal.values(), out.logits], 1)
        logits = every[torch.arange(len(every), device=every.device), whose]
        return out.replace(logits=logits, ranking=scores, aux={**out.aux, "divergence": d, "decision": whose})

    def _reference(self, p: Tensor, p_joint: Tensor, here: Tensor | None) -> Tensor:
        return mean_scores(p, here) if self.reference == "mean" else p_joint

    def _held(self, p: Tensor, p_joint: Tensor, here: Tensor | None) -> Tensor:
        """(B, M, C) or (B, C): the reference, of which each modality moves no more than its own part."""
        r = self._reference(p, p_joint, here).detach()
        if self.reference == "joint":
            return r
        n = p.shape[1] if here is None else here.sum(1).clamp_min(1)[:, None, None]
        return r.unsqueeze(1) + (p - p.detach()) / n

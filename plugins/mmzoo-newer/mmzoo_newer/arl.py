"""ARL: speed up the modality that contributes less than its certainty warrants."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mmzoo.api import Grads, Outputs, Step, Strategy, Terms
from mmzoo_newer.single import single_logits


def entropies(logits: Tensor) -> Tensor:
    """(...) the Shannon entropy of softmax(logits) in nats, with the authors' 1e-16 inside the logarithm.

    Args:
        logits: (..., C).
    """
    p = logits.softmax(-1)
    return -(p * (p + 1e-16).log()).sum(-1)


def shares(values: Tensor) -> Tensor:
    """(M,) values over their sum; equal shares where the sum is zero."""
    total = values.sum()
    return torch.where(total > 0, values / torch.where(total > 0, total, 1.0), 1.0 / len(values))


def inverse_variances(entropy: Tensor, floor: float = 0.3) -> Tensor:
    """(M,) r_m = (1 / h_m) / sum(1 / h), with h_m the share of m in the entropies, at least `floor`.

    Args:
        entropy: (M,), the entropies.
        floor: smallest share.
    """
    return shares(1.0 / shares(entropy).clamp_min(floor))


def modulation(dependence: Tensor, inverse: Tensor, temperature: float = 8.0) -> Tensor:
    """(M,) softmax of T d_m' r_m, d_m' the mean share of the other modalities' logits (for two: the other's).

    Args:
        dependence: (M,), the shares d_m.
        inverse: (M,), r_m.
        temperature: T.
    """
    others = (dependence.sum() - dependence) / (len(dependence) - 1)
    return (temperature * others * inverse).softmax(0)


class ARL(Strategy):
    """Scales encoder gradients by contribution and certainty (ARL, Wei et al., ICCV 2025).

    Asymmetric representation learning. L = CE(f, y) + gamma sum_m CE(o_m, y), with o_m the head's logits for m with all
    others absent. With H_m the mean entropy of softmax(o_m), h_m its share and at least `floor`, r_m = (1/h_m) /
    sum(1/h), and d_m the share of m in the summed absolute logits, the gradient of encoder m is multiplied by 1 + w_m,
    w = softmax(T (d_2 r_1, d_1 r_2)). In epochs before `start`, gamma is 1 and there is no modulation.

    Differs from the authors' code, which never assigns w: both factors are then 1.5 (modulation="constant",
    arl_released), and it would act one batch late. Here w is that of the present batch. If a batch lacks a modality, or
    all logits are zero, shares are equal.

    Args:
        gamma: factor on the unimodal losses.
        temperature: T of the softmax.
        floor: smallest share of the entropy.
        start: epochs at the start without modulation.
        modulation: "entropy" is the method (default), "constant" the released code's 1 + 1/M, "none" leaves gradients
            unchanged.
    """

    min_modalities = 2
    max_modalities = 2
    neutral = {"gamma": 0.0, "modulation": "none", "start": 0}  # noqa: RUF012

    def __init__(
        self,
        *,
        gamma: float = 4.0,
        temperature: float = 8.0,
        floor: float = 0.3,
        start: int = 6,
        modulation: Literal["entropy", "constant", "none"] = "entropy",
    ) -> None:
        self.gamma = gamma
        self.temperature = temperature
        self.floor = floor
        self.start = start
        self.modulation = modulation

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        weight = self.gamma if step.run.epoch >= self.start else 1.0
        if not weight and self.modulation != "entropy":
            return terms
        own = {m: step.kept(single_logits(step, out.features, m)) for m in out.features}
        step.scratch[self] = {m: z.detach() for m, z in own.items()}
        if not weight:
            return terms
        return {**terms, **{f"arl/{m}": weight * step.loss(z, step.here(m)) for m, z in own.items()}}

    @torch.no_grad()
    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        if self.modulation == "none" or step.run.epoch < self.start or len(out.features) < 2:
            return
        own = step.scratch[self] if self.modulation == "entropy" else dict.fromkeys(out.features)
        for m, w in zip(own, self._weights(step, own)):
            step.run.log(f"arl/{m}/weight", w)
            grads.scale(f"encoder:{m}", 1.0 + w)

    def _weights(self, step: Step, own: dict[str, Tensor]) -> Tensor:
        """(M,) what is added to the factor of one; equal where it is not computed, or somebody has no sample."""
        equal = torch.full((len(own),), 1.0 / len(own), device=step.run.device)
        if self.modulation == "constant":
            return equal
        entropy = torch.stack([step.mean(entropies(z), step.here(m)) for m, z in own.items()])
        size = torch.stack([step.mean(z.abs(), step.here(m)).sum() for m, z in own.items()])
        entropy, size = step.run.reduce(torch.stack([entropy, size]))
        w = modulation(shares(size), inverse_variances(entropy, self.floor), self.temperature)
        here = [step.here(m) for m in own]
        if here[0] is None:
            return w
        seen = step.run.reduce(torch.stack([h.any().to(w.dtype) for h in here if h is not None]))
        return torch.where((seen > 0).all(), w, equal.to(w.dtype))


class ARLMany(ARL):
    """ARL for any number of modalities (ours): w = softmax_m(T mean_{j != m} d_j r_m). With two it equals `ARL`."""

    max_modalities = None

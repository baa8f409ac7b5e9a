"""On-the-fly gradient modulation (OGM, OGM-GE): slow down the encoder that is ahead."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mmzoo.api import Grads, Outputs, Step, Strategy

Form = Literal["conference", "journal"]


def ratios(scores: Tensor) -> Tensor:
    """(M,) rho_u = mean over the other modalities j of s_u / s_j.

    For two modalities s_u / s_v (Peng et al., CVPR 2022, eq. 9); the mean for more is that of the journal version (Wei
    et al., TPAMI 2024), as reported by others. A score of zero counts as the smallest normal number.

    Args:
        scores: (M,), the sums s_u of true-class probabilities.
    """
    floored = scores.clamp_min(torch.finfo(scores.dtype).tiny)
    pairwise = floored[:, None] / floored[None, :]
    return (pairwise.sum(1) - 1.0) / (len(scores) - 1)


def coefficients(scores: Tensor, alpha: float, form: Form = "conference") -> Tensor:
    """(M,) factors on the gradients: 1 where rho_u <= 1, else 1 - tanh(alpha rho_u) or 1 - alpha tanh(rho_u - 1).

    At a tie the factor is 1, as in the paper; the authors' code then scales the first modality. Factors are at least
    zero: the journal's would be negative for alpha above 1, and reverse training.

    Args:
        scores: (M,), the sums s_u of true-class probabilities.
        alpha: strength.
        form: "conference": the first form, CVPR 2022 eq. 10, which jumps at rho = 1. "journal": the second, which does
            not.
    """
    rho = ratios(scores)
    ahead = 1.0 - torch.tanh(alpha * rho) if form == "conference" else 1.0 - alpha * torch.tanh(rho - 1.0)
    return torch.where(rho > 1.0, ahead.clamp_min(0.0), 1.0)


def with_noise(grad: Tensor, factor: float | Tensor, noise: Tensor) -> Tensor:
    """k g + sigma noise, sigma the unbiased std of the entries of g plus 1e-8 (the authors' code).

    A single entry has no std: it gets no noise, where the authors' code gives NaN.

    Args:
        grad: a gradient g.
        factor: k.
        noise: standard normal numbers of the shape of g.
    """
    sigma = grad.std() + 1e-8 if grad.numel() > 1 else torch.zeros_like(grad).sum()
    return (factor * grad).add_(sigma * noise)


class OGM(Strategy):
    """Scales the gradients of the encoder that is ahead (Peng et al., CVPR 2022, eqs. 8-10); OGM-GE with noise=True.

    After backward the gradients of encoder u are multiplied by k_u, which `coefficients` computes from the sums over
    the batch of the true-class probabilities of each modality's own logits.

    Args:
        alpha: strength; 0.3 as in one example of the authors' README, which has 0.1 for VGGSound and 0.8 for CREMA-D.
        noise: add Gaussian noise to the gradients of every modality (GE).
        form: "conference" (default) or "journal", see `coefficients`.
        tensors: encoder parameters that are modulated: "conv" (4-D only, as in the authors' code, which leaves out
            linear layers and thus transformers), "matrix" (two or more dimensions; default, ours), or "all".
    """

    requires = frozenset({"unimodal"})
    min_modalities = 2
    neutral = {"alpha": 0.0, "noise": False}  # noqa: RUF012

    def __init__(
        self,
        *,
        alpha: float = 0.3,
        noise: bool = False,
        form: Form = "conference",
        tensors: Literal["conv", "matrix", "all"] = "matrix",
    ) -> None:
        self.alpha = alpha
        self.noise = noise
        self.form = form
        self.tensors = tensors
        self.stochastic = noise

    @torch.no_grad()
    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        modalities = list(out.unimodal)
        if len(modalities) < 2:
            step.run.warn("OGM: passes with one modality have nothing to compare, and were left as they are")
            return
        scores = step.true_class_scores({m: step.kept(z) for m, z in out.unimodal.items()})
        factors = coefficients(scores, self.alpha, self.form)
        for m, factor in zip(modalities, factors):
            step.run.log(f"ogm/{m}", factor)
            if self.noise:
                self._add_noise(step, grads, m, factor)
            else:
                grads.scale(f"encoder:{m}", factor, only=self._touched)

    def _touched(self, p: nn.Parameter) -> bool:
        return p.ndim == 4 if self.tensors == "conv" else p.ndim >= 2 or self.tensors == "all"

    def _add_noise(self, step: Step, grads: Grads, modality: str, factor: Tensor) -> None:
        # As many numbers as there are weights: drawn on the processor they would have to be copied in every step.
        generator = step.generator(f"ogm/{modality}", step.run.device)
        for p in grads.params(f"encoder:{modality}"):
            if self._touched(p):
                noise = torch.randn(p.shape, generator=generator, dtype=p.dtype, device=p.device)
                p.grad = with_noise(p.grad, factor, noise)  # type: ignore[arg-type]

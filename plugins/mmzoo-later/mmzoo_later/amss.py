"""AMSS: train only a part of each encoder, drawn by importance; the stronger its modality, the smaller the part."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmzoo.api import Grads, Outputs, Step, Strategy


def self_entropy(x: Tensor) -> Tensor:
    """(...) the cross-entropy of softmax(x) to softmax(x), for x (..., D)."""
    return -(x.softmax(-1) * x.log_softmax(-1)).sum(-1)


def label_entropy(frequencies: Tensor) -> Tensor:
    """The authors' entropy of the labels: the cross-entropy of softmax(f) to f, f (C,) the class frequencies.

    f serves as logits and as probabilities, so that this is no entropy.

    Args:
        frequencies: (C,).
    """
    return -(frequencies * frequencies.log_softmax(-1)).sum()


def information_ratios(loss: Tensor, entropy: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """(M,) (label - loss + 1/2) / entropy and its numerator, for each modality.

    Args:
        loss: (M,), mean cross-entropy of its own logits.
        entropy: (M,), mean `self_entropy` of its features.
        label: see `label_entropy`.
    """
    above = label - loss + 0.5
    return above / entropy.clamp_min(torch.finfo(entropy.dtype).eps), above


def keep_ratios(ratios: Tensor, above: Tensor, temperature: float = 0.2, bias: float = 0.0) -> Tensor:
    """(M,) fractions of the channels that are trained: 1 - softmax(ratio / temperature) + bias, within [0.1, 0.9].

    Equal fractions if a numerator is not positive. With two modalities each has the softmax of the other.

    Args:
        ratios: (M,), see `information_ratios`.
        above: (M,), the numerators.
        temperature: temperature of the softmax.
        bias: added to every fraction.
    """
    shares = torch.where((above > 0).all(), (ratios / temperature).softmax(0), 1.0 / len(ratios))
    return (1.0 - shares + bias).clamp(0.1, 0.9)


def channel_factors(
    importance: Tensor, ratio: Tensor, uniform: Tensor, mode: Literal["amss", "amss_plus"] = "amss"
) -> Tensor:
    """(n,) factors on the channels' gradients: 0 for all but ceil(n ratio), drawn without replacement by importance.

    Args:
        importance: (n,), proportional to the probabilities p_i.
        ratio: fraction of the channels that is drawn.
        uniform: (n,), numbers in (0, 1) that determine the draw: the largest log p_i - log(-log u_i) win, which is a
            sequential draw with probabilities proportional to p.
        mode: the factor of a drawn channel is 1, or 1 / (p_i + 1/n) for "amss_plus".
    """
    n = len(importance)
    tiny = torch.finfo(importance.dtype).tiny
    p = importance / importance.sum().clamp_min(tiny)
    keys = p.clamp_min(tiny).log() - (-uniform.clamp_min(tiny).log()).log()
    place = keys.argsort(descending=True).argsort()
    kept = place < (n * ratio).ceil()
    return torch.where(kept, 1.0 if mode == "amss" else 1.0 / (p + 1.0 / n), 0.0).to(importance.dtype)


class AMSS(Strategy):
    """Trains a random part of each encoder, smaller for a stronger modality (AMSS and AMSS+, Yang et al., TPAMI).

    After backward a fraction (`keep_ratios`) of the output channels of each layer of encoder m keeps its gradient: a
    draw with probabilities proportional to their summed squared gradients. The gradient of the others is zero; momentum
    and weight decay still move them, as in the authors' code. The authors' masks of the classifier are not offered:
    their script for audio and video computes but never applies them.

    Args:
        temperature: temperature of `keep_ratios`.
        bias: added to the fraction; 0.2 in the code for images with texts.
        mode: "amss" (default) or "amss_plus", see `channel_factors`.
        tensors: "conv": 4-D weights only, as in the code; "matrix" (default, ours): all weights of two or more
            dimensions, the first of which is that of the outputs.
    """

    requires = frozenset({"unimodal"})
    min_modalities = 2
    stochastic = True

    def __init__(
        self,
        *,
        temperature: float = 0.2,
        bias: float = 0.0,
        mode: Literal["amss", "amss_plus"] = "amss",
        tensors: Literal["conv", "matrix"] = "matrix",
    ) -> None:
        self.temperature = temperature
        self.bias = bias
        self.mode = mode
        self.tensors = tensors

    @torch.no_grad()
    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        modalities = list(out.unimodal)
        if len(modalities) < 2:
            step.run.warn("AMSS: passes with one modality have nothing to compare, and were left as they are")
            return
        reduce, labels = step.run.reduce, F.one_hot(step.target, step.run.n_classes).to(out.logits.dtype)
        losses = {m: F.cross_entropy(step.kept(z), step.target, reduction="none") for m, z in out.unimodal.items()}
        spreads = {m: self_entropy(step.kept(out.features[m])) for m in modalities}
        loss, entropy = (
            reduce(torch.stack([step.mean(each[m], step.here(m)) for m in modalities])) for each in (losses, spreads)
        )
        ratios, above = information_ratios(loss, entropy, label_entropy(reduce(step.mean(labels))))
        for m, share in zip(modalities, keep_ratios(ratios, above, self.temperature, self.bias)):
            step.run.log(f"amss/{m}", share)
            self._mask(step, grads, m, share)

    def _mask(self, step: Step, grads: Grads, modality: str, share: Tensor) -> None:
        generator = step.generator(f"amss/{modality}")
        for p in grads.params(f"encoder:{modality}"):
            if self._touched(p):
                grad: Tensor = p.grad  # type: ignore[assignment]
                importance = grad.square().flatten(1).sum(1)
                uniform = torch.rand(len(p), generator=generator, dtype=p.dtype).to(p.device)
                factors = channel_factors(importance, share, uniform, self.mode)
                p.grad = grad * factors.view(-1, *[1] * (p.ndim - 1))

    def _touched(self, p: nn.Parameter) -> bool:
        return p.ndim == 4 if self.tensors == "conv" else p.ndim >= 2

"""AMSS: train only a part of each encoder, drawn by importance, the smaller the stronger its modality."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmzoo.api import Grads, Outputs, Step, Strategy


def self_entropy(x: Tensor) -> Tensor:
    """(...) cross-entropy of softmax(x) to softmax(x). x: (..., D)."""
    return -(x.softmax(-1) * x.log_softmax(-1)).sum(-1)


def label_entropy(frequencies: Tensor) -> Tensor:
    """What the authors take for the entropy of the labels: the cross-entropy of softmax(f) to f, f (C,) the class frequencies.

    f plays the part of logits and of probabilities at once, so this is no entropy.
    """
    return -(frequencies * frequencies.log_softmax(-1)).sum()


def information_ratios(loss: Tensor, entropy: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """(M,) (label - loss + 1/2) / entropy and its numerator, for each modality.

    loss: (M,) mean cross-entropy of its own logits. entropy: (M,) mean `self_entropy` of its features. label: see
    `label_entropy`.
    """
    above = label - loss + 0.5
    return above / entropy.clamp_min(torch.finfo(entropy.dtype).eps), above


def keep_ratios(ratios: Tensor, above: Tensor, temperature: float = 0.2, bias: float = 0.0) -> Tensor:
    """(M,) shares of the channels that are trained: 1 - softmax(ratio / temperature) + bias, within [0.1, 0.9].

    Equal ones where a numerator is not above zero. For two modalities each has the softmax of the other.
    """
    shares = torch.where((above > 0).all(), (ratios / temperature).softmax(0), 1.0 / len(ratios))
    return (1.0 - shares + bias).clamp(0.1, 0.9)


def channel_factors(
    importance: Tensor, ratio: Tensor, uniform: Tensor, mode: Literal["amss", "amss_plus"] = "amss"
) -> Tensor:
    """(n,) factors on the channels' gradients: 0 for all but ceil(n ratio), drawn without replacement by importance.

    uniform: (n,) numbers between 0 and 1 that decide the draw (the largest log p_i - log(-log u_i) win, which is a draw
    one after the other with chances in proportion to p). The factor of a drawn one is 1, or 1 / (p_i + 1/n) with
    "amss_plus".
    """
    n = len(importance)
    tiny = torch.finfo(importance.dtype).tiny
    p = importance / importance.sum().clamp_min(tiny)
    keys = p.clamp_min(tiny).log() - (-uniform.clamp_min(tiny).log()).log()
    place = keys.argsort(descending=True).argsort()
    kept = place < (n * ratio).ceil()
    return torch.where(kept, 1.0 if mode == "amss" else 1.0 / (p + 1.0 / n), 0.0).to(importance.dtype)


class AMSS(Strategy):
    """AMSS and, with mode="amss_plus", AMSS+ (Yang et al., TPAMI).

    After backward a share of the output channels of each layer of encoder m keeps its gradient: those drawn with chances
    in proportion to the sum of their squared gradients; the others' becomes zero (momentum and weight decay still move
    them, as in the authors' code). The share is `keep_ratios`.

    tensors: "conv" touches 4-D weights only, as the authors do; "matrix" (default, ours) all weights of two or more
    dimensions, whose first is that of the outputs. bias: added to the share; the authors' 0.2 for images with texts.

    The authors' masks of the classifier are not offered: in their script for audio and video they are computed and
    never applied.
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

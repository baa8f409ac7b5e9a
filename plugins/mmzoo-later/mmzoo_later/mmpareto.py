"""MMPareto: the joint and the unimodal gradient of each encoder, combined so that neither loss rises."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmzoo.api import Outputs, Run, Step, Strategy, Terms
from mmzoo_later.classifiers import add_classifiers, own_losses

Gradient = Sequence[Tensor]


def shares(joint: Gradient, own: Gradient) -> tuple[Tensor, Tensor]:
    """The cosine of two gradients over all tensors, and w, the weight of the joint one.

    w is 1/2 if the cosine is positive. Otherwise w joint + (1 - w) own is the shortest such vector, with w in [0.001,
    0.999].

    Args:
        joint: gradient of the joint loss.
        own: gradient of the unimodal loss.
    """
    jj, jo, oo = (
        torch.stack([(a * b).sum() for a, b in zip(x, y)]).sum() for x, y in ((joint, joint), (joint, own), (own, own))
    )
    tiny = torch.finfo(jj.dtype).tiny
    cosine = jo / (jj.sqrt() * oo.sqrt()).clamp_min(tiny)
    shortest = ((oo - jo) / (jj + oo - 2 * jo).clamp_min(tiny)).clamp(0.001, 0.999)
    return cosine, torch.where(cosine > 0, 0.5, shortest)


def stretch(combined: Tensor, plain: Tensor, floor: float = 1e-6) -> Tensor:
    """max(1, ||plain|| / ||combined||); 1 if `combined` is no longer than `floor` times `plain`.

    Args:
        combined: the combined gradient.
        plain: the plain sum.
        floor: the relative length below which nothing is stretched.
    """
    a, b = combined.norm(), plain.norm()
    return torch.where(a > floor * b, (b / a.clamp_min(torch.finfo(a.dtype).tiny)).clamp_min(1.0), 1.0)


def integrate(
    joint: Gradient, own: Gradient, gamma: float = 1.5, floor: float = 1e-6, total: Gradient | None = None
) -> list[Tensor]:
    """gamma * stretch * (2 w joint + 2 (1 - w) own), stretched to the length of `total`.

    w is the same for the whole encoder; the length is that of each tensor, as in the authors' code.

    Args:
        joint: gradient of the joint loss.
        own: gradient of the unimodal loss.
        gamma: the factor.
        floor: see `stretch`.
        total: the gradient whose length counts; None: the plain sum.
    """
    _, w = shares(joint, own)
    combined = [2 * w * a + 2 * (1 - w) * b for a, b in zip(joint, own)]
    plain = [a + b for a, b in zip(joint, own)] if total is None else total
    return [gamma * stretch(g, s, floor) * g for g, s in zip(combined, plain)]


class MMPareto(Strategy):
    """Combines the joint and the unimodal gradient of each encoder so that neither loss rises (Wei and Hu, ICML 2024).

    L = CE(logits, y) + sum_m CE(V_m z_m, y). Encoder m has the gradients g of the joint loss and h of its own. If g.h >
    0 they are added; otherwise the result is 2 (w g + (1 - w) h), the shortest vector between the two. Each tensor is
    then stretched to at least the length of the plain sum, and multiplied by gamma. Head and classifiers use the plain
    sum. In a chain, loss terms of other members count as joint. If a head acts between encoder stages, h is the
    gradient of all unimodal losses together.

    Args:
        gamma: factor on the gradient; 1.5 as in the code.
        floor: a tensor whose combined gradient is shorter than this fraction of the plain sum is not stretched (ours).
            The authors' code has no such guard (floor=0): if the two gradients cancel, it scales rounding errors by
            1e15.
    """

    owns = frozenset({"backward"})
    min_modalities = 2
    cost = {"forward": 1, "backward": 2}  # noqa: RUF012

    def __init__(self, *, gamma: float = 1.5, floor: float = 1e-6) -> None:
        self.gamma = gamma
        self.floor = floor

    def setup(self, run: Run) -> None:
        add_classifiers(run, "mmpareto")

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        return {**terms, **own_losses(step, out, "mmpareto")}

    def backward(self, step: Step, terms: Terms) -> None:
        own = [t for name, t in terms.items() if name.startswith("mmpareto/")]
        joint = [t for name, t in terms.items() if not name.startswith("mmpareto/")]
        if not own or not any(t.requires_grad for t in joint):
            super().backward(step, terms)
            return
        found = step.run.term_grads({"joint": torch.stack(joint).sum(), "own": torch.stack(own).sum()})
        for group, params in step.run.model.groups().items():
            pairs = list(zip(params, found["joint"][group], found["own"][group]))
            for p, a, b in pairs:
                p.grad = b if a is None else a if b is None else a + b
            if group.startswith("encoder:"):
                self._integrate(step, group, [(p, a, b) for p, a, b in pairs if a is not None and b is not None])

    def _integrate(self, step: Step, group: str, pairs: Sequence[tuple[Tensor, Tensor, Tensor]]) -> None:
        if not pairs:
            return
        params, joint, own = zip(*pairs)
        cosine, w = shares(joint, own)
        step.run.log(f"mmpareto/cosine/{group.partition(':')[2]}", cosine)
        step.run.log(f"mmpareto/share/{group.partition(':')[2]}", w)
        for p, g in zip(params, integrate(joint, own, self.gamma, self.floor)):
            p.grad = g

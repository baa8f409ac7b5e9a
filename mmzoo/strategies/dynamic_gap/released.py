"""The rules for alpha in the authors' two released scripts: neither is the heuristic or equation 3 of the paper.

A method that runs a script as released takes form="released", matching="kl_to_mean" and one of the two learners here:
schedule="released" for the script that the authors' README names, "released_learned" for the second one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mmzoo.api import Run
from mmzoo.bilevel import double_backward, flat_grad, full_precision, hessian_operator
from mmzoo.strategies.dynamic_gap.learners import Learner, upper_batches
from mmzoo.strategies.dynamic_gap.losses import GapLoss
from mmzoo.strategies.dynamic_gap.settings import UpperSettings

#: the samples of the meta set that the second script looks at in an epoch
SAMPLES = 8


def released_alpha(epoch: int) -> float:
    """alpha in `epoch`, counted from 0, in the script that the authors' README names: a fixed polynomial."""
    cls = [0.204623704, 0.00335472727, 0.000122989557, -2.92947416e-6, 2.23835486e-8, -5.39717505e-11]
    return 1.0 - sum(c * float(epoch) ** k for k, c in enumerate(cls))


def released_surrogate(
    total: Tensor, cls: Tensor, params: Sequence[Tensor], reduce: Callable[[Tensor], Tensor] = lambda vector: vector
) -> float:
    """The quantity that the authors' second script uses as the derivative.

    The mean over the *first* parameter tensor of H_total grad L_cls. It is the derivative of nothing, and depends on
    the order of the parameters. No inverse, no mixed derivative.

    Args:
        total: the whole inner loss, a scalar with its graph.
        cls: L_cls, a scalar in the same graph.
        params: the trainable parameters, in the order of the model.
        reduce: the mean of a vector (P,) over processes.
    """
    product = reduce(hessian_operator(total, params)(reduce(flat_grad(cls, params))))
    return float(product[: params[0].numel()].mean())


def released_step(alpha: float, surrogate: float, epoch: int) -> float:
    """alpha after an epoch of the authors' second script: rate 1e-4, halved every 20 epochs, kept in [0.05, 0.95].

    Args:
        alpha: alpha before.
        surrogate: see `released_surrogate`.
        epoch: the epoch, from 0.
    """
    return min(0.95, max(0.05, alpha - 1e-4 * 0.5 ** (epoch // 20) * surrogate))


class ReleasedPolynomial(Learner):
    """alpha of the first script: `released_alpha`, kept in [0, 1]."""

    def epoch_start(self, run: Run, alpha: float) -> float:
        return min(1.0, max(0.0, released_alpha(run.epoch)))


class ReleasedSurrogate(Learner):
    """alpha of the second script: one `released_step` an epoch, on eight samples of the meta set.

    Args:
        loss: the two inner losses.
        upper: where the samples come from.
    """

    update_cost = (1.0, 4.0)

    def __init__(self, loss: GapLoss, upper: UpperSettings) -> None:
        super().__init__()
        self.loss, self.upper = loss, upper
        self.requires = frozenset({"slice"} if upper.upper == "slice" else ())

    def update(self, run: Run, alpha: float) -> float:
        name = "dynamic_gap/upper" + ("" if self.upper.every is None else f"/{self.n_updates}")
        share = -(-SAMPLES // run.n_processes)
        batch = upper_batches(run, self.upper, name)[0].map(lambda t: t[:share])
        params = [p for p in run.model.parameters() if p.requires_grad]
        with torch.enable_grad(), double_backward(), full_precision(run.device):
            cls, mm = self.loss.of_batch(run, batch)
            surrogate = released_surrogate(self.loss.mixing(alpha).total(cls, mm), cls, params, run.reduce)
        run.cost.backward += 4
        run.log("dynamic_gap/surrogate", surrogate)
        self.n_updates += 1
        return released_step(alpha, surrogate, run.epoch)

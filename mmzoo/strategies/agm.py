"""Adaptive gradient modulation (AGM): scale the gradient of each modality at its share of the output."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmzoo.api import Grads, Outputs, Step, Strategy
from mmzoo.functional import constant, shapley_weights

#: below this a true-class probability counts as this much (the authors' code)
FLOOR = 1e-8


def responses(values: Mapping[frozenset[str], Tensor], modalities: Sequence[str]) -> Tensor:
    """Mono-modal responses: phi_u = sum over S without u of |S|! (M-|S|-1)! / M! (f(S + u) - f(S)).

    The empty set counts as zero (Li et al., ICCV 2023), so that the responses add up to f(all).

    Args:
        values: set of modalities -> (B, C), the logits with the inputs of all others set to zero, for every other set.
        modalities: the modalities in order.

    Returns:
        (M, B, C).
    """
    weights = shapley_weights(modalities)
    stacked = torch.stack(list(values.values()))
    found: Tensor = torch.tensordot(
        constant([[weights[m][s] for s in values] for m in modalities], stacked), stacked, 1
    )
    return found


def score_sums(phi: Tensor, target: Tensor, here: Tensor | None = None) -> Tensor:
    """For each modality the sum of -log max(softmax(phi_u)[y], 1e-8) over the samples, and their number.

    Args:
        phi: (M, B, C).
        target: (B,).
        here: (M, B) bool, which samples have the modality; None: all.

    Returns:
        (2, M).
    """
    log_p = phi.log_softmax(-1).gather(-1, target.expand(len(phi), -1).unsqueeze(-1)).squeeze(-1)
    loss = (-log_p).clamp_max(-math.log(FLOOR))
    counted = torch.ones_like(loss) if here is None else here.to(loss.dtype)
    return torch.stack([(loss * counted).sum(1), counted.sum(1)])


def ratios(scores: Tensor, counted: Tensor | None = None) -> Tensor:
    """(M,) r_u = exp(M / (M - 1) (mean_j s_j - s_u)), above 1 for a modality whose loss s_u is below the others'.

    For two modalities this is exp(s_v - s_u).

    Args:
        scores: (M,), the losses s_u.
        counted: (M,) bool, the modalities that are compared; the others get 1.
    """
    weight = torch.ones_like(scores) if counted is None else counted.to(scores.dtype)
    n = weight.sum()
    mean = (scores * weight).sum() / n.clamp_min(1)
    return torch.exp(n / (n - 1).clamp_min(1) * (mean - scores) * weight)


def coefficients(
    scores: Tensor,
    means: Tensor,
    alpha: float,
    cap: float | None = None,
    symmetric: bool = False,
    *,
    seen: Tensor | None = None,
    known: Tensor | None = None,
) -> Tensor:
    """(M,) kappa_u = exp(alpha min(tau_u - r_u, cap)): r_u from this batch's losses, tau_u from their running means.

    A modality that is further ahead than usual gets less than 1. No factor exceeds the largest number of the dtype to
    the power of 0.4, 2e15 in float32.

    Args:
        scores: (M,), losses of this batch.
        means: (M,), their running means.
        alpha: strength.
        cap: bound on tau_u - r_u; None: the authors' 10 for two modalities and 7 for more.
        symmetric: bound it by -cap from below too.
        seen: (M,) bool, the modalities in this batch; the others get 1.
        known: (M,) bool, the modalities with a running mean; tau is 1 for the others, as for all at first.
    """
    limit = (10.0 if len(scores) == 2 else 7.0) if cap is None else cap
    gap = (ratios(means, known) - ratios(scores, seen)).clamp(-limit if symmetric else None, limit)
    # Room above for a gradient times a factor, and for its square where norms are taken: no infinity, hence no NaN.
    factors = torch.exp((alpha * gap).clamp_max(0.4 * math.log(torch.finfo(scores.dtype).max)))
    return factors if seen is None else torch.where(seen, factors, 1.0)


def running_mean(mean: Tensor, value: Tensor, count: Tensor) -> Tensor:
    """The mean of `count` values, from the `mean` of all but the last and that last `value`."""
    return mean * (count - 1) / count + value / count


@dataclass(frozen=True)
class _Seen:
    """What a batch showed: per modality its loss, whether any item has it, and its factor; `backwards` more to count."""

    modalities: tuple[str, ...]
    scores: Tensor
    seen: Tensor
    factors: Tensor
    backwards: float = 0.0


class AGM(Strategy):
    """Scales gradients by kappa_u = exp(alpha min(tau_u - r_u, cap)) for each modality u (AGM, Li et al., ICCV 2023).

    The output is split into one response per modality, its Shapley value in a game that sets the inputs of absent
    modalities to zero. kappa_u multiplies the gradient where it enters the response of u, before it reaches any
    parameter, so that every fusion head works and its parameters are modulated too. r_u compares the losses of the
    responses on this batch, tau_u their means over all earlier batches. With two modalities and g = dL/d logits, the
    forward on all inputs receives (kappa_a + kappa_v) / 2 g, and that on modality a alone (kappa_a - kappa_v) / 2 g.
    Forwards on sets of modalities run in eval mode with a graph and leave batch statistics and random streams
    unchanged. Later parts of a chain see the responses as unimodal logits.

    Differs from the authors' scripts: after the window of epochs (theirs is agm:0-19) kappa is 1, while they keep its
    last value. Ours: samples without a modality do not count in its loss, and a modality without samples keeps kappa =
    1. Forwards on sets hold the graph of the whole batch, in micro-batches too.

    Args:
        alpha: strength; 1 is the code's default.
        cap: bound on tau_u - r_u; None: the code's 10 for two modalities and 7 for more.
        symmetric: bound it by -cap from below too (ours; off by default).
        clip: if an entry of the head's gradient exceeds this, scale all gradients to this norm at most (the code: 1 on
            CREMA-D, for the last layer). kappa reaches exp(alpha cap). None: clip as the training does.
        gradient: "exact" (default), as above. "detached" (ours) is cheaper and another method: the forwards on sets
            have no graph, which saves their memory and a large backward. kappa_u then multiplies the gradients of
            encoder u and of its part of the head; the shared part gets the mean of all kappa. For a head with additive
            logits the encoders' gradients are exact up to what flows through inputs of zeros.
    """

    min_modalities = 2
    neutral = {"alpha": 0.0, "clip": None}  # noqa: RUF012
    state = ("means", "counts")
    cost = {"forward": 2, "backward": 2, "forward_coalition": 1, "backward_coalition": 1}  # noqa: RUF012

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        cap: float | None = None,
        symmetric: bool = False,
        clip: float | None = 1.0,
        gradient: Literal["exact", "detached"] = "exact",
    ) -> None:
        self.alpha = alpha
        self.cap = cap
        self.symmetric = symmetric
        self.clip = clip
        self.gradient = gradient
        if gradient == "detached":
            self.cost = {"forward": 2, "backward": 1, "forward_coalition": 1}
        self.means: Tensor | None = None
        self.counts: Tensor | None = None

    def outputs(self, step: Step, out: Outputs) -> Outputs:
        if self.alpha != 0.0 and len(out.features) < 2:
            step.run.warn("AGM: passes with one modality have nothing to compare, and were left as they are")
        if self.alpha == 0.0 or self.gradient == "detached" or len(out.features) < 2:
            return out
        before = step.run.cost.forward
        phi = self._responses(step, out)
        found = self._seen(step, out, phi.detach(), step.run.cost.forward - before)
        step.scratch[self] = found
        if phi.requires_grad:
            phi.register_hook(lambda g: g * found.factors[:, None, None])
        return out.replace(logits=phi.sum(0), unimodal=dict(zip(found.modalities, phi)))

    @torch.no_grad()
    def gradients(self, step: Step, out: Outputs, grads: Grads) -> None:
        by: dict[str, Tensor] = {}
        if self.alpha != 0.0 and self.gradient == "detached" and len(out.features) > 1:
            found = self._seen(step, out, self._responses(step, out))
            by = self._by_group(grads, found)
            self._remember(step, found)
        elif self in step.scratch:
            found = step.scratch.pop(self)
            step.run.cost.backward += found.backwards
            self._remember(step, found)
        _scale(grads, by, self.clip)

    def _responses(self, step: Step, out: Outputs) -> Tensor:
        """(M, B, C), of the modalities that the pass feeds; what the model gave to all of them is not computed again."""
        fed = tuple(out.features)
        some = [s for k in range(1, len(fed)) for s in itertools.combinations(fed, k)]
        values = {s: each.logits for s, each in step.run.coalitions(step.batch, some, present=fed).items()}
        return responses({**values, frozenset(fed): out.logits}, fed)

    @torch.no_grad()
    def _seen(self, step: Step, out: Outputs, phi: Tensor, backwards: float = 0.0) -> _Seen:
        fed = tuple(out.features)
        each = [step.here(m) for m in fed]
        here = None if each[0] is None else torch.stack(each)  # type: ignore[arg-type]
        kept = torch.stack([step.kept(z) for z in phi])
        total, count = step.run.reduce(score_sums(kept, step.target, here))
        scores, seen = total / count.clamp_min(torch.finfo(count.dtype).tiny), count > 0
        means, counts = (x[_columns(step, fed)] for x in self._so_far(step, scores))
        factors = coefficients(
            scores, means, self.alpha, self.cap, self.symmetric, seen=seen, known=seen & (counts > 0)
        )
        return _Seen(fed, scores, seen, factors, backwards)

    def _so_far(self, step: Step, like: Tensor) -> tuple[Tensor, Tensor]:
        """(M,) means of the losses and from how many batches, of all modalities of the run."""
        if self.means is None or self.counts is None:
            zeros = like.new_zeros(len(step.run.modalities))
            return zeros, zeros.clone()
        return self.means, self.counts

    def _remember(self, step: Step, found: _Seen) -> None:
        means, counts = (x.clone() for x in self._so_far(step, found.scores))
        at = _columns(step, found.modalities)
        counts[at] += found.seen.to(counts.dtype)
        fresh = running_mean(means[at], found.scores, counts[at].clamp_min(1))
        means[at] = torch.where(found.seen, fresh, means[at])
        self.means, self.counts = means, counts
        for m, factor in zip(found.modalities, found.factors):
            step.run.log(f"agm/{m}", factor)

    @staticmethod
    def _by_group(grads: Grads, found: _Seen) -> dict[str, Tensor]:
        """What the gradients of each group are multiplied by."""
        factors = dict(zip(found.modalities, found.factors))
        return {
            g: found.factors.mean() if g == "head:shared" else factors[m]
            for g in grads
            if (m := g.partition(":")[2]) in factors or g == "head:shared"
        }


def _columns(step: Step, modalities: Sequence[str]) -> list[int]:
    return [step.run.modalities.index(m) for m in modalities]


def _scale(grads: Grads, by: Mapping[str, Tensor], limit: float | None) -> None:
    """Multiply each group by its factor (1 where it has none); then, where an entry of the head's gradient is larger
    than `limit`, everything to a norm of at most `limit`. In one pass, since it is bound by memory."""
    clip = None if limit is None else _clip(grads, by, limit)
    for g in grads if clip is not None else by:
        grads.scale(g, by[g] if clip is None else clip * by.get(g, 1.0))


def _clip(grads: Grads, by: Mapping[str, Tensor], limit: float) -> Tensor | None:
    """What clipping multiplies all gradients by, once those of each group are multiplied by its factor."""
    found = {g: [p.grad for p in grads.params(g)] for g in grads}
    largest = [by.get(g, 1.0) * each.abs().max() for g in found if g.startswith("head:") for each in found[g]]  # type: ignore[union-attr]
    if not largest:
        return None
    # In the gradients' own dtype, four times as fast as in float64: a norm beyond it is infinite, and the step is none.
    norms = [by.get(g, 1.0) * torch.linalg.vector_norm(each).double() for g in found for each in found[g]]
    norm = torch.stack(norms).norm()
    return torch.where(torch.stack(largest).max() > limit, (limit / (norm + 1e-6)).clamp_max(1.0), 1.0)

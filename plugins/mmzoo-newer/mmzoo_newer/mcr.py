"""MCR: modalities play a game over how the prediction changes when one of them is shuffled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmzoo.api import Outputs, Run, Step, Strategy, Terms
from mmzoo.functional import unit

Game = Literal["greedy", "independent", "collaborative"]
Joint = Callable[[Mapping[str, Tensor]], Tensor]


def divergences(a: Tensor, b: Tensor) -> Tensor:
    """(B,) the Jensen-Shannon divergence of softmax(a) and softmax(b) in nats, probabilities at least 1e-20.

    Args:
        a: (B, C).
        b: (B, C).
    """
    p, q = (z.softmax(-1).clamp_min(1e-20) for z in (a, b))
    mean = 0.5 * (p + q)
    return 0.5 * (p * (p.log() - mean.log()) + q * (q.log() - mean.log())).sum(-1)


def shuffled(
    pieces: Mapping[str, Tensor], joint: Joint, modality: str, permutations: Tensor, learners: frozenset[str]
) -> Tensor:
    """(K B, C) joint logits with one modality's rows permuted, K permutations in order.

    Args:
        pieces: modality -> (B, ...), the inputs of `joint`.
        joint: computes logits from the pieces.
        modality: the modality that is permuted.
        permutations: (K, B).
        learners: the modalities whose piece keeps its gradient.
    """
    k, at = len(permutations), permutations.flatten()
    held = {m: x if m in learners else x.detach() for m, x in pieces.items()}
    return joint({m: x[at] if m == modality else x.repeat(k, *[1] * (x.ndim - 1)) for m, x in held.items()})


def moves(
    pieces: Mapping[str, Tensor], joint: Joint, clean: Tensor, modality: str, permutations: Tensor, game: Game
) -> tuple[Tensor, Tensor]:
    """(B,) the mean divergence J_u over the permutations of one modality, and (B,) its signed part in the loss.

    The modality itself ascends J_u. The others descend it if greedy, have no gradient of it if independent, and ascend
    it too if collaborative.

    Args:
        pieces: modality -> (B, ...).
        joint: computes logits from the pieces.
        clean: (B, C), the joint logits without permutation.
        modality: the modality u.
        permutations: (K, B).
        game: "greedy", "independent" or "collaborative".
    """
    k, names = len(permutations), frozenset(pieces)

    def mean(learners: frozenset[str]) -> Tensor:
        logits = shuffled(pieces, joint, modality, permutations, learners)
        return divergences(clean.repeat(k, 1), logits).view(k, -1).mean(0)

    own = mean(names if game == "collaborative" else frozenset({modality}))
    return own, (mean(names - {modality}) - own if game == "greedy" else -own)


def supervised_contrast(views: Tensor, target: Tensor, valid: Tensor, temperature: float = 0.5) -> Tensor:
    """NT-Xent over all views, a scalar: positives are all other views of one class, negatives those of other classes.

    The mean over positive pairs (a, p) of -log(e_ap / (e_ap + sum of e_an over the negatives)), e = exp(cosine /
    temperature); zero without a pair.

    Args:
        views: (n, D).
        target: (n,).
        valid: (n,) bool, which views count.
        temperature: divisor of the cosine.
    """
    z = unit(views)
    logits = z @ z.T / temperature
    both = valid[:, None] & valid[None, :]
    same = target[:, None] == target[None, :]
    other_class = both & ~same
    positive = both & same & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    against = logits.masked_fill(~other_class, -torch.inf).logsumexp(1, keepdim=True)
    each = torch.logaddexp(logits, against) - logits
    n = positive.sum()
    return torch.where(positive, each, 0.0).sum() / n.clamp_min(1)


class MCR(Strategy):
    """Regularises the competition of modalities by a game on shuffled modalities (MCR, Kontras et al., NeurIPS 2025).

    L = CE(f, y) + weight sum_u (game of J_u) + own sum_m CE(V_m z_m, y) + contrastive NT-Xent + bottleneck |z -
    h(f)|^2. J_u is the divergence between the prediction and the one with modality u's rows permuted within the batch,
    the mean over `samples` permutations (eq. 8). Encoder u ascends J_u. For an additive head u's part of the logits is
    permuted, as in the authors' code; for others, its features. The value of the greedy game is zero: only its gradient
    matters. h is an MLP without biases from the detached joint logits to all features (eq. 11). V_m are linear
    classifiers.

    Differs from the authors, who start from encoders trained unimodally, and take the permuted features from a second
    pass in eval mode; here they come from the present pass, as in the paper. Samples without u are not permuted and do
    not count in J_u. With several processes each permutes its own samples. More than two modalities are ours: all
    others play against u.

    Args:
        weight: factor on the game.
        own: factor on the unimodal losses.
        contrastive: factor on the contrastive loss, for features of the same width.
        bottleneck: factor on the reconstruction.
        game: the others are "greedy" (default) and descend J_u, "independent", or "collaborative" (eqs. 12-13).
        clean: "keep" (default) lets the gradient into the prediction that is compared, as in the released code;
            "detach" does not.
        samples: permutations per batch.
        temperature: temperature of the contrastive loss.
    """

    min_modalities = 2
    stochastic = True
    neutral = {"weight": 0.0, "own": 0.0, "contrastive": 0.0, "bottleneck": 0.0}  # noqa: RUF012

    def __init__(
        self,
        *,
        weight: float = 0.1,
        own: float = 0.01,
        contrastive: float = 1.0,
        bottleneck: float = 0.0,
        game: Game = "greedy",
        clean: Literal["keep", "detach"] = "keep",
        samples: int = 32,
        temperature: float = 0.5,
    ) -> None:
        self.weight = weight
        self.own = own
        self.contrastive = contrastive
        self.bottleneck = bottleneck
        self.game = game
        self.clean = clean
        self.samples = samples
        self.temperature = temperature
        if contrastive:
            self.requires = frozenset({"equal_dims"})

    def setup(self, run: Run) -> None:
        dims, classes = run.model.head.dims, run.n_classes
        if self.own:
            for m, width in dims.items():
                run.add_module(f"mcr_{m}", lambda width=width: nn.Linear(width, classes))  # type: ignore[misc]
        if self.bottleneck:
            hidden, total = max(dims.values()), sum(dims.values())
            run.add_module("mcr_reconstruct", lambda: reconstruction(classes, hidden, total))

    def losses(self, step: Step, out: Outputs, terms: Terms) -> Terms:
        added = {}
        if self.weight and len(out.features) > 1:
            added["mcr/game"] = self.weight * self._game(step, out)
        for m, z in out.features.items() if self.own else ():
            if step.pass_.moves(m):
                logits = step.run.model.extra[f"mcr_{m}"](step.kept(z))
                added[f"mcr/{m}"] = self.own * step.loss(logits, step.here(m))
        if self.contrastive:
            added["mcr/contrastive"] = self.contrastive * self._contrast(step, out)
        if self.bottleneck:
            added["mcr/bottleneck"] = self.bottleneck * self._reconstruction(step, out)
        return {**terms, **added}

    def _game(self, step: Step, out: Outputs) -> Tensor:
        pieces, joint = _pieces(step, out)
        clean = joint(pieces)
        clean = clean.detach() if self.clean == "detach" else clean
        total = []
        for u in pieces:
            permutations = self._permutations(step, u, len(clean)).to(clean.device)
            _, signed = moves(pieces, joint, clean, u, permutations, self.game)
            total.append(step.mean(signed, step.here(u)))
        return torch.stack(total).sum()

    def _permutations(self, step: Step, modality: str, n: int) -> Tensor:
        """(K, n) permutations of the samples in the loss, within those that have the modality."""
        keys = torch.rand(self.samples, n, generator=step.generator(f"mcr/{modality}"))
        here = step.here(modality)
        if here is None:
            return keys.argsort(1)
        keys = keys.to(here.device) + 2.0 * ~here
        place = (~here).to(torch.int64).argsort(stable=True)
        return torch.empty_like(keys, dtype=torch.int64).index_copy_(1, place, keys.argsort(1))

    def _contrast(self, step: Step, out: Outputs) -> Tensor:
        gather, batch = step.run.gather, step.batch
        kept = torch.ones_like(batch.target, dtype=torch.bool) if step.keep is None else step.keep
        there = [kept if out.present is None else kept & out.present[m] for m in out.features]
        valid = gather(torch.stack(there, 1).to(torch.int64)).bool().T.flatten()
        views = torch.cat([gather(z) for z in out.features.values()])
        return supervised_contrast(views, gather(batch.target).repeat(len(out.features)), valid, self.temperature)

    def _reconstruction(self, step: Step, out: Outputs) -> Tensor:
        """The mean over samples, modalities that they have, and features."""
        guess = step.run.model.extra["mcr_reconstruct"](step.kept(out.logits.detach()))
        widths = step.run.model.head.dims
        parts = dict(zip(widths, guess.split(list(widths.values()), dim=1)))
        found, total = [], sum(widths[m] for m in out.features)
        for m, z in out.features.items():
            apart = (step.kept(z) - parts[m]).square().sum(-1)
            found.append(step.mean(apart, step.here(m)) / total)
        return torch.stack(found).sum()


def reconstruction(n_classes: int, hidden: int, total: int) -> nn.Sequential:
    """An MLP without biases, from logits to the concatenated features.

    Args:
        n_classes: width of the input.
        hidden: width of the hidden layer.
        total: width of the output.
    """
    return nn.Sequential(nn.Linear(n_classes, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, total, bias=False))


def _there(z: Tensor, here: Tensor | None) -> Tensor:
    """Features (B, D), zero for samples that lack the modality, as a head reads them."""
    return z if here is None else torch.where(here[:, None], z, 0.0)


def _pieces(step: Step, out: Outputs) -> tuple[dict[str, Tensor], Joint]:
    """What is permuted and held, for the samples in the loss, and how it becomes joint logits.

    Linear parts of an additive head: W_m z_m, to which the whole bias is added. Otherwise features, and the head.
    """
    head, features = step.run.model.head, {m: _there(step.kept(z), step.here(m)) for m, z in out.features.items()}
    linear = {m: head.classifier(m) for m in head.dims} if head.additive else {}
    if linear and all(pair is not None for pair in linear.values()):
        bias = torch.stack([b for _, b in linear.values()]).sum(0)  # type: ignore[misc]
        return {m: F.linear(z, linear[m][0]) for m, z in features.items()}, lambda x: sum(x.values()) + bias  # type: ignore[index, return-value]
    return features, lambda x: head(x).logits

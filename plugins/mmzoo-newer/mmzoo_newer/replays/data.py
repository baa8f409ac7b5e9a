"""Replays of the methods that choose data or stages: Data Remixing, BSS, G2D."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from mmzoo.functional import true_class_probabilities
from mmzoo.testing.replay import Case, replays
from mmzoo_newer import bss, g2d, remix
from mmzoo_newer.replays.common import gradients_of_features, listed, named, separate_head, traced
from mmzoo_newer.replays.gradients import each


# ---------------------------------------------------------------------- Data Remixing
@replays("remix", "kl")
def _kl(case: Case) -> Iterator[Any]:
    yield "kl_bits", remix.separability(case.real("probability"))


@replays("remix", "assign")
def _assign(case: Case) -> Iterator[Any]:
    scores = remix.separability(case.real("own").softmax(-1))
    yield "kl_bits", scores
    yield "keep", remix.least_separable(scores)


def _remix_head(case: Case) -> Any:
    return separate_head(
        case.real("weight"), case.real("bias"), listed(case, "own_weights"), listed(case, "own_biases")
    )


@replays("remix", "step")
def _remix_step(case: Case) -> Iterator[Any]:
    features, kept = listed(case, "features"), f"m{int(case.number('keep'))}"
    strategy = remix.Remix(warmup=0, weight=case.number("gamma"))
    found = traced(strategy, features, case.whole("label"), _remix_head(case), only=kept)
    yield "fused", found.out.logits
    yield "own", found.out.unimodal[kept]
    yield "loss", found.total
    yield from each("grad_features", gradients_of_features(found, features), case)


@replays("remix", "warmup_loss")
def _remix_warmup(case: Case) -> Iterator[Any]:
    strategy = remix.Remix(warmup=1, warm_weight=case.number("own_weight"))
    yield "loss", traced(strategy, listed(case, "features"), case.whole("label"), _remix_head(case)).total


# ---------------------------------------------------------------------- BSS
@replays("bss", "score")
def _score(case: Case) -> Iterator[Any]:
    own, fused, y = list(case.real("own")), case.real("fused"), case.whole("label")
    similarity = bss.similarities(own, case.inputs["similarity"])
    loss = bss.sample_losses(own, fused, y, case.number("own_weight"), case.number("fused_weight"))
    hardness = bss.hardness(similarity, loss)
    weight = bss.draw_weights(similarity, loss, case.number("floor"))
    yield "similarity", similarity
    yield "loss", loss
    yield "hardness", hardness
    yield "order", hardness.argsort(stable=True)
    yield "weight", weight
    yield "probability", weight / weight.sum()


@replays("bss", "pacing")
def _pacing(case: Case) -> Iterator[Any]:
    epochs = range(1, int(case.number("epochs")) + 1)
    shares = [bss.pace(t, case.number("start"), case.number("grow")) for t in epochs]
    yield "fraction", shares
    yield "count", [int(share * case.number("n")) for share in shares]


# ---------------------------------------------------------------------- G2D
@replays("g2d", "loss")
def _g2d_loss(case: Case) -> Iterator[Any]:
    logits, y, weights = case.real("logits"), case.whole("label"), ("logit_weight", "feature_weight")
    teachers = zip(case.real("teacher_logits"), listed(case, "teacher_features"), listed(case, "features"))
    ce = F.cross_entropy(logits, y)
    terms = [
        (g2d.logit_divergences(t, logits, case.number("temperature")).mean(), g2d.feature_distances(z, taught).mean())
        for t, taught, z in teachers
    ]
    logit, feature = torch.tensor(terms, dtype=torch.float64).T
    yield "ce", ce
    yield "logit", logit
    yield "feature", feature
    yield "total", ce + sum(case.number(w) * t.sum() for w, t in zip(weights, (logit, feature)))


@replays("g2d", "smp_batch")
def _smp_batch(case: Case) -> Iterator[Any]:
    p = torch.stack([true_class_probabilities(t, case.whole("label")) for t in case.real("teacher_logits")])
    yield "score_sum", p.sum(1)
    yield "score_mean", p.mean(1)
    yield "coefficient", g2d.weakest_only(p.sum(1))


@replays("g2d", "smp_rank")
def _smp_rank(case: Case) -> Iterator[Any]:
    p = torch.stack([true_class_probabilities(t, case.whole("label")) for t in case.real("teacher_logits")])
    confidence = dict(zip(named(list(p)), p.mean(1).tolist()))
    yield "confidence", p.mean(1)
    yield "weakest_first", [int(m[1:]) for m in g2d.ranked(confidence)]


@replays("g2d", "smp_schedule")
def _smp_schedule(case: Case) -> Iterator[Any]:
    order = [f"m{i}" for i in case.whole("weakest_first")]
    lengths = case.whole("tau").tolist()
    training = [g2d.active(order, lengths, epoch) for epoch in range(int(case.number("epochs")))]
    yield "active", [[float(f"m{i}" in names) for i in range(len(order))] for names in training]

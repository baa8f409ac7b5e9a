"""Replays of CGGM, AMCo and MCR."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from mmzoo.testing.replay import Case, Check, replays
from mmzoo_newer import amco, cggm, mcr
from mmzoo_newer.replays.common import listed, named
from mmzoo_newer.replays.gradients import each

#: beyond this a coefficient is a rounding error divided by eps, and the vector asks for its order of magnitude only
EXPLODED = 1e6


# ---------------------------------------------------------------------- CGGM
@replays("cggm", "coefficient")
def _coefficient(case: Case) -> Iterator[Any]:
    c = cggm.coefficients(case.real("metric_now"), case.real("metric_prev"), case.number("eps"))
    tolerance = 1e-6 if float(c.abs().max()) > EXPLODED else None
    yield Check("coefficient", c, tolerance=tolerance)
    yield Check("gradient_scale", case.number("rho") * c, tolerance=tolerance)


@replays("cggm", "direction")
def _direction(case: Case) -> Iterator[Any]:
    fusion = case.real("fusion")
    cosine = torch.stack([cggm.cosine(v, fusion) for v in listed(case, "classifier")])
    yield "cosine", cosine
    yield "l_gm", cggm.direction(case.real("coefficient"), cosine)


@replays("cggm", "trace")
def _trace(case: Case) -> Iterator[Any]:
    before = case.real("initial")
    for i, (logits, y) in enumerate(zip(case.real("logits"), case.whole("label"))):
        now = (logits.argmax(-1) == y).double().mean(-1)
        yield f"steps/{i}/accuracy", now
        c = cggm.coefficients(now, before)
        yield Check(f"steps/{i}/coefficient", c, tolerance=1e-6 if float(c.abs().max()) > EXPLODED else None)
        before = now


# ---------------------------------------------------------------------- AMCo
@replays("amco", "mask_rate")
def _mask_rate(case: Case) -> Iterator[Any]:
    rate = amco.mask_rate(case.number("l_t"), case.number("eps"))
    yield "pt", rate
    yield "n_masked", amco.masked_classes(rate, int(case.number("n_classes")))


@replays("amco", "schedule")
def _schedule(case: Case) -> Iterator[Any]:
    levels = [batch * case.number("epoch") * 0.1 for batch in range(int(case.number("batches")))]
    rates = [amco.mask_rate(level, case.number("eps")) for level in levels]
    yield "l", levels
    yield "p", rates
    yield "masked_classes", [amco.masked_classes(p, int(case.number("n_classes"))) for p in rates]


@replays("amco", "step")
def _amco_step(case: Case) -> Iterator[Any]:
    own, y = named(list(case.real("own"))), case.whole("label")
    own = amco.masked(own, named(list(case.real("dependent"))), case.real("class_mask"))
    before = torch.stack(list(own.values())).sum(0)
    fused = F.linear(before, case.real("out_weight"), case.real("out_bias"))
    share = amco.dominance(own).mean(0)
    yield "masked", torch.stack(list(own.values()))
    yield "fused_before", before
    yield "fused", fused
    yield "losses", torch.stack([F.cross_entropy(z, y) for z in (fused, *own.values())])
    yield "share", share
    yield "dependent_next", (share > case.number("sigma")).double()


# ---------------------------------------------------------------------- MCR
@replays("mcr", "jsd")
def _jsd(case: Case) -> Iterator[Any]:
    yield "jsd", mcr.divergences(case.real("a"), case.real("b")).mean()


@replays("mcr", "regulariser")
def _regulariser(case: Case) -> Iterator[Any]:
    features = [z.requires_grad_() for z in listed(case, "features")]
    weights = [w.requires_grad_() for w in listed(case, "weights")]
    bias = case.real("bias").requires_grad_()
    pieces = named([F.linear(z, w) for z, w in zip(features, weights)])

    def joint(x: Any) -> torch.Tensor:
        return sum(x.values()) + bias

    clean, permutations = joint(pieces), case.whole("permutations")
    found = [mcr.moves(pieces, joint, clean, m, permutations, case.inputs["strategy"]) for m in pieces]
    value = case.number("weight") * torch.stack([signed.mean() for _, signed in found]).sum()
    value.backward()
    yield "jsd", torch.stack([j.mean() for j, _ in found])
    yield "value", value
    yield from each("grad_features", [z.grad for z in features], case)
    yield from each("grad_weights", [w.grad for w in weights], case)
    yield "grad_bias", bias.grad


@replays("mcr", "contrastive")
def _contrastive(case: Case) -> Iterator[Any]:
    features, y = listed(case, "features"), case.whole("label")
    target = y.repeat(len(features))
    valid = torch.ones_like(target, dtype=torch.bool)
    yield "loss", mcr.supervised_contrast(torch.cat(features), target, valid, case.number("temperature"))


@replays("mcr", "bottleneck")
def _bottleneck(case: Case) -> Iterator[Any]:
    features, weights = listed(case, "features"), [case.real("hidden_weight"), case.real("out_weight")]
    module = mcr.reconstruction(weights[0].shape[1], weights[0].shape[0], weights[1].shape[0]).double()
    module.load_state_dict({"0.weight": weights[0], "2.weight": weights[1]})
    yield "loss", F.mse_loss(module(case.real("logits")), torch.cat(features, 1))

"""Replays of IGM."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from mmzoo.testing.replay import Case, replays
from mmzoo_newer import igm
from mmzoo_newer.replays.common import listed


@replays("igm", "projection")
def _projection(case: Case) -> Iterator[Any]:
    covariance = torch.stack([m[:, None] * m[None, :] for m in (x.mean(0) for x in listed(case, "layer_inputs"))]).sum(
        0
    )
    p = igm.projection(covariance, case.number("temperature"))
    yield "covariance", covariance
    yield "eigenvalues", torch.linalg.eigvalsh(covariance)
    yield "P", p
    yield "grad_after", case.real("grad") @ p


@replays("igm", "flat_loss")
def _flat(case: Case) -> Iterator[Any]:
    features, share = case.real("features"), case.number("lam")
    values = {name: case.real(name).requires_grad_() for name in ("weight", "bias")}
    y = case.real("target_onehot").argmax(1)
    logits = F.linear(features, values["weight"], values["bias"])
    mixed = igm.mixed_losses(logits, y, y[case.whole("permutation")], share).mean()
    moved = igm.displaced(values, torch.autograd.grad(mixed, list(values.values())), case.number("rho"))
    flat = F.cross_entropy(F.linear(features, moved["weight"], moved["bias"]), y)
    ratio = case.number("flat_ratio")
    yield "loss_mixed", mixed
    yield "loss_flat", flat
    yield "loss", (1 - ratio) * mixed + ratio * flat
    yield from ((f"{name}_after", value) for name, value in moved.items())

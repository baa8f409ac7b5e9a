"""Benches with teachers."""

from __future__ import annotations

from collections.abc import Callable

import torch

from mmzoo.benchmark.planning.planned import Plan, Planned


def by_label(plan: Plan) -> dict[str, Planned]:
    return {p.label: p for p in plan.runs}


def no_probe(features: torch.Tensor, target: torch.Tensor, n_classes: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """In place of the linear probe, which takes longer than these short runs and has no part in what is tested here."""
    return lambda z: z.new_zeros(len(z), n_classes)

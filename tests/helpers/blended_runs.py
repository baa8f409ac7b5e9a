"""Runs of G-Blend, MSES and MSLR with a meta set."""

from __future__ import annotations

import io
from typing import Any

import torch

from helpers import loader, model, run, weights
from helpers.by_hand import Linear
from helpers.steps_by_hand import IN, C, D, batches
from mmzoo.api import (
    MultimodalModel,
    Run,
    Strategy,
    Training,
)
from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.heads.concat import Concat
from mmzoo.registry.plugins import catalogue

#: half of it are training items, so that there is something to gain
SLICE = [batches()[0], batches(seed=11)[1]]


def through_disk(state: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def run_with_slice(strategy: Strategy, epochs: int = 3) -> Run:
    """The linear run of `helpers.steps_by_hand` with a meta set, for what is done by hand."""
    torch.manual_seed(0)
    m = MultimodalModel({m: Linear(d, D) for m, d in IN.items()}, Concat(dict.fromkeys(IN, D), C)).double()
    training = Training(optimizer="sgd", lr=0.2, momentum=0.9, weight_decay=0.03, epochs=epochs)
    return Run(m, strategy, train=batches(), slice=SLICE, training=training, seed=5)


def sliced(strategy: Strategy, m: MultimodalModel | None = None, epochs: int = 4, **options: Any) -> Run:
    """A small run in float32 with batch norm and dropout, whose slice holds other items than its training data."""
    net = model(norm=True) if m is None else m
    options.setdefault("training", Training(lr=0.05, epochs=epochs, weight_decay=0.01))
    return run(strategy, net, slice=loader(n=20, seed=9), **options)


def group_state(r: Run, m: str) -> dict[str, Any]:
    """All that belongs to a modality: weights, batch statistics, what the optimizer remembers."""
    own = {
        k: v
        for k, v in weights(r.model).items()
        if f"encoders.{m}." in k or k.startswith(("head.linear." + m, "head.weight." + m))
    }
    groups = r.model.groups()
    params = [p for g in (f"encoder:{m}", f"head:{m}") for p in groups.get(g, [])]
    memory = {
        f"{i}/{k}": v.clone() for i, p in enumerate(params) for k, v in r.optimizer.state[p].items() if v is not None
    }
    return {**own, **memory}


def method(text: str, *pairs: tuple[str, Any]) -> Any:
    return resolve_method(catalogue(), text, Settings(catalogue(), pairs))

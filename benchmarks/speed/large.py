"""A step of two ResNet18 at CREMA-D's size beside a bare loop, and what the switches of a CPU do.

Batches of 16: spectrograms of 257x299 and frames of 224x224. Single steps of all alternate on the same batches and take
turns in who comes first; a ratio is the median over all of the time over that of the bare step beside it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.speed.steps import bare_step
from benchmarks.step_cost import ResNet18
from mmzoo import Batch, MultimodalModel, Run
from mmzoo.benchmark.execution.building import build_strategy
from mmzoo.config.methods import resolve_method
from mmzoo.config.settings import Settings
from mmzoo.registry.plugins import catalogue
from mmzoo.training.config import Training

BATCH, CLASSES = 16, 6
SHAPES = {"audio": (1, 257, 299), "video": (3, 224, 224)}
#: row -> (method, options of the encoders and of the training that are not the default)
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "concat": ("concat", {}),
    "concat, channels_last": ("concat", {"channels_last": True}),
    "concat, fused": ("concat", {"fused": True}),
    "ogm": ("ogm", {}),
    "ogm_ge": ("ogm_ge", {}),
    "agm": ("agm", {}),
    "agm_detached": ("agm_detached", {}),
    "greedy": ("greedy", {}),
}


def _batches(n: int) -> list[Batch]:
    g = torch.Generator().manual_seed(0)
    return [
        Batch(
            {m: torch.randn((BATCH, *s), generator=g) for m, s in SHAPES.items()},
            torch.randint(CLASSES, (BATCH,), generator=g),
            torch.arange(BATCH) + i * BATCH,
        )
        for i in range(n)
    ]


def _bare() -> Callable[[Batch], Any]:
    torch.manual_seed(0)
    nets = nn.ModuleDict({m: ResNet18(s[0]) for m, s in SHAPES.items()}).train()
    return bare_step(nets, nn.Linear(1024, CLASSES), lr=1e-3, momentum=0.9, weight_decay=1e-4)


def _run(name: str, options: dict[str, Any]) -> Run:
    settings = dict(options)
    torch.manual_seed(0)
    known = catalogue()
    method = resolve_method(known, name, Settings(known, ()))
    head = known.get("heads", method.head).load()
    last = bool(settings.pop("channels_last", False))
    nets = {m: ResNet18(s[0]).configure(s, channels_last=last) for m, s in SHAPES.items()}
    encoders = head.readout(nets, **method.head_params)
    model = MultimodalModel(encoders, head({m: e.out_dim for m, e in encoders.items()}, CLASSES, **method.head_params))
    given = {"optimizer": "sgd", "lr": 1e-3, "momentum": 0.9, "weight_decay": 1e-4, "batch_size": BATCH, "epochs": 40}
    run = Run(
        model,
        build_strategy(known, method.parts),
        train=_batches(2),
        slice=_batches(1),
        training=Training(**given, **settings),
    )
    run.epoch = 20
    run.start_epoch()
    return run


def measure(steps: int) -> list[dict[str, Any]]:
    """One row a way: seconds a step and the ratio to the bare loop."""
    todo: dict[str, Callable[[Batch], Any]] = {"bare loop": _bare()}
    todo |= {name: _run(*made).step for name, made in OURS.items()}
    taken: dict[str, list[float]] = {name: [] for name in todo}
    batches, order = _batches(2), list(todo)
    for i in range(1 + steps):
        for name in order:
            start = time.process_time()
            todo[name](batches[i % 2])
            if i:  # the first step warms up
                taken[name].append(time.process_time() - start)
        order = order[1:] + order[:1]
    bare = taken["bare loop"]
    return [
        {
            "step": name,
            "seconds": round(statistics.median(times), 3),
            "ratio": round(statistics.median(a / b for a, b in zip(times, bare)), 3),
            "least": round(min(a / b for a, b in zip(times, bare)), 3),
            "most": round(max(a / b for a, b in zip(times, bare)), 3),
        }
        for name, times in taken.items()
    ]

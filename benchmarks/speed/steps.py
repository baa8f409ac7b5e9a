"""What a training step costs beside a loop that a user would write, in processor time.

The default encoders of the bundled data (two MLPs) train under each method through `Run.step`, and beside them in a bare
PyTorch loop with one linear layer on the concatenated features. Single steps alternate on the same batches and take turns
in who comes first. A ratio is the median over all steps of the method's time over that of the bare step beside it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from mmzoo import Batch
from mmzoo.benchmark.execution.building import Kit, build_model, data_of
from mmzoo.benchmark.planning.plan import make_plan
from mmzoo.config.spec import BenchSpec
from mmzoo.registry.plugins import catalogue

METHODS = ("concat", "ogm", "ogm_ge", "pmr", "agm", "mla", "dynamic_gap_h", "dynamic_gap_lb")
Step = Callable[[Batch], Any]


def kit_of(method: str) -> Kit:
    """Data, model and strategy of one run on the bundled data."""
    plan = make_plan(BenchSpec(method, seeds=(0,), references=False), catalogue())
    spec = next(p for p in plan.runs if p.role == "method").spec
    return Kit(catalogue(), spec, data_of(catalogue(), spec), "cpu")


def bare_loop(kit: Kit) -> Step:
    """The bare loop on the data and encoders of a run."""
    t = kit.spec.training
    encoders = build_model(catalogue(), kit.spec, kit.data).encoders.train()
    head = nn.Linear(sum(int(e.out_dim) for e in encoders.values()), kit.data.n_classes)  # type: ignore[arg-type]
    return bare_step(encoders, head, lr=t.lr, momentum=t.momentum, weight_decay=t.weight_decay)


def bare_step(encoders: nn.ModuleDict, head: nn.Linear, **settings: float) -> Step:
    """A step as a user would write it: encoders, one linear layer, torch's own SGD.

    Args:
        encoders: modality -> encoder.
        head: reads the concatenated features.
        settings: those of the optimizer.
    """
    optimizer = torch.optim.SGD([*encoders.parameters(), *head.parameters()], **settings)

    def step(batch: Batch) -> None:
        optimizer.zero_grad()
        features = torch.cat([encoder(batch.inputs[m]) for m, encoder in encoders.items()], 1)
        F.cross_entropy(head(features), batch.target).backward()
        optimizer.step()

    return step


def measure(rounds: int) -> list[dict[str, Any]]:
    """One row a method: milliseconds a step, and the ratio to the bare loop.

    Args:
        rounds: how often all batches of an epoch are gone through.
    """
    torch.set_num_threads(1)
    kits = {method: kit_of(method) for method in METHODS}
    runs = {method: kit.run() for method, kit in kits.items()}
    plain = runs["concat"]
    batches = list(plain.epoch_batches())
    for run in runs.values():
        run.start_epoch()
    todo: dict[str, Step] = {"bare loop": bare_loop(kits["concat"]), **{m: run.step for m, run in runs.items()}}
    taken: dict[str, list[float]] = {name: [] for name in todo}
    order = list(todo)
    for i in range(1 + rounds):
        for batch in batches:
            for name in order:
                start = time.process_time()
                todo[name](batch)
                if i:  # the first round warms up
                    taken[name].append(time.process_time() - start)
            order = order[1:] + order[:1]
    base = taken["bare loop"]
    return [
        {
            "what": name,
            "milliseconds": round(1e3 * statistics.median(times), 3),
            "ratio": round(statistics.median(a / b for a, b in zip(times, base)), 3),
            "steps": len(times),
        }
        for name, times in taken.items()
    ]

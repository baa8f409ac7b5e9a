"""What the tests of this package share."""

from __future__ import annotations

from typing import Any

import torch
from helpers.by_hand import Linear, Sgd, Weights
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from mmzoo.api import Loader, MultimodalModel, Run, Strategy, Training
from mmzoo.heads.concat import Concat
from mmzoo.testing import build_model, make_task

SEEDS = st.integers(0, 10**6)
quick = settings(deadline=None, max_examples=25, derandomize=True)


def started(strategy: Strategy, modalities: int = 2, head: Any = Concat, **options: Any) -> Run:
    """A run on a small task in float64."""
    task = make_task(modalities, equal=True, dtype=torch.float64)
    training = Training(lr=0.05, momentum=0.9, weight_decay=0.01, batch_size=5, epochs=options.pop("epochs", 4))
    return Run(build_model(task, head, **options), strategy, train=task.loader("train"), training=training)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(seed: int, n: int, classes: int) -> Tensor:
    return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------- whole steps in numpy, with a loader
WIDTHS = {"a": 5, "v": 2}
N, D, C, BATCH = 12, 3, 4, 4


def loader_of(seed: int = 3) -> Loader:
    g = torch.Generator().manual_seed(seed)
    inputs = {m: torch.randn(N, d, generator=g, dtype=torch.float64) for m, d in WIDTHS.items()}
    return Loader(inputs, torch.arange(N).remainder(C), torch.arange(N), batch_size=BATCH)


def numpy_run(strategy: Strategy, head: Any, **options: Any) -> Run:
    """A run of linear encoders in float64 whose steps `by_hand.Sgd` repeats."""
    torch.manual_seed(0)
    encoders = {m: Linear(d, D) for m, d in WIDTHS.items()}
    model = MultimodalModel(encoders, head(dict.fromkeys(WIDTHS, D), C)).double()
    training = Training(optimizer="sgd", lr=0.2, momentum=0.9, weight_decay=0.03, epochs=options.pop("epochs", 3))
    return Run(model, strategy, train=loader_of(), training=training, seed=5, **options)


def moved(sgd: Sgd, w: Weights, g: Weights) -> dict[str, Any]:
    """The weights after a step of those that have a gradient."""
    return {**w, **sgd.step({name: w[name] for name in g}, g)}

"""Models and data whose measures of modalities are known."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from mmzoo.api import Batch, MultimodalModel, Strategy, evaluate_modalities
from mmzoo.testing.harness.tasks import build_model, make_task


# ---------------------------------------------------------------------- how the tests do it
def powerset(names: Iterable[str]) -> list[frozenset[str]]:
    names = list(names)
    return [frozenset(s) for k in range(len(names) + 1) for s in itertools.combinations(names, k)]


def over_orders(value: Callable[[frozenset[Any]], Any], players: Iterable[Any]) -> dict[Any, Any]:
    """The Shapley value as it is defined: the mean gain over all orders."""
    players = list(players)
    orders = list(itertools.permutations(players))
    total: dict[Any, Any] = dict.fromkeys(players, 0.0)
    for order in orders:
        for i, p in enumerate(order):
            total[p] = total[p] + value(frozenset(order[: i + 1])) - value(frozenset(order[:i]))
    return {p: t / len(orders) for p, t in total.items()}


def some_present(n: int, m: int, seed: int) -> Tensor:
    present = torch.rand(n, m, generator=torch.Generator().manual_seed(seed)) < 0.7
    present[torch.arange(m), torch.arange(m)] = True  # each modality somewhere
    return present


def restless(model: MultimodalModel, seed: int = 0) -> MultimodalModel:
    """Weights and biases that are not near zero, so that taking an input away leaves something of its own."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g, dtype=p.dtype) * 0.5)
    return model.eval()


def case(head: Any, n: int = 3, *, masked: bool = False, seed: int = 0) -> tuple[MultimodalModel, Batch, Batch]:
    """A model in float64 and the batches that it is fitted and tested on.

    Targets follow the model's answers to some items with some of the modalities, so that accuracies tell subsets apart.
    """
    task = make_task(n, equal=getattr(getattr(head, "func", head), "equal_dims", False), dtype=torch.float64, seed=seed)
    model = restless(build_model(task, head), seed)
    g = torch.Generator().manual_seed(seed)
    widths = {m: x.shape[1] for m, x in task.inputs["train"].items()}
    made = []
    for i, size in enumerate((30, 80)):
        inputs = {m: torch.randn(size, w, generator=g, dtype=torch.float64) + 0.5 for m, w in widths.items()}
        present = some_present(size, n, seed + i) if masked else None
        target = torch.randint(0, 3, (size,), generator=g)
        for kept in powerset(widths):
            blank = {m: x if m in kept else torch.zeros_like(x) for m, x in inputs.items()}
            with torch.no_grad():
                here = torch.rand(size, generator=g) < 0.2
                target = torch.where(here, model(blank, present).logits.argmax(1), target)
        made.append(Batch(inputs, target, torch.arange(size), present))
    return model, *made


def measured(model: MultimodalModel, train: Batch, test: Batch, strategy: Strategy | None = None) -> dict[str, Any]:
    return evaluate_modalities(model, strategy or Strategy(), train=lambda: [train], test=lambda: [test])


@torch.no_grad()
def by_hand(model: MultimodalModel, word: str, train: Batch, test: Batch, kept: frozenset[str]) -> Tensor:
    """Logits with some modalities kept, by a whole forward with inputs or features replaced one by one."""
    if word == "zero-input":
        blank = {m: x if m in kept else torch.zeros_like(x) for m, x in test.inputs.items()}
        return model(blank, test.present).logits
    feats, other = model.encode(test.inputs, present=test.present), model.encode(train.inputs, present=train.present)
    for i, m in enumerate(model.modalities):
        if m in kept:
            continue
        known = other[m] if train.present is None else other[m][train.present[:, i]]
        row = known.mean(0) if word == "mean-feature" else torch.zeros(known.shape[1], dtype=known.dtype)
        feats[m] = row.repeat(len(test), 1)
    return model.head(feats, test.present).logits


def acc(logits: Tensor, target: Tensor) -> float:
    return float((logits.argmax(1) == target).double().mean())

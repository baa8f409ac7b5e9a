"""Score any torch module on a data set: `mmzoo.evaluate`."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmzoo.benchmark.execution.building import load_data
from mmzoo.benchmark.execution.device import check_device
from mmzoo.config.datasets import resolve_dataset
from mmzoo.config.settings import Settings
from mmzoo.core.modes import evaluating
from mmzoo.core.values import Batch, Outputs
from mmzoo.data.loading.datamodule import DataModule
from mmzoo.errors import BadValue
from mmzoo.evaluation.metrics import classification
from mmzoo.evaluation.predictions import EVAL_BATCH
from mmzoo.registry.plugins import catalogue


def evaluate(
    model: nn.Module,
    dataset: str | DataModule,
    *,
    split: Literal["test", "holdout"] = "test",
    call: Callable[[nn.Module, Batch], Tensor | Outputs] | None = None,
    settings: Mapping[str, Any] | None = None,
    batch_size: int = EVAL_BATCH,
    device: str | None = None,
) -> dict[str, Any]:
    """The scores of any torch module on a split, by the metrics of the bench, on every item.

    model: what it returns for `model(inputs)`, inputs a mapping of modality -> (B, ...), is logits (B, n_classes) or
    Outputs; `call(model, batch)` where it wants something else. It is put into eval mode, and back. dataset: as --datasets
    names it, or a DataModule. device: where it is run, by default where its first parameter lies; it is put back. Returns acc,
    macro_f1, map, loss, n_scored, n_total, and what they rest on.

    Test is there to be scored once: choose on holdout. Raises BadValue for outputs that are no logits of this data set.
    """
    data = dataset if isinstance(dataset, DataModule) else _named_data(dataset, settings or {})
    if split not in ("test", "holdout"):
        raise BadValue(f"split must be test or holdout, not {split!r}: training items say nothing of a model.")
    asked = call or (lambda model, batch: model(batch.inputs))
    home = next((p.device for p in model.parameters()), torch.device("cpu"))
    where = home if device is None else torch.device(check_device(device))
    pieces, targets = [], []
    with contextlib.ExitStack() as stack:
        if where != home:
            stack.callback(model.to, home)
            model.to(where)
        stack.enter_context(evaluating(model))
        for batch in data.loader(split, batch_size=batch_size).batches():
            out = asked(model, batch.to(where))
            logits = out.logits if isinstance(out, Outputs) else out
            scores = out.scores if isinstance(out, Outputs) else _softmax(out, len(batch), data.n_classes)
            pieces.append((logits.cpu(), scores.cpu()))
            targets.append(batch.target)
    target = torch.cat(targets).cpu()
    logits, scores = (torch.cat(parts) for parts in zip(*pieces))
    found = classification(scores, target, logits)
    if not all(map(math.isfinite, (*found.values(), float(scores.sum())))):
        raise BadValue("the model's outputs are not finite for every item, so that it has no scores.")
    return {
        **found,
        "main_metric": data.metric,
        "dataset": data.name,
        "split": split,
        "n_scored": len(target),
        "n_total": len(data.splits[split]),
        "hashes": {"split": data.split_hash, "recipe": data.recipe_hash},
    }


def _softmax(out: Any, n: int, n_classes: int) -> Tensor:
    if not isinstance(out, Tensor) or out.shape != (n, n_classes):
        given = f"a tensor of shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
        raise BadValue(
            f"the model must return logits of shape ({n}, {n_classes}) or mmzoo Outputs, not {given}. Say how it is to be "
            "asked with call=lambda model, batch: ..."
        )
    return out.softmax(-1)


def _named_data(text: str, given: Mapping[str, Any]) -> DataModule:
    settings = Settings(catalogue(), tuple(given.items()))
    _, entry, params = resolve_dataset(catalogue(), text, settings)
    settings.check_all_used()
    return load_data(catalogue(), entry.id.partition("/")[2], json.dumps(params, sort_keys=True))

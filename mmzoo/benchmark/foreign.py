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
    """Score any torch module on a split, on every sample, by the metrics of the benchmark.

    Args:
        model: Returns logits (B, n_classes) or Outputs for `model(inputs)`, with inputs a mapping of modality -> (B, ...).
            It is scored in eval mode; its mode and device are restored.
        dataset: A data set as `--datasets` names it, or a DataModule.
        split: "test" or "holdout". Score test once; select models on holdout.
        call: Called as `call(model, batch)` in place of `model(inputs)`.
        settings: Parameters of the data set by dotted name.
        batch_size: Samples per batch.
        device: Where the model is run; None for the device of its first parameter.

    Returns:
        `acc`, `macro_f1`, `map`, `loss`, `n_scored`, `n_total`, and the hashes of data and split.

    Raises:
        BadValue: The outputs are no finite logits of this data set.
    """
    data = dataset if isinstance(dataset, DataModule) else _named_data(dataset, settings or {})
    if split not in ("test", "holdout"):
        raise BadValue(f"split must be test or holdout, not {split!r}: scores on training samples are not informative.")
    logits, scores, target = _outputs(model, data, split, call or (lambda m, b: m(b.inputs)), batch_size, device)
    found = classification(scores, target, logits)
    if not all(map(math.isfinite, (*found.values(), float(scores.sum())))):
        raise BadValue("the model's outputs are not finite for every sample, so that it has no scores.")
    return {
        **found,
        "main_metric": data.metric,
        "dataset": data.name,
        "split": split,
        "n_scored": len(target),
        "n_total": len(data.splits[split]),
        "hashes": {"split": data.split_hash, "recipe": data.recipe_hash},
    }


def _outputs(
    model: nn.Module,
    data: DataModule,
    split: str,
    call: Callable[[nn.Module, Batch], Tensor | Outputs],
    batch_size: int,
    device: str | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (N, C), scores (N, C) and targets (N,) of a split, on the CPU."""
    home = next((p.device for p in model.parameters()), torch.device("cpu"))
    where = home if device is None else torch.device(check_device(device))
    pieces: list[tuple[Tensor, Tensor, Tensor]] = []
    with contextlib.ExitStack() as stack:
        if where != home:
            stack.callback(model.to, home)
            model.to(where)
        stack.enter_context(evaluating(model))
        for batch in data.loader(split, batch_size=batch_size).batches():
            out = call(model, batch.to(where))
            logits = out.logits if isinstance(out, Outputs) else out
            scores = out.scores if isinstance(out, Outputs) else _softmax(out, len(batch), data.n_classes)
            pieces.append((logits.cpu(), scores.cpu(), batch.target.cpu()))
    logits, scores, target = (torch.cat(parts) for parts in zip(*pieces))
    return logits, scores, target


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

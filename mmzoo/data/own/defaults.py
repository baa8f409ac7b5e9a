"""Defaults for a user's own data: which encoder reads each kind, and how long and how it is trained. No torch at import.

They were chosen on training samples of small real tables (benchmarks/own_data_choose.py), so that a linear floor is reached
without a setting. What a manifest or `--set` gives wins over all of it.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from mmzoo.data.store.store import DataStore
from mmzoo.registry import Entry

E = TypeVar("E", bound=Entry)

#: optimizer steps that a default training takes at least, and between which numbers of epochs
LEAST_STEPS = 1000
EPOCHS = (20, 500)
#: from how many training samples on a batch has so many
BATCHES = ((0, 16), (500, 32), (5_000, 64), (50_000, 128))
#: pixels or cells a side from which an input is averaged down before its first convolution, so that a CPU keeps up
LARGEST_SIDE = 128
#: in few steps all but pictures learn too little at the usual rate; beside an image word vectors, since it fits the labels first
_RATE: Mapping[str, Any] = {"lr_scale": 3.0}
#: hidden layers read numbers that are clipped smoothly: of a skewed column the few far ones would fill them
_VECTOR: Mapping[str, Any] = {**_RATE, "hidden": [256], "width": 64, "dropout": 0.5, "skip": True, "bound": 2.0}
_SERIES: Mapping[str, Any] = {**_RATE, "dropout": 0.5, "pieces": 16}
_PICTURE: Mapping[str, Any] = {"dropout": 0.5}
#: few validation samples choose an early epoch by luck; under a cosine schedule the last quarter is the best and nearly still
_TRAINING: Mapping[str, Any] = {
    "optimizer": "adam",
    "lr": 0.001,
    "weight_decay": 0.0001,
    "schedule": "cosine",
    "choose_from": 0.75,
}
#: where plain SGD is chosen, whose steps grow with the gradient: on validation samples as good as Adam's 0.001
_SGD_RATE = 0.02


@dataclass(frozen=True)
class Choice:
    """An encoder for a modality, its parameters that are not the usual ones, and why it was chosen."""

    name: str
    params: Mapping[str, Any]
    why: str


def encoder_for(kind: str, shape: Sequence[int] = ()) -> Choice:
    """The default encoder of a kind of modality. shape: of one stored sample, as far as it is known."""
    if kind == "vector":
        return Choice(
            "mlp",
            _VECTOR,
            "numbers: one wide hidden layer with dropout, and a linear map beside it, at three times the rate",
        )
    if kind == "text":
        return Choice(
            "text_words", _RATE, "texts: a sum of word vectors, the strongest on small tables, at three times the rate"
        )
    if kind == "series":
        return Choice(
            "series_cnn",
            _SERIES,
            "series: a small network over time, with averages of the input beside it, at three times the rate",
        )
    side = max((*shape[-3:-1], 1) if kind in ("image", "video") else (*shape, 1))
    shrink = 1 if side <= LARGEST_SIDE else math.ceil(side / LARGEST_SIDE)
    words = f", averaged over {shrink} x {shrink} first" if shrink > 1 else ""
    params = {**_PICTURE, "shrink": shrink} if shrink > 1 else _PICTURE
    return Choice("cnn", params, f"{kind}: a small network from random weights, with dropout{words}")


def batch_for(samples: int) -> int:
    """The batch size for so many training samples."""
    return next(size for least, size in reversed(BATCHES) if samples >= least)


def epochs_for(samples: int, batch: int) -> int:
    """Epochs that take LEAST_STEPS steps, within EPOCHS."""
    least, most = EPOCHS
    return min(max(math.ceil(LEAST_STEPS / steps_for(samples, batch)), least), most)


def steps_for(samples: float, batch: int) -> int:
    """Optimizer steps of one epoch."""
    return max(1, math.ceil(samples / batch))


def training_for(samples: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """The training protocol for so many training samples. given: what the user has chosen of it."""
    batch, lr = given.get("batch_size", batch_for(samples)), rate_for(given.get("optimizer", _TRAINING["optimizer"]))
    return {**_TRAINING, "lr": lr, "batch_size": batch, "epochs": epochs_for(samples, batch), **given}


def rate_for(optimizer: str) -> float:
    """The learning rate for an optimizer."""
    return _SGD_RATE if optimizer == "sgd" else float(_TRAINING["lr"])


def training_samples(items: int, sides: Mapping[str, int]) -> int:
    """About how many samples are trained on. sides: published side -> samples; what is not published is cut off as
    `completed_split` cuts it."""
    rest = float(items - sides.get("test", 0) - sides.get("holdout", 0) - sides.get("-", 0))
    rest -= 0 if sides.get("test") else rest / 5
    rest -= 0 if sides.get("holdout") else rest / 10
    return max(1, round(rest))


def of_own_store(entry: E, store: DataStore) -> E:
    """The entry of a manifest with the defaults for what its store holds."""
    split = store.split_name(None)
    sides = Counter(row.sides[split] for row in store.index)
    shapes = {m: next(iter(store.parts(m).values()))[0] for m in store.modalities}
    return sized(entry, len(store), sides, shapes)


def sized(
    entry: E, items: int, sides: Mapping[str, int] | None = None, shapes: Mapping[str, tuple[int, ...]] | None = None
) -> E:
    """The entry with the defaults for so many samples; what the manifest gives wins.

    Args:
        entry: of a manifest, with `given` among its extras.
        items: samples in all splits.
        sides: published side -> samples.
        shapes: modality -> shape of one stored sample, as far as they are known.
    """
    kinds, given = entry.extra["modalities"], entry.extra["given"]
    samples = training_samples(items, sides or {})
    chosen = {m: encoder_for(kind, (shapes or {}).get(m, ())) for m, kind in kinds.items()}
    named = {m: given["encoders"].get(m, given["encoders"].get(kind)) for m, kind in kinds.items()}
    usual = {m: {"name": c.name, "params": dict(c.params)} for m, c in chosen.items()}
    extra = {
        **entry.extra,
        "samples": samples,
        "encoders": usual | {m: choice for m, choice in named.items() if choice is not None},
        "why": {m: "as the manifest says" if named[m] else chosen[m].why for m in kinds},
        "training": {"default": training_for(samples, given["training"])},
    }
    return dataclasses.replace(entry, extra=extra)

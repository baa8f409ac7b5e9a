"""UCI Multiple Features: 2,000 real handwritten numerals seen as six vectors each. Bundled (CC BY 4.0)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from fractions import Fraction
from importlib import resources

import numpy as np
import torch

from mmzoo.data.loading.datamodule import DataModule
from mmzoo.data.store.splits import hashed_split, split_hash
from mmzoo.errors import BadValue

VIEWS = ("fou", "fac", "kar", "pix", "zer", "mor")
#: 1,000 items train (200 of them the slice), 500 holdout, 500 test; equal numbers of each class everywhere
SHARES = {"train": Fraction(40, 100), "slice": Fraction(10, 100), "holdout": Fraction(1, 4), "test": Fraction(1, 4)}


def load(*, views: Sequence[str] = ("fou", "zer"), labels: int | None = None) -> DataModule:
    """The data set with some of its views, each standardised by the mean and deviation of the training items.

    labels: keep only that many training items a class, the first by hash, of which every fifth is the slice; holdout
    and test stay as they are. Raises BadValue for an unknown view or a number of labels that cannot be had.
    """
    if bad := [v for v in views if v not in VIEWS]:
        raise BadValue(f"mfeat has no view {bad[0]!r}; it has {', '.join(VIEWS)}.")
    if not views or len(set(views)) < len(views):
        raise BadValue(f"mfeat wants one or more different views, not {', '.join(views) or 'none'}.")
    used = [v for v in VIEWS if v in views]
    raw = _read(used)
    target = raw["label"]
    items = [f"{label}-{i:04d}" for i, label in enumerate(target)]
    splits = hashed_split(items, target.tolist(), SHARES, salt="mfeat")
    if labels is not None:
        splits = _fewer(splits, target, labels)
    fitted = splits["train"] + splits["slice"]
    inputs = {v: _standardised(raw[v], fitted) for v in used}
    recipe = json.dumps({"views": list(inputs), "labels": labels, "scale": "train z-score", "version": 1})
    return DataModule(
        name="mfeat",
        inputs=inputs,
        target=torch.from_numpy(target.astype(np.int64)),
        n_classes=10,
        splits=splits,
        split_hash=split_hash(items, splits),
        recipe_hash=hashlib.sha256(recipe.encode()).hexdigest()[:16],
        ids=items,
        classes=tuple(map(str, range(10))),
    )


def _read(views: Sequence[str]) -> dict[str, np.ndarray]:
    """view -> (2000, D) float64, exactly the published decimals, and `label` -> (2000,)."""
    with resources.files("mmzoo.data.datasets").joinpath("mfeat.npz").open("rb") as file:
        packed = np.load(file, allow_pickle=False)
        raw = {v: packed[f"{v}.mantissa"] / 10.0 ** packed[f"{v}.exponent"] for v in views}
        return {**raw, "label": packed["label"]}


def _fewer(splits: dict[str, list[int]], target: np.ndarray, labels: int) -> dict[str, list[int]]:
    """Keep the first `labels` training items of each class, of which every fifth is the slice."""
    most = min(sum(int(target[r] == c) for r in splits["train"] + splits["slice"]) for c in range(10))
    if not 5 <= labels <= most:
        raise BadValue(f"mfeat: labels must be between 5 and {most} a class, not {labels}.")
    kept: dict[str, list[int]] = {"train": [], "slice": []}
    for name, count in (("slice", labels // 5), ("train", labels - labels // 5)):
        for c in range(10):
            kept[name] += [r for r in splits[name] if target[r] == c][:count]
    return {**splits, **{name: sorted(rows) for name, rows in kept.items()}}


def _standardised(values: np.ndarray, fitted: Sequence[int]) -> torch.Tensor:
    """(N, D) float32. A feature that is constant on the training items is only centred."""
    mean, deviation = values[fitted].mean(0), values[fitted].std(0)
    scale = np.where(deviation > 0, deviation, 1.0)
    return torch.from_numpy(((values - mean) / scale).astype(np.float32))

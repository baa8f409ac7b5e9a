"""The map: generated vectors, with knobs for what the modalities share. Bundled as a generator; no real data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from mmzoo.data.loading.datamodule import DataModule
from mmzoo.data.store.splits import split_hash
from mmzoo.data.synthetic.shared import Shared
from mmzoo.errors import BadValue

VIEWS = ("a", "b", "c", "d")
#: of the training samples; the rest of them is the meta set
TRAIN_SHARE = 0.8
#: samples on which epochs are chosen, and on which scores are reported
VALIDATION, TEST = 1000, 4000


def load(
    *,
    views: Sequence[str] = ("a", "b"),
    content: float = 0.0,
    context: float = 0.0,
    hard: int = 0,
    strength: Mapping[str, float] | None = None,
    classes: int = 8,
    items: int = 1000,
    context_dim: int = 16,
    label_noise: float = 0.0,
    missing: float = 0.0,
    draw: int = 0,
) -> DataModule:
    """A drawn data set, each feature standardised by the mean and standard deviation of the training samples.

    Args:
        views: the modalities.
        content, context, hard, label_noise, missing: see `mmzoo.data.synthetic.shared.Shared`.
        strength: view -> how well it tells the classes apart; 2.5 where none is given (83.5 % alone with eight classes).
        classes: number of classes.
        items: training samples, a fifth of which is the meta set; validation (1,000) and test (4,000) do not depend on it.
        context_dim: directions that say nothing of the class.
        draw: another number gives other samples of the same law.

    Raises:
        BadValue: a view or a strength that does not exist, or too few samples.
    """
    planted = Shared(classes, _strengths(views, strength), content, context, hard, context_dim, label_noise, missing)
    if items < 5 * classes:
        raise BadValue(
            f"map: items={items} are fewer than five per class ({classes} classes). Give at least {5 * classes}."
        )
    splits = _splits(items)
    drawn = planted.draw(sum(map(len, splits.values())), draw)
    recipe = json.dumps({"planted": _facts(planted), "items": items, "draw": draw, "version": 1}, sort_keys=True)
    return DataModule(
        name="map",
        inputs={m: _standardised(x, drawn.present, i, items) for i, (m, x) in enumerate(drawn.inputs.items())},
        target=torch.from_numpy(drawn.target.astype(np.int64)),
        n_classes=classes,
        splits=splits,
        split_hash=split_hash([str(i) for i in range(len(drawn.target))], splits),
        recipe_hash=hashlib.sha256(recipe.encode()).hexdigest()[:16],
        present=None if drawn.present is None else torch.from_numpy(drawn.present),
        bayes=planted.all_bayes(),
    )


def _splits(items: int) -> dict[str, list[int]]:
    """The samples of each split, one split after the other."""
    train = round(TRAIN_SHARE * items)
    sizes = {"train": train, "slice": items - train, "holdout": VALIDATION, "test": TEST}
    ends = np.cumsum(list(sizes.values())).tolist()
    return {name: list(range(end - size, end)) for (name, size), end in zip(sizes.items(), ends)}


def _strengths(views: Sequence[str], strength: Mapping[str, float] | None) -> dict[str, float]:
    """view -> strength, in the order of VIEWS."""
    if bad := [v for v in views if v not in VIEWS]:
        raise BadValue(f"map has no view {bad[0]!r}; it has {', '.join(VIEWS)}.")
    if not views or len(set(views)) < len(views):
        raise BadValue(f"map needs one or more different views, not {', '.join(views) or 'none'}.")
    given = strength or {}
    if bad := [v for v in given if v not in views]:
        raise BadValue(f"map: strength names {bad[0]!r}, which is none of the views {', '.join(views)}.")
    return {v: float(given.get(v, 2.5)) for v in VIEWS if v in views}


def _facts(planted: Shared) -> dict[str, Any]:
    return {**vars(planted), "strength": dict(planted.strength)}


def _standardised(x: np.ndarray, present: np.ndarray | None, column: int, fitted: int) -> torch.Tensor:
    """(N, D) float32, zeros in rows that lack the modality."""
    rows = np.arange(fitted) if present is None else np.flatnonzero(present[:fitted, column])
    mean, std = x[rows].mean(0), x[rows].std(0)
    z = (x - mean) / np.where(std > 0, std, 1.0)
    if present is not None:
        z[~present[:, column]] = 0.0
    return torch.from_numpy(z.astype(np.float32))

"""A prepared store as a data set of the bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmzoo.data.fields.text import reader
from mmzoo.data.loading.columns import Mapped
from mmzoo.data.loading.datamodule import DataModule
from mmzoo.data.loading.inputs import Preparation
from mmzoo.data.loading.transforms import transform_for
from mmzoo.data.store.classes import set_remarks
from mmzoo.data.store.splits import completed_split, split_hash
from mmzoo.data.store.store import DataStore, Row
from mmzoo.errors import MmzooError

#: what a data set of this kind may be asked for as it is read; see `open_module`
READING = ("split", "frames", "size", "crop", "flip")


def open_module(
    folder: Path,
    *,
    content: str | None = None,
    metric: str = "acc",
    split: str | None = None,
    frames: int | None = None,
    size: int | None = None,
    crop: bool = False,
    flip: bool = False,
) -> DataModule:
    """The data set of a store. Its arrays stay on disk.

    Args:
        folder: The store.
        content: The hash that it must have; None for any.
        metric: The main metric.
        split: One of the store's splits; None for its first.
        frames, size, crop, flip: See Pixels; for all modalities of pictures.

    Raises:
        CorruptFile: The store is not as it was written.
        MmzooError: It has another content.
        UnknownName: It lacks the split.
        BadValue: A value is out of range.
    """
    store = _store(folder, content)
    name = store.split_name(split)
    used = [r for r in store.index if r.sides[name] != "-"]
    ids, labels, classes = [r.id for r in used], [r.label for r in used], store.meta["classes"]
    splits = _splits(store, used, name)
    counts = {k: np.bincount([labels[r] for r in at], minlength=len(classes)).tolist() for k, at in splits.items()}
    rows = np.array([r.row for r in used], dtype=np.int64)
    inputs = {m: Mapped({p: store.array(m, p) for p in store.parts(m)}, rows) for m in store.modalities}
    transforms = {
        m: transform_for(kind, inputs[m].shapes, frames=frames, size=size, crop=crop, flip=flip)
        for m, kind in store.kinds.items()
    }
    present = store.present()
    return DataModule(
        name=store.name,
        inputs=inputs,
        target=torch.tensor(labels, dtype=torch.int64),
        n_classes=len(classes),
        splits=splits,
        split_hash=split_hash(ids, splits),
        recipe_hash=store.recipe_hash,
        metric=metric,
        present=None if present is None else torch.from_numpy(present[rows]),
        kinds=store.kinds,
        vocabulary={m: v for m in store.modalities if (v := store.facts(m).get("vocabulary")) is not None},
        transforms=transforms,
        bayes=store.bayes,
        notes=set_remarks(classes, counts),
        ids=ids,
        classes=classes,
        preparation=_preparation(store, {"frames": frames, "size": size}),
        readers={m: read for m, k in store.kinds.items() if k == "text" and (read := reader(store.fitted(m)))},
        given_holdout=any(r.sides[name] == "holdout" for r in used),
    )


def _splits(store: DataStore, used: Sequence[Row], name: str) -> dict[str, list[int]]:
    """The places of the samples of each split, those that a published split leaves out made from its training samples."""
    ids, labels = [r.id for r in used], [r.label for r in used]
    sides, groups = [r.sides[name] for r in used], [r.groups[name] for r in used]
    meta_set = store.meta["recipe"]["options"].get("meta_set", True)
    return completed_split(ids, labels, sides, groups, salt=store.name, meta_set=meta_set)


def _store(folder: Path, content: str | None) -> DataStore:
    store = DataStore(folder)
    if content is not None and store.content != content:
        raise MmzooError(
            f"the store {folder} holds {store.content}, not {content}: it was prepared again in the meantime. Run the same "
            "bench again."
        )
    return store


def _preparation(store: DataStore, reading: dict[str, int | None]) -> Preparation:
    """What a trained model needs to read new rows as the store was read."""
    return Preparation(
        fields={m: store.fitted(m) for m in store.modalities},
        reading=reading,
        columns={m: store.table["columns"].get(m, [m]) for m in store.modalities},
        id=store.table["id"],
        delimiter=store.table["delimiter"],
        tokenizers=store.table["tokenizers"],
        quotes=store.table["quotes"],
        levels=store.table["levels"],
    )


def reading_params(params: Mapping[str, Any]) -> dict[str, Any]:
    return {k: params[k] for k in READING if k in params}

"""What a data set owes to every bench on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from mmzoo.core.seeding import stream
from mmzoo.data.loading.datamodule import DataModule
from mmzoo.testing.harness.cases import DatasetCase
from mmzoo.testing.harness.observing import difference, not_finite
from mmzoo.testing.harness.report import Skipped, contract, require

SPLITS = ("train", "slice", "holdout", "test")


@contract("dataset", first=True)
def check_loads(case: DatasetCase) -> None:
    """It can be loaded with its declared parameters, and gives a DataModule."""
    data = case.first
    require(
        isinstance(data, DataModule),
        "the entry's path gives a mmzoo.api.DataModule",
        f"it gives a {type(data).__name__}",
        "return DataModule(name=..., inputs=..., target=..., n_classes=..., splits=..., split_hash=..., recipe_hash=...)",
    )


@contract("dataset")
def check_splits(case: DatasetCase) -> None:
    """Each sample is in one split, training, validation and test have some, and each class has a training sample."""
    data = case.first
    names = [s for s in data.splits if s not in SPLITS] + [
        s for s in ("train", "holdout", "test") if s not in data.splits
    ]
    require(
        not names, f"the splits are {', '.join(SPLITS)}", f"wrong or missing: {', '.join(names)}", "rename the splits"
    )
    faults = [f"{s} has no sample" for s in ("train", "holdout", "test") if not len(data.splits[s])]
    owner: dict[int, str] = {}
    for split, rows in data.splits.items():
        listed = [int(r) for r in rows]
        faults += [f"{split} is not in rising order"] * (listed != sorted(set(listed)))
        faults += [f"{split} holds row {r} of {len(data.target)}" for r in listed if not 0 <= r < len(data.target)][:1]
        faults += [f"row {r} is in {owner[r]} and in {split}" for r in listed if r in owner][:1]
        owner |= dict.fromkeys(listed, split)
    require(not faults, "no row is in two splits", "; ".join(faults), "give each split its own rows, in rising order")
    trained = set(data.target[list(data.splits["train"])].tolist())
    lost = sorted(set(range(data.n_classes)) - trained)
    require(not lost, "each class has a training sample", f"classes without one: {lost[:8]}", "check labels and splits")


@contract("dataset")
def check_values(case: DatasetCase) -> None:
    """Inputs have one row a sample and are finite; labels are int64 from 0 to n_classes - 1."""
    data, n = case.first, len(case.first.target)
    uneven = [f"{name} has {len(t)}" for name, t in _tensors(data.inputs) if len(t) != n]
    require(
        not uneven, f"each input has {n} rows, as the labels", "; ".join(uneven), "give each input one row a sample"
    )
    target = data.target
    good = target.dtype == torch.int64 and bool(((target >= 0) & (target < data.n_classes)).all())
    seen = f"{target.dtype}, from {int(target.min())} to {int(target.max())} where n_classes is {data.n_classes}"
    require(good, "labels are int64 from 0 to n_classes - 1", seen, "number the classes from 0")
    bad = not_finite(dict(_tensors(data.inputs)))
    require(not bad, "inputs are finite", f"not finite: {', '.join(bad)}", "fill or leave out such samples")
    present = data.present
    shape = present is None or tuple(present.shape) == (n, len(data.inputs))
    require(
        shape,
        "`present` is (samples, modalities)",
        f"{None if present is None else tuple(present.shape)}",
        "see DataModule",
    )


@contract("dataset")
def check_declared(case: DatasetCase) -> None:
    """It has the modalities, their kinds and the number of classes that its entry in registry.yaml says."""
    data, said = case.first, case.declared
    faults = []
    if "n_classes" in said and said["n_classes"] != data.n_classes:
        faults.append(f"n_classes is {data.n_classes}, declared {said['n_classes']}")
    kinds = {m: data.spec(m).kind for m in data.inputs}
    for m, kind in said.get("modalities", {}).items():
        if m in kinds and kinds[m] != kind:
            faults.append(f"{m} is of the kind {kinds[m]}, declared {kind}")
    unknown = [m for m in kinds if m not in said.get("modalities", kinds)]
    faults += [f"{m} is not declared" for m in unknown]
    require(
        not faults, "the entry in registry.yaml describes it", "; ".join(faults), "correct `modalities` and `n_classes`"
    )


@contract("dataset")
def check_repeats(case: DatasetCase) -> None:
    """Loaded again it is the same: samples, labels, splits and hashes."""
    a, b = (_everything(d) for d in (case.first, case.load()))
    gap = difference(a, b)
    todo = "fix every draw by a seed of its own, and sort what a folder lists"
    require(gap is None, "loading it again gives the same data set", str(gap), todo)


@contract("dataset")
def check_hashes(case: DatasetCase) -> None:
    """Parameters that change samples, labels or splits change a hash too, so that unlike rows are not compared."""
    tried = 0
    for name, value in case.other_values():
        other = case.load(**{name: value})
        tried += 1
        same = difference(_content(case.first), _content(other)) is None
        hashes = (case.first.recipe_hash, case.first.split_hash) == (other.recipe_hash, other.split_hash)
        require(
            same or not hashes,
            "recipe_hash and split_hash tell unlike data sets apart",
            f"with {name}={value!r} the samples differ and both hashes are the same",
            f"put {name} into what recipe_hash is made of",
        )
    if not tried:
        raise Skipped("it has no parameter that could change it")


@contract("dataset")
def check_batches(case: DatasetCase) -> None:
    """Batches of each split hold its rows, in an order that the generator alone decides."""
    data = case.first
    for split in data.splits:
        if not len(data.splits[split]):
            continue
        orders = []
        for _ in range(2):
            loader = data.loader(split, batch_size=16)
            rows = [b.index for b in loader.batches(stream(0, "check", split))]
            orders.append(torch.cat(rows))
        gap = difference(orders[0], orders[1]) or difference(
            orders[0].sort().values, torch.tensor([int(r) for r in data.splits[split]])
        )
        require(gap is None, f"an epoch of {split} is each of its rows once", str(gap), "leave `loader` as it is")


def _tensors(inputs: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Tensor]]:
    for name, value in inputs.items():
        if isinstance(value, Tensor):
            yield at + name, value
        elif isinstance(value, Mapping):
            yield from _tensors(value, f"{at}{name}.")


def _content(data: DataModule) -> dict[str, Any]:
    splits = {name: [int(r) for r in rows] for name, rows in data.splits.items()}
    return {**dict(_tensors(data.inputs, "input ")), "labels": data.target, "splits": splits}


def _everything(data: DataModule) -> dict[str, Any]:
    return {**_content(data), "split_hash": data.split_hash, "recipe_hash": data.recipe_hash}

"""What the modalities of a data set share, by the features of encoders that were trained alone: `mmzoo data shared`."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmzoo.benchmark.execution.building import Kit
from mmzoo.benchmark.python import bench
from mmzoo.benchmark.trained import load_run
from mmzoo.config.spec import RunSpec
from mmzoo.core.modes import evaluating
from mmzoo.errors import BadValue, MmzooError
from mmzoo.evaluation.shared_variation import LEAST, Shared, shared_variation
from mmzoo.registry.plugins import catalogue


@dataclass(frozen=True)
class Pair:
    """Two modalities and what they share on the validation samples that have both."""

    first: str
    second: str
    shared: Shared


def shared_by(dataset: str, *, seed: int = 0, out: str | Path = "mmzoo-shared", device: str = "auto") -> list[Pair]:
    """Train each modality alone, or take the runs that are in `out` already, and compare their features.

    Only training and validation samples are read.

    Raises:
        BadValue: fewer than two modalities, or too few validation samples.
        MmzooError: a modality could not be trained.
    """
    rows = bench(
        "unimodal", datasets=[dataset], seeds=[seed], references=False, keep_weights=True, out=out, device=device
    )
    if failed := [row for row in rows if row["status"] != "ok"]:
        raise MmzooError(f"{failed[0]['label']} could not be trained: {failed[0]['reason']}")
    if len(rows) < 2:
        raise BadValue(f"{dataset} has a single modality: there is nothing to share.")
    found = {str(row["modality"]): _features(row["run_id"], Path(out)) for row in rows}
    pairs = []
    for (a, (x, target, there, total)), (b, (y, _, too, _)) in itertools.combinations(found.items(), 2):
        both = there & too
        if (n := int(both.sum())) < LEAST or len(target[both].unique()) < 2:
            raise BadValue(f"{dataset}: {_too_few(a, b, n, len(target[both].unique()), total)}")
        pairs.append(Pair(a, b, shared_variation(x[both], y[both], target[both])))
    return pairs


def _too_few(a: str, b: str, n: int, classes: int, total: int) -> str:
    """In words, that too few validation samples have two modalities, and how many samples would do."""
    enough = math.ceil(LEAST * total / max(n, 1) / 10) * 10
    needs = f" At this split that takes about {enough:,} samples in all," if n and n < LEAST else ""
    return (
        f"{n:,} of {total:,} samples are validation samples that have both {a} and {b}, of {classes} "
        f"class{'' if classes == 1 else 'es'}. Only such samples tell what is shared, since an encoder fits those that it is trained "
        f"on, and at least {LEAST} of two classes are needed.{needs}{' or' if needs else ' Give'} a split with more validation samples "
        "(a column `split` in your own data)."
    )


def _features(run_id: str, out: Path) -> tuple[Tensor, Tensor, Tensor, int]:
    """(N, D) features of the validation samples, (N,) their classes, (N,) whether they have the modality, and the number of
    samples of the whole data set."""
    trained = load_run(out / "runs" / run_id)
    spec = RunSpec.from_dict(trained.row["spec"])
    whole = trained.data()
    kit = Kit(catalogue(), spec, whole, "cpu")
    (modality,) = whole.modalities
    features, target, there = [], [], []
    with evaluating(trained.model):
        for batch in kit.loader("holdout", batch_size=256).batches():
            features.append(trained.model.encode(batch.inputs, present=batch.present)[modality])
            target.append(batch.target)
            present = batch.present
            there.append(torch.ones(len(batch), dtype=torch.bool) if present is None else present[:, 0])
    total = sum(len(rows) for rows in whole.splits.values())
    return torch.cat(features), torch.cat(target), torch.cat(there), total

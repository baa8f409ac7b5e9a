"""Which defaults for a user's own data reach the linear floors? Decided on training samples alone, in little time.

    python benchmarks/own_data_choose.py --out DIR --rows cancer/error,stamps/joint [--candidates "skip;image dropout 0.5"]

The tables are those of own_data.py. Test samples are never read: in each fold a quarter of the other samples is set aside,
stratified by class, a tenth of the rest chooses the floor's penalty, and what remains is trained on. Models are trained with
Adam and a cosine schedule as a bench has them, to the last epoch, or to one that the tenth chooses. Finished fits are kept in
choose.csv; a stopped run continues from it. Results: benchmarks/results/own_data/choose.csv, choose.md.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from own_data import Lacking, make, options

_PICTURES = ("image", "spectrogram", "video")


def _pictures(**params: Any) -> dict[str, Mapping[str, Any]]:
    return dict.fromkeys(_PICTURES, params)


_PLAIN = {"text": {"lr_scale": 1.0}, **_pictures(dropout=0.0)}
_USUAL = {"lr_scale": 1.0}
_FREE = {**_USUAL, "bound": 0.0}
_SKIP = {"vector": {**_FREE, "skip": True}, "series": {**_USUAL, "dropout": 0.5, "pieces": 8}}
_BEFORE = {"vector": {**_FREE, "skip": False}, "series": {**_USUAL, "dropout": 0.0, "pieces": 0}}
_SLOW = {"vector": _FREE, "series": _USUAL}

#: name -> kind -> parameters of its encoder that are other than the default's; under `training`: steps, lr, weight_decay, and
#: choose_from where validation chooses an epoch in place of the last
CANDIDATES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "before": _BEFORE,
    "before, 2,000 steps": {**_BEFORE, "training": {"steps": 2000}},
    "dropout 0.5": {"vector": _BEFORE["vector"], "series": {**_USUAL, "dropout": 0.5, "pieces": 0, "grid": 8}},
    "wide": {"vector": _BEFORE["vector"], "series": {**_USUAL, "dropout": 0.5, "pieces": 0, "widths": [64, 128, 128]}},
    "linear": {"vector": {**_BEFORE["vector"], "hidden": []}},
    "skip": _SKIP,
    "skip, 2,000 steps": {**_SKIP, "training": {"steps": 2000}},
    "skip, lr 0.003": {**_SKIP, "training": {"lr": 0.003}},
    "skip, 2,000 steps, lr 0.003": {**_SKIP, "training": {"steps": 2000, "lr": 0.003}},
    "skip, wide": {"vector": {**_FREE, "hidden": [512]}, "series": {**_SKIP["series"], "widths": [64, 128, 128]}},
    "skip, pieces 16": {"series": {**_USUAL, "dropout": 0.5, "pieces": 16}},
    "skip, pieces 16, wide": {"series": {**_USUAL, "dropout": 0.5, "pieces": 16, "widths": [64, 128, 128]}},
    "usual rate": _SLOW,
    "usual rate, epoch chosen among all": {**_SLOW, "training": {"choose_from": 0.0}},
    "usual rate, epoch chosen in the last quarter": {**_SLOW, "training": {"choose_from": 0.75}},
    "rate x3": {"vector": {"bound": 0.0}},
    "rate x3, bound 2": {},
    "rate x3, bound 2, epoch chosen among all": {"training": {"choose_from": 0.0}},
    "rate x3, bound 2, epoch chosen in the last quarter": {"training": {"choose_from": 0.75}},
    "rate x3, bound 2, 2,000 steps, epoch chosen in the last quarter": {
        "training": {"choose_from": 0.75, "steps": 2000}
    },
    "plain": _PLAIN,
    "text rate x3": {**_PLAIN, "text": {"lr_scale": 3.0}},
    "text rate x5": {**_PLAIN, "text": {"lr_scale": 5.0}},
    "text rate x10": {**_PLAIN, "text": {"lr_scale": 10.0}},
    "text rate x30": {**_PLAIN, "text": {"lr_scale": 30.0}},
    "text rate x3, dropout 0.7": {**_PLAIN, "text": {"lr_scale": 3.0, "dropout": 0.7}},
    "text rate x10, dropout 0.7": {**_PLAIN, "text": {"lr_scale": 10.0, "dropout": 0.7}},
    "text rate x10, dropout 0.8": {**_PLAIN, "text": {"lr_scale": 10.0, "dropout": 0.8}},
    "text rate x10, image x0.3": {"text": {"lr_scale": 10.0}, **_pictures(dropout=0.0, lr_scale=0.3)},
    "image dropout 0.5": {**_PLAIN, **_pictures(dropout=0.5)},
    "text rate x3, image dropout 0.5": {"text": {"lr_scale": 3.0}, **_pictures(dropout=0.5)},
}
FIELDS = ("table", "what", "candidate", "fold", "acc")


class Joint(nn.Module):
    """Encoders side by side and a linear layer, as `concat` has them."""

    def __init__(self, encoders: Mapping[str, nn.Module], n_classes: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.head = nn.Linear(sum(e.out_dim for e in encoders.values()), n_classes)  # type: ignore[misc]

    def forward(self, x: Mapping[str, Any]) -> Tensor:
        return self.head(torch.cat([e(x[m]) for m, e in self.encoders.items()], 1))


def folds(data: Any, number: int) -> Iterator[Any]:
    """The data set with its training samples split anew: `test` is a quarter of them."""
    pool = np.sort(np.concatenate([np.array(data.splits[s], dtype=int) for s in ("train", "slice", "holdout")]))
    target = data.target.numpy()[pool]
    for fold in range(number):
        draw = np.random.default_rng(fold)
        side = np.full(len(pool), "train", dtype=object)
        for c in np.unique(target):
            at = draw.permutation(np.flatnonzero(target == c))
            quarter = round(len(at) / 4)
            side[at[:quarter]] = "test"
            side[at[quarter : quarter + (round((len(at) - quarter) / 10) or 1)]] = "holdout"
        parts = {s: tuple(pool[side == s].tolist()) for s in ("train", "holdout", "test")}
        yield dataclasses.replace(data, splits={**parts, "slice": ()})


def floor_of(data: Any) -> float:
    """Accuracy of the floor in a fold."""
    from mmzoo.data.loading.floor_samples import floor_samples
    from mmzoo.evaluation.floors import linear_floor

    parts = [floor_samples(data, data.loader(s, batch_size=512, device="cpu")) for s in ("train", "holdout", "test")]
    return float(linear_floor(*parts, n_classes=data.n_classes).test["acc"])


def inputs_of(data: Any) -> dict[str, Any]:
    """All samples in one batch, in the order of their rows."""
    whole = dataclasses.replace(
        data, splits={"train": tuple(range(len(data.target))), "slice": (), "holdout": (), "test": ()}
    )
    return dict(next(iter(whole.loader("train", batch_size=len(data.target), device="cpu").batches())).inputs)


def rows_of(x: Any, at: Tensor) -> Any:
    return {k: v[at] for k, v in x.items()} if isinstance(x, Mapping) else x[at]


def model_of(data: Any, candidate: Mapping[str, Mapping[str, Any]], seed: int) -> Joint:
    from mmzoo.data.own.defaults import encoder_for
    from mmzoo.registry.plugins import catalogue

    torch.manual_seed(seed)
    encoders = {}
    for m in data.modalities:
        spec = data.spec(m)
        usual = encoder_for(spec.kind, spec.shape)
        params = {**usual.params, **candidate.get(spec.kind, {})}
        rate = params.pop("lr_scale", 1.0)
        encoders[m] = catalogue().get("encoders", usual.name).load()(spec, **params).configure(spec, lr_scale=rate)
    return Joint(encoders, data.n_classes)


def trained(data: Any, candidate: Mapping[str, Mapping[str, Any]], fold: int) -> float:
    """Accuracy in a fold, after the last epoch or the one that validation chooses."""
    from mmzoo.data.own.defaults import batch_for, steps_for

    x, target = inputs_of(data), data.target
    model = model_of(data, candidate, fold)
    given = {"steps": 1000, "lr": 0.001, "weight_decay": 0.0001, **candidate.get("training", {})}
    train = torch.tensor(data.splits["train"])
    batch = batch_for(len(train))
    epochs = max(20, math.ceil(given["steps"] / steps_for(len(train), batch)))
    parts = [(list(e.parameters()), e.lr_scale) for e in model.encoders.values()]
    groups = [{"params": p, "lr": given["lr"] * scale} for p, scale in [*parts, (list(model.head.parameters()), 1.0)]]
    optimizer = torch.optim.Adam([g for g in groups if g["params"]], weight_decay=given["weight_decay"])
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    draw = torch.Generator().manual_seed(100 + fold)
    first = math.floor(given.get("choose_from", 1.0) * epochs)
    found, best = 0.0, (-math.inf, -math.inf)
    for epoch in range(epochs):
        model.train()
        for at in train[torch.randperm(len(train), generator=draw)].split(batch):
            optimizer.zero_grad()
            F.cross_entropy(model({m: rows_of(v, at) for m, v in x.items()}), target[at]).backward()
            optimizer.step()
        rates.step()
        if epoch < min(first, epochs - 1):
            continue
        rank = (0.0, 0.0) if first == epochs else _scored(model, x, target, data.splits["holdout"])
        if rank > best:
            found, best = _scored(model, x, target, data.splits["test"])[0], rank
    return found


def _scored(model: Joint, x: Mapping[str, Any], target: Tensor, rows: Sequence[int]) -> tuple[float, float]:
    """Accuracy and the negative of the loss on some rows."""
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model({m: rows_of(v, at) for m, v in x.items()}) for at in torch.tensor(rows).split(256)])
    wanted = target[torch.tensor(rows)]
    return float((logits.argmax(1) == wanted).float().mean()), -float(F.cross_entropy(logits, wanted))


def data_of(name: str, what: str, root: Path, given: argparse.Namespace) -> Any:
    """A prepared table, with all of its modalities or one."""
    from mmzoo.data.loading.prepared import open_module
    from mmzoo.data.own.manifest import read_manifest
    from mmzoo.data.preparing.prepare import prepare

    source = read_manifest(make(name, root, given))
    data = open_module(prepare(source, source.root, on_bad=["drop"], jobs=0).store.folder)
    return data if what == "joint" else data.only([what])


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """The differences to the floor as Markdown."""
    found: dict[tuple[str, str, str], dict[int, float]] = defaultdict(dict)
    for r in rows:
        found[r["table"], r["what"], r["candidate"]][int(r["fold"])] = 100 * float(r["acc"])
    lines = ["| table | what | candidate | folds | floor | difference |", "|---|---|---|---:|---:|---:|"]
    order = {name: at for at, name in enumerate(CANDIDATES)}
    for table, what in dict.fromkeys((r["table"], r["what"]) for r in rows):
        floor = found[table, what, "floor"]
        named = [c for t, w, c in found if (t, w) == (table, what) and c != "floor"]
        for c in sorted(named, key=lambda c: order.get(c, len(order))):
            acc = found[table, what, c]
            apart = np.array([acc[f] - floor[f] for f in acc])
            error = apart.std(ddof=1) / len(apart) ** 0.5 if len(apart) > 1 else 0.0
            under = np.mean([floor[f] for f in acc])
            lines.append(f"| {table} | {what} | {c} | {len(apart)} | {under:.1f} | {apart.mean():+.1f} ± {error:.1f} |")
    return "\n".join(
        [
            "# Defaults for own data: candidates on samples set aside from training",
            "",
            "Accuracy of the floor in per cent, and how far above it a candidate is, in points: mean and standard error over folds of "
            "the training samples. It is trained to the last epoch, unless its name says which epochs validation chooses among. No "
            "test sample is read. Differences within two standard errors are no evidence.",
            "",
            *lines,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", required=True, help="TABLE/MODALITY or TABLE/joint, by comma")
    parser.add_argument("--candidates", default=";".join(CANDIDATES), help="some of them, by semicolon")
    parser.add_argument("--folds", type=int, default=3)
    given, root = options(parser)
    kept = given.write / "choose.csv"
    done: list[Mapping[str, Any]] = []
    if kept.is_file():
        with kept.open(newline="") as file:
            done = [{k: r[k] for k in FIELDS} for r in csv.DictReader(file)]
    for row in given.rows.split(","):
        table, what = row.split("/")
        try:
            splits = list(folds(data_of(table, what, root, given), given.folds))
        except Lacking as error:
            print(f"{table}: left out, it needs {error}", file=sys.stderr)
            continue
        for name in ("floor", *given.candidates.split(";")):
            had = {int(r["fold"]) for r in done if (r["table"], r["what"], r["candidate"]) == (table, what, name)}
            new = [fold for fold in range(given.folds) if fold not in had]
            acc = [floor_of(splits[f]) if name == "floor" else trained(splits[f], CANDIDATES[name], f) for f in new]
            print(row, name, [round(100 * a, 1) for a in acc], file=sys.stderr, flush=True)
            done += [dict(zip(FIELDS, (table, what, name, fold, a))) for fold, a in zip(new, acc)]
            with kept.open("w", newline="") as file:
                writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(done)
        (given.write / "choose.md").write_text(page(done), encoding="utf-8")


if __name__ == "__main__":
    main()

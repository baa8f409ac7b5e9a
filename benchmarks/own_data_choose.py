"""Which defaults for a user's own data reach the linear floors? Decided on training samples alone, in little time.

    python benchmarks/own_data_choose.py --out DIR --rows cancer/error,mfeat/joint [--candidates now,skip] [--folds 3]

The tables are those of own_data.py, for kinds whose encoders have no batch statistics (vectors, texts, series). Test samples
are never read: in each fold a quarter of the other samples is set aside, stratified by class, a tenth of the rest chooses
the floor's penalty, and what remains is trained on. All folds of a row are trained together (torch.func.vmap), with Adam
and a cosine schedule as a bench has them, to the last epoch. What is done is kept in choose.csv, so that a stopped run goes
on. Results: benchmarks/results/own_data/choose.csv, choose.md.
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

#: name -> kind -> parameters of its encoder that are other than the default's; under `training`: steps, lr, weight_decay
CANDIDATES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "before": {"vector": {"skip": False}, "series": {"dropout": 0.0, "pieces": 0}},
    "before, 2,000 steps": {
        "vector": {"skip": False},
        "series": {"dropout": 0.0, "pieces": 0},
        "training": {"steps": 2000},
    },
    "dropout 0.5": {"vector": {"skip": False}, "series": {"dropout": 0.5, "pieces": 0, "grid": 8}},
    "wide": {"vector": {"skip": False}, "series": {"dropout": 0.5, "pieces": 0, "widths": [64, 128, 128]}},
    "linear": {"vector": {"skip": False, "hidden": []}},
    "skip": {"vector": {"skip": True}, "series": {"dropout": 0.5, "pieces": 8}},
    "skip, 2,000 steps": {
        "vector": {"skip": True},
        "series": {"dropout": 0.5, "pieces": 8},
        "training": {"steps": 2000},
    },
    "skip, 2,000 steps, lr 0.003": {
        "vector": {"skip": True},
        "series": {"dropout": 0.5, "pieces": 8},
        "training": {"steps": 2000, "lr": 0.003},
    },
}
FIELDS = ("table", "what", "candidate", "fold", "acc", "loss")


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


def floors(splits: Sequence[Any]) -> tuple[list[float], list[float]]:
    """Accuracy and loss of the floor in each fold."""
    from mmzoo.data.loading.floor_samples import floor_samples
    from mmzoo.evaluation.floors import linear_floor

    found = []
    for d in splits:
        parts = [floor_samples(d, d.loader(s, batch_size=512, device="cpu")) for s in ("train", "holdout", "test")]
        found.append(linear_floor(*parts, n_classes=d.n_classes).test)
    return [f["acc"] for f in found], [f["loss"] for f in found]


def inputs_of(data: Any) -> dict[str, Any]:
    """All samples in one batch, in the order of their rows."""
    whole = dataclasses.replace(
        data, splits={"train": tuple(range(len(data.target))), "slice": (), "holdout": (), "test": ()}
    )
    return dict(next(iter(whole.loader("train", batch_size=len(data.target), device="cpu").batches())).inputs)


def rows_of(x: Any, at: Tensor) -> Any:
    return {k: v[at] for k, v in x.items()} if isinstance(x, Mapping) else x[at]


def models_of(data: Any, candidate: Mapping[str, Mapping[str, Any]], number: int) -> list[Joint]:
    from mmzoo.data.own.defaults import encoder_for
    from mmzoo.registry.plugins import catalogue

    made = []
    for fold in range(number):
        torch.manual_seed(fold)
        encoders = {}
        for m in data.modalities:
            spec = data.spec(m)
            usual = encoder_for(spec.kind, spec.shape)
            params = {**usual.params, **candidate.get(spec.kind, {})}
            encoders[m] = catalogue().get("encoders", usual.name).load()(spec, **params)
        made.append(Joint(encoders, data.n_classes))
    return made


def trained(splits: Sequence[Any], candidate: Mapping[str, Mapping[str, Any]]) -> tuple[list[float], list[float]]:
    """Accuracy and loss in each fold, of models trained together."""
    from mmzoo.data.own.defaults import batch_for, steps_for

    data, number = splits[0], len(splits)
    x, target = inputs_of(data), data.target
    models = models_of(data, candidate, number)
    params, buffers = torch.func.stack_module_state(models)  # type: ignore[no-untyped-call]
    base = models[0].to("meta").train()
    names, values = list(params), [p.detach() for p in params.values()]

    def loss(p: Any, b: Any, inputs: Any, labels: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(base, (p, b), (inputs,)), labels)

    gradient = torch.func.vmap(torch.func.grad(loss), randomness="different")
    given = {"steps": 1000, "lr": 0.001, "weight_decay": 0.0001, **candidate.get("training", {})}
    train = [torch.tensor(d.splits["train"]) for d in splits]
    n = min(map(len, train))
    batch = batch_for(n)
    epochs = max(20, math.ceil(given["steps"] / steps_for(n, batch)))
    first, second = [torch.zeros_like(v) for v in values], [torch.zeros_like(v) for v in values]
    draws = [torch.Generator().manual_seed(100 + r) for r in range(number)]
    step = 0
    for epoch in range(epochs):
        rate = given["lr"] * 0.5 * (1 + math.cos(math.pi * epoch / epochs))
        order = torch.stack([t[torch.randperm(len(t), generator=g)[:n]] for t, g in zip(train, draws)])
        for start in range(0, n, batch):
            at = order[:, start : start + batch]
            step += 1
            g = gradient(dict(zip(names, values)), buffers, {m: rows_of(v, at) for m, v in x.items()}, target[at])
            adam(values, [g[k] for k in names], first, second, step, rate, given["weight_decay"])
    base.eval()
    acc, losses = [], []
    for r, d in enumerate(splits):
        at = torch.tensor(d.splits["test"])
        state = {k: v[r] for k, v in zip(names, values)}, {k: v[r] for k, v in buffers.items()}
        with torch.no_grad():
            logits = torch.func.functional_call(base, state, ({m: rows_of(v, at) for m, v in x.items()},))
        acc.append(float((logits.argmax(1) == target[at]).float().mean()))
        losses.append(float(F.cross_entropy(logits, target[at])))
    return acc, losses


def adam(
    values: list[Tensor],
    gradients: list[Tensor],
    first: list[Tensor],
    second: list[Tensor],
    step: int,
    rate: float,
    decay: float,
) -> None:
    """One update in place, with the decay in the gradient as torch.optim.Adam has it."""
    gradients = list(torch._foreach_add(gradients, values, alpha=decay))
    torch._foreach_lerp_(first, gradients, 0.1)
    torch._foreach_mul_(second, 0.999)
    torch._foreach_addcmul_(second, gradients, gradients, 0.001)
    root = list(torch._foreach_sqrt(second))
    torch._foreach_div_(root, math.sqrt(1 - 0.999**step))
    torch._foreach_add_(root, 1e-8)
    torch._foreach_addcdiv_(values, first, root, -rate / (1 - 0.9**step))


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
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for r in rows:
        found[r["table"], r["what"], r["candidate"]].append(100 * float(r["acc"]))
    present = list(dict.fromkeys(r["candidate"] for r in rows if r["candidate"] != "floor"))
    names = [c for c in CANDIDATES if c in present] + [c for c in present if c not in CANDIDATES]
    lines = [f"| table | what | floor | {' | '.join(names)} |", "|---|---|---:|" + "---:|" * len(names)]
    for table, what in dict.fromkeys((r["table"], r["what"]) for r in rows):
        floor = np.array(found[table, what, "floor"])
        cells = [table, what, f"{floor.mean():.1f}"]
        for c in names:
            apart = np.array(found.get((table, what, c), [])) - floor if (table, what, c) in found else None
            error = 0.0 if apart is None or len(apart) < 2 else apart.std(ddof=1) / len(apart) ** 0.5
            cells.append("-" if apart is None else f"{apart.mean():+.1f} ± {error:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [
            "# Defaults for own data: candidates on samples set aside from training",
            "",
            f"Accuracy of the floor in per cent, and how far above it each candidate is, in points: mean and standard error over "
            f"{len({r['fold'] for r in rows})} folds of the training samples. No test sample is read.",
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
            done = list(csv.DictReader(file))
    for row in given.rows.split(","):
        table, what = row.split("/")
        try:
            splits = list(folds(data_of(table, what, root, given), given.folds))
        except Lacking as error:
            print(f"{table}: left out, it needs {error}", file=sys.stderr)
            continue
        for name in ("floor", *given.candidates.split(";")):
            if any((r["table"], r["what"], r["candidate"]) == (table, what, name) for r in done):
                continue
            acc, loss = floors(splits) if name == "floor" else trained(splits, CANDIDATES[name])
            print(row, name, [round(100 * a, 1) for a in acc], file=sys.stderr, flush=True)
            done += [dict(zip(FIELDS, (table, what, name, i, *both))) for i, both in enumerate(zip(acc, loss))]
            with kept.open("w", newline="") as file:
                writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(done)
        (given.write / "choose.md").write_text(page(done), encoding="utf-8")


if __name__ == "__main__":
    main()

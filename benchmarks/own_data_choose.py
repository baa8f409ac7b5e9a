"""Which defaults for a user's own data reach the linear floors? Decided on training samples alone.

    python benchmarks/own_data_choose.py --out DIR [--tables wine,glosses] [--folds 2] [--debian DIR] [--aeon FILE.whl]

The tables are those of own_data.py. Test samples are never read: in each fold a quarter of the other samples is set aside,
stratified by class, a tenth of the rest chooses the epoch and the floor's penalty, and what remains is trained on. Each
candidate trains the joint model and each modality alone as a bench would. What is done is kept in choose.csv and not done
again, so that a stopped run goes on. Results: benchmarks/results/own_data/choose.csv, choose.md.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from own_data import HERE, TABLES, Lacking, make

#: name -> kind -> parameters of its default encoder that are otherwise, and under `training` what is of the training
CANDIDATES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "plain": {"vector": {"skip": False}, "series": {"dropout": 0.0, "pieces": 0}, "training": {"steps": 1000}},
    "skip": {"vector": {"skip": True}, "series": {"dropout": 0.5, "pieces": 8}, "training": {"steps": 1000}},
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
FIELDS = ("table", "what", "candidate", "fold", "acc", "loss", "train", "test", "epochs", "epoch")


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
            side[at[quarter : quarter + max(1, round((len(at) - quarter) / 10))]] = "holdout"
        parts = {s: tuple(pool[side == s].tolist()) for s in ("train", "holdout", "test")}
        yield dataclasses.replace(data, splits={**parts, "slice": ()})


def floor_of(data: Any) -> dict[str, Any]:
    from mmzoo.data.loading.floor_samples import floor_samples
    from mmzoo.evaluation.floors import linear_floor

    parts = [floor_samples(data, data.loader(s, batch_size=512, device="cpu")) for s in ("train", "holdout", "test")]
    found = linear_floor(*parts, n_classes=data.n_classes)
    return {"acc": found.test["acc"], "loss": found.test["loss"], "epochs": "", "epoch": ""}


def trained(data: Any, candidate: Mapping[str, Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """The scores of one candidate, trained and chosen as a bench does."""
    from mmzoo.benchmark.execution.building import Kit
    from mmzoo.benchmark.execution.fitting import Fitting, Watcher
    from mmzoo.benchmark.execution.team import Alone
    from mmzoo.config.spec import Part, RunSpec
    from mmzoo.data.own.defaults import batch_for, encoder_for, steps_for, training_for
    from mmzoo.evaluation.scores import evaluate
    from mmzoo.registry.plugins import catalogue
    from mmzoo.training.config import Training
    from mmzoo.training.loop import fit

    encoders = {}
    for m in data.modalities:
        spec = data.spec(m)
        usual = encoder_for(spec.kind, spec.shape)
        encoders[m] = (usual.name, {**usual.params, **candidate.get(spec.kind, {})})
    given = dict(candidate["training"])
    n = len(data.splits["train"])
    each = steps_for(n, batch_for(n))
    given["epochs"] = min(max(-(-given.pop("steps") // each), 20), 1000)
    run_spec = RunSpec(
        dataset=data.name,
        data_params={},
        modalities=None,
        parts=(Part("plain", {}),),
        head="concat",
        head_params={},
        encoders=encoders,
        training=Training(**training_for(n, given)),
        seed=seed,
    )
    kit = Kit(catalogue(), run_spec, data, "cpu")
    watcher = Watcher()
    fitting = Fitting(kit, run_spec.training, Alone(), eval_batch=512)
    run, selection, _ = fitting.begin({}, None, watcher)
    fit(run, **fitting.loop(run, selection, watcher))
    selection.restore(run)
    scores = evaluate(run.model, run.strategy, kit.loader("test", batch_size=512).batches())
    return {"acc": scores["acc"], "loss": scores["loss"], "epochs": given["epochs"], "epoch": selection.epoch}


def missing(
    name: str, manifest: Path, number: int, done: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The rows of a table that are not there yet."""
    from mmzoo.data.loading.prepared import open_module
    from mmzoo.data.own.manifest import read_manifest
    from mmzoo.data.preparing.prepare import prepare

    source = read_manifest(manifest)
    data = open_module(prepare(source, source.root, on_bad=["drop"], jobs=0).store.folder)
    known = {(r["table"], r["what"], r["candidate"], str(r["fold"])) for r in done}
    for fold, split in enumerate(folds(data, number)):
        for what in [*data.modalities, *(["joint"] if len(data.modalities) > 1 else [])]:
            seen = split if what == "joint" else split.only([what])
            for candidate in ("floor", *names):
                if (name, what, candidate, str(fold)) in known:
                    continue
                found = floor_of(seen) if candidate == "floor" else trained(seen, CANDIDATES[candidate], fold)
                sizes = {"train": len(split.splits["train"]), "test": len(split.splits["test"])}
                yield {"table": name, "what": what, "candidate": candidate, "fold": fold, **found, **sizes}


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """The differences to the floor as Markdown."""
    found: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for r in sorted(rows, key=lambda r: int(r["fold"])):
        found[r["table"], r["what"], r["candidate"]].append(100 * float(r["acc"]))
    names = [c for c in CANDIDATES if any(r["candidate"] == c for r in rows)]
    lines = [f"| table | what | floor | {' | '.join(names)} |", "|---|---|---:|" + "---:|" * len(names)]
    all_: dict[str, list[float]] = defaultdict(list)
    for table, what in dict.fromkeys((r["table"], r["what"]) for r in rows):
        floor = found[table, what, "floor"]
        cells = [table, what, f"{np.mean(floor):.1f}"]
        for c in names:
            apart = [a - b for a, b in zip(found[table, what, c], floor)]
            cells.append(f"{np.mean(apart):+.1f}" if apart else "-")
        whole = all(found[table, what, c] for c in names)
        for c in names if whole else ():
            all_[c].append(float(np.mean(found[table, what, c])) - float(np.mean(floor)))
        lines.append(f"| {' | '.join(cells)} |")
    if all_:
        lines.append(f"| mean | | | {' | '.join(f'{np.mean(all_[c]):+.2f}' for c in names)} |")
        lines.append(f"| rows below | | | {' | '.join(str(sum(x < -0.05 for x in all_[c])) for c in names)} |")
    folds_ = len({r["fold"] for r in rows})
    return "\n".join(
        [
            "# Defaults for own data: candidates on samples set aside from training",
            "",
            f"Accuracy of the floor in per cent, and how far above it each candidate is, in points; mean over {folds_} folds. "
            "No test sample is read. The last two lines are over the rows that have all candidates.",
            "",
            *lines,
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables and stores")
    parser.add_argument("--tables", default=",".join(TABLES), help="some of them, by comma")
    parser.add_argument("--candidates", default=";".join(CANDIDATES), help="some of them, by semicolon")
    parser.add_argument("--folds", type=int, default=2)
    parser.add_argument("--debian", type=Path, default=Path("/"), help="where Debian packages are unpacked")
    parser.add_argument("--aeon", type=Path, help="the wheel of aeon")
    parser.add_argument("--write", type=Path, default=HERE / "results" / "own_data", help="folder of the two results")
    given = parser.parse_args()
    root = given.out.absolute()
    os.environ["MMZOO_HOME"] = str(root / "home")
    given.write.mkdir(parents=True, exist_ok=True)
    kept = given.write / "choose.csv"
    rows: list[dict[str, Any]] = list(csv.DictReader(kept.open(newline=""))) if kept.is_file() else []
    if not rows:
        kept.write_text(",".join(FIELDS) + "\n")
    for name in given.tables.split(","):
        try:
            manifest = make(name, root, given)
        except Lacking as error:
            print(f"{name}: left out, it needs {error}", file=sys.stderr)
            continue
        for row in missing(name, manifest, given.folds, tuple(rows), given.candidates.split(";")):
            print({k: row[k] for k in ("table", "what", "candidate", "fold", "acc")}, file=sys.stderr, flush=True)
            rows.append(row)
            with kept.open("a", newline="") as file:
                csv.DictWriter(file, FIELDS, lineterminator="\n").writerow(row)
        (given.write / "choose.md").write_text(page(rows), encoding="utf-8")


if __name__ == "__main__":
    main()

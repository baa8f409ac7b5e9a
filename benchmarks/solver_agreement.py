"""How far cheap solves for a learned alpha agree with one that sees everything, at the same weights.

    python benchmarks/solver_agreement.py --datasets mfeat,mfeat:low_label --seeds 0-4

A run is led by a solve over all parameters (30 products, one batch, the whole slice). At the end of every third epoch every
candidate solves at the weights and the alpha that the run has then; nothing but training data and the slice is read.
Each is compared with `everything`: the exact Hessian of all parameters on all training batches, MINRES with 100 products
and no damping, and the whole slice. One line a candidate in
results/solver_agreement.csv: the share of usable solves, the median and the largest residual, products a solve, the
mean direction (what a normalised update steps along) beside that of `everything`, the mean absolute difference, the
share of equal signs, the correlation over epochs and seeds, and the median ratio and the correlation of the raw
derivatives. A solve over all batches takes some seconds on mfeat, so that a seed takes about two minutes.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
RESULTS = HERE / "results" / "solver_agreement.csv"
EVERYTHING = "everything"
#: epochs between two comparisons
EVERY = 3
GAUSS_NEWTON: dict[str, Any] = {"solver": "gauss_newton", "damping": 0.01}
SECOND: dict[str, Any] = {"fallback": 0.03}
WHOLE = {"batches": 50, "upper_batches": 50, "iterations": 100}
#: name -> parameters of the strategy
CANDIDATES: dict[str, dict[str, Any]] = {
    EVERYTHING: WHOLE,
    "dynamic_gap_lb": {**SECOND, "scope": "last"},
    "last, two batches": {**SECOND, "scope": "last", "batches": 2},
    "last, no second solve": {"scope": "last"},
    "last, damping 0.01, 10 products": {"scope": "last", "damping": 0.01, "iterations": 10},
    "last, all batches": {**WHOLE, "scope": "last"},
    "heads": {**SECOND, "scope": "heads"},
    "all, one batch": SECOND,
    "thorough": {**SECOND, "batches": 4, "iterations": 30, "upper_batches": 8},
    "Gauss-Newton, last, two batches, 10 products": {**GAUSS_NEWTON, "scope": "last", "batches": 2, "iterations": 10},
    "Gauss-Newton, last, all batches": {**GAUSS_NEWTON, **WHOLE, "scope": "last"},
    "Gauss-Newton, all, one batch": {**GAUSS_NEWTON},
    "Gauss-Newton, all, all batches": {**GAUSS_NEWTON, **WHOLE},
    "identity": {"solver": "identity"},
    "identity, last": {"solver": "identity", "scope": "last"},
}


def solves(dataset: str, seed: int, names: Sequence[str]) -> list[dict[str, Any]]:
    """What every candidate finds at the end of every epoch of one run."""
    from dynamic_gap_study import catalogue, planned

    from mmzoo.benchmark.execution.building import build_model, load_data
    from mmzoo.strategies.dynamic_gap import DynamicGap
    from mmzoo.training.run import Run

    spec = planned(dataset, "dynamic_gap", {"dynamic_gap.schedule": "learned"}, [seed])[0].spec
    data = load_data(catalogue(), spec.dataset, json.dumps(spec.as_dict()["data_params"], sort_keys=True))
    size = spec.training.batch_size
    leader = DynamicGap(schedule="learned", iterations=30, upper_batches=8)
    run = Run(
        build_model(catalogue(), spec, data),
        leader,
        train=data.loader("train", batch_size=size),
        slice=data.loader("slice", batch_size=size),
        training=spec.training,
        seed=seed,
    )
    candidates = {name: DynamicGap(schedule="learned", **CANDIDATES[name]) for name in names}
    rows = []
    while run.epoch < run.n_epochs:
        run.train_epoch()
        for name, candidate in candidates.items() if run.epoch % EVERY == 0 else ():
            found = candidate.learner.derivative(run, leader.current)
            rows.append(
                {
                    "dataset": dataset,
                    "seed": seed,
                    "epoch": run.epoch,
                    "candidate": name,
                    "usable": found.usable,
                    "direction": found.direction,
                    "value": found.value,
                    "residual": found.residual,
                    "products": found.products,
                }
            )
        run.end_epoch()
    return rows


def summary(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One line for each data set and candidate."""
    lines = []
    for dataset, name in dict.fromkeys((r["dataset"], r["candidate"]) for r in rows):
        mine = [r for r in rows if (r["dataset"], r["candidate"]) == (dataset, name)]
        whole = {(r["seed"], r["epoch"]): r for r in rows if (r["dataset"], r["candidate"]) == (dataset, EVERYTHING)}
        pairs = [(r, whole[r["seed"], r["epoch"]]) for r in mine]
        a, b = ([p[i]["direction"] for p in pairs] for i in (0, 1))
        v, w = ([p[i]["value"] for p in pairs] for i in (0, 1))
        lines.append(
            {
                "dataset": dataset,
                "candidate": name,
                "settings": json.dumps(CANDIDATES[name]),
                "seeds": " ".join(map(str, sorted({r["seed"] for r in mine}))),
                "usable": f"{statistics.fmean(r['usable'] for r in mine):.2f}",
                "residual": f"{statistics.median(r['residual'] for r in mine):.3f}",
                "largest_residual": f"{max(r['residual'] for r in mine):.2f}",
                "products": f"{statistics.fmean(r['products'] for r in mine):.1f}",
                "direction": f"{statistics.fmean(a):.3f}",
                "of_everything": f"{statistics.fmean(b):.3f}",
                "difference": f"{statistics.fmean(abs(x - y) for x, y in zip(a, b)):.3f}",
                "same_sign": f"{statistics.fmean((x > 0) == (y > 0) for x, y in zip(a, b)):.2f}",
                "correlation": f"{statistics.correlation(a, b):.2f}",
                "value_ratio": f"{statistics.median(x / y for x, y in zip(v, w)):.2f}",
                "value_correlation": f"{statistics.correlation(v, w):.2f}",
            }
        )
    return lines


def main() -> None:
    from mmzoo.config.grammar import parse_seeds

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", default="mfeat,mfeat:low_label")
    parser.add_argument("--seeds", default="0-4", help="of those that settings are chosen on")
    parser.add_argument("--candidates", default=";".join(CANDIDATES), help="separated by semicolons")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    names = list(dict.fromkeys([EVERYTHING, *given.candidates.split(";")]))
    rows: list[dict[str, Any]] = []
    for dataset in given.datasets.split(","):
        for seed in parse_seeds(given.seeds):
            rows += solves(dataset, seed, names)
            print(f"{dataset}, seed {seed}", flush=True)
    write(summary(rows), given.out)


def write(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    main()

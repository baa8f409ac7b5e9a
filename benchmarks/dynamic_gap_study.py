"""Does a dynamic weight help? Every schedule, matching loss and solver of dynamic gap against plain, OGM and the control.

    python benchmarks/dynamic_gap_study.py choose    # seeds 0-4, holdout scores only: writes chosen.json
    python benchmarks/dynamic_gap_study.py confirm   # seeds 5-14, the chosen settings, test scores: writes confirm.*
    python benchmarks/dynamic_gap_study.py all

Each family gets the same number of trials, its settings are chosen for each data set by the holdout score (`SCORE`),
and what was chosen is confirmed once, on seeds and on a split that the choice never saw. Results lie in
benchmarks/results/dynamic_gap; runs are kept in --runs (default: below the user's cache) and not repeated. avdigits
is left out, with a word, unless MMZOO_AVDIGITS names its folder.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

RESULTS = HERE / "results" / "dynamic_gap"
DATASETS = ("mfeat", "mfeat:fou_mor", "mfeat:low_label", "mfeat:six", "avdigits")
CHOOSING, CONFIRMING = tuple(range(5)), tuple(range(5, 15))
TRIALS = 6
SPARED, SPARE = " (slice spared)", "spare_slice"
UNIMODAL = "alone"
ALONE = f"{UNIMODAL}: "
#: recipes with one setting for every data set, which are only confirmed
SHIPPED = {
    "control, as shipped": "joint_unimodal",
    "dynamic_gap_class, as shipped": "dynamic_gap_class",
    "learned, dynamic_gap_lb as shipped": "dynamic_gap_lb",
}
#: the solve that `dynamic_gap_lb` had when the study was run
LAST = {"solver": "gauss_newton", "damping": 0.01, "scope": "last", "batches": 2, "iterations": 10, "upper_batches": 4}
#: the solve that the families learn with where nothing else is said
WHOLE = {"solver": "gauss_newton", "damping": 0.01, "iterations": 10, "upper_batches": 4}


def gap(schedule: str, **fixed: Any) -> list[dict[str, Any]]:
    """Six settings of one schedule: temperature and, where the schedule has one, alpha; both forms where it has none."""
    if schedule in ("heuristic", "stepwise"):
        grid = [{"temperature": t, "form": f} for t, f in itertools.product((0.1, 0.5, 1.0), ("paper", "additive"))]
    else:
        grid = [{"temperature": t, "alpha": a} for t, a in itertools.product((0.1, 0.5), (0.1, 0.3, 0.5))]
    return [
        {"dynamic_gap.schedule": schedule, **{f"dynamic_gap.{k}": v for k, v in {**fixed, **g}.items()}} for g in grid
    ]


def logits(matching: str) -> list[dict[str, Any]]:
    """Six settings of a matching loss on logits, which has no temperature."""
    return [
        {
            "dynamic_gap.schedule": "constant",
            "dynamic_gap.matching": matching,
            "dynamic_gap.form": f,
            "dynamic_gap.alpha": a,
        }
        for f, a in itertools.product(("paper", "additive"), (0.1, 0.3, 0.5))
    ]


def heavy(matching: str) -> list[dict[str, Any]]:
    """Six settings of matching beside a control whose weight is a factor too, as it is in the control's own family."""
    return [
        {
            "joint_unimodal.weight": w,
            "dynamic_gap.schedule": "constant",
            "dynamic_gap.matching": matching,
            "dynamic_gap.form": "additive",
            "dynamic_gap.temperature": 0.1,
            "dynamic_gap.alpha": a,
        }
        for w, a in itertools.product((1.0, 2.0, 4.0), (0.5, 1.0))
    ]


def families() -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """family -> its method and TRIALS settings.

    A learned alpha costs the labels of the slice; plain and control therefore come without them too, and are what the
    learned families are compared with.
    """
    both = "dynamic_gap+joint_unimodal"
    rates = [{"train.lr_factor": f} for f in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)]
    weights = [{"joint_unimodal.weight": w} for w in (0.1, 0.3, 0.5, 1.0, 2.0, 4.0)]
    return {
        "plain": ("concat", rates),
        "control": ("joint_unimodal", weights),
        "ogm": ("ogm", [{"ogm.alpha": a} for a in (0.05, 0.1, 0.2, 0.3, 0.5, 0.8)]),
        "constant": ("dynamic_gap", gap("constant", form="paper")),
        "constant, additive": ("dynamic_gap", gap("constant", form="additive")),
        "stepwise": ("dynamic_gap", gap("stepwise", alpha=0.95)),
        "heuristic": ("dynamic_gap", gap("heuristic")),
        "constant, class": ("dynamic_gap", gap("constant", form="additive", matching="class")),
        "constant, KL to mean": ("dynamic_gap", logits("kl_to_mean")),
        "constant, JS": ("dynamic_gap", logits("js")),
        "control + constant": (both, gap("constant", form="additive")),
        "control + heuristic": (both, gap("heuristic")),
        "control + class": (both, gap("constant", form="additive", matching="class")),
        "control + JS": (both, logits("js")),
        "heavy control + constant": (both, heavy("infonce")),
        "heavy control + class": (both, heavy("class")),
        f"plain{SPARED}": ("concat", [{**r, SPARE: True} for r in rates]),
        f"control{SPARED}": ("joint_unimodal", [{**w, SPARE: True} for w in weights]),
        "learned, Gauss-Newton": ("dynamic_gap", gap("learned", form="paper", **WHOLE)),
        "learned, last layer": ("dynamic_gap", gap("learned", form="paper", **LAST)),
        "learned, Hessian": (
            "dynamic_gap",
            gap("learned", form="paper", solver="hessian", damping=0.01, iterations=30),
        ),
        "learned, Neumann": (
            "dynamic_gap",
            gap("learned", form="paper", solver="neumann", damping=0.01, iterations=20),
        ),
        "learned, identity": ("dynamic_gap", gap("learned", form="paper", solver="identity")),
        "learned, tangent": ("dynamic_gap", gap("learned", form="paper", solver="tangent")),
        "learned, every 4 steps": ("dynamic_gap", gap("learned", form="paper", every=4, **WHOLE)),
        "learned, large steps": ("dynamic_gap", gap("learned", form="paper", eta=0.3, max_change=0.3, **WHOLE)),
        "learned, part of a batch": (
            "dynamic_gap",
            gap("learned", form="paper", solver="gauss_newton", damping=0.01, items=16, iterations=3, upper_batches=1),
        ),
        "learned, class": ("dynamic_gap", gap("learned", form="paper", matching="class", **WHOLE)),
        "control + learned": (both, gap("learned", form="additive", **WHOLE)),
        "trained upper, Gauss-Newton": ("dynamic_gap", gap("learned", form="paper", upper="train", **WHOLE)),
    }


def base_of(family: str, of: str) -> str:
    """What a family is compared with: plain or control, trained on the same items, and tuned where it is."""
    if family in SHIPPED and of == "control" and "learned" not in family:
        return "control, as shipped"
    return of + SPARED if "learned" in family or family.endswith(SPARED) else of


def score(row: Mapping[str, Any]) -> float:
    """What settings are chosen by: the holdout accuracy of the joint model."""
    return row["metrics"]["holdout"]["acc"]


# ---------------------------------------------------------------------------------------------- running
def catalogue() -> Any:
    from mmzoo.registry import read_entries
    from mmzoo.registry.plugins import catalogue as every

    found = every()
    if not found.has("datasets", "avdigits"):
        for entry in read_entries(HERE / "avdigits.yaml", "study"):
            found.add(entry)
    return found


def planned(dataset: str, method: str, settings: Mapping[str, Any], seeds: Sequence[int]) -> list[Any]:
    """The runs of one setting. `train.lr_factor` multiplies the data set's own rate; SPARE leaves out the slice."""
    import dataclasses

    from mmzoo.benchmark.planning.plan import make_plan
    from mmzoo.config.spec import BenchSpec

    # the strategy by itself, which is what these names meant when the settings were chosen
    method = "+".join(f"{m}_h" if m == "dynamic_gap" else m for m in method.split("+"))
    given = {
        k.replace("dynamic_gap.", "dynamic_gap_h.") if k.startswith("dynamic_gap.") else k: v
        for k, v in settings.items()
    }
    spare = given.pop(SPARE, False)
    if factor := given.pop("train.lr_factor", None):
        entry = catalogue().get("datasets", dataset.partition(":")[0])
        given["train.lr"] = entry.extra["training"]["default"]["lr"] * factor
    bench = BenchSpec(
        method=method, datasets=(dataset,), seeds=tuple(seeds), settings=tuple(given.items()), references=False
    )
    runs = make_plan(bench, catalogue()).runs
    return [dataclasses.replace(r, spec=dataclasses.replace(r.spec, spare_slice=spare)) for r in runs]


def work(item: tuple[Any, str]) -> dict[str, Any]:
    from mmzoo.benchmark.execution.runner import run_one
    from mmzoo.benchmark.results.store import Store

    return run_one(item[0], catalogue(), Store(Path(item[1])))


def run_all(runs: Sequence[Any], folder: Path, jobs: int) -> dict[str, dict[str, Any]]:
    """run_id -> row, with a word on the way every hundred runs."""
    unique = {r.spec.run_id: r for r in runs}
    rows: dict[str, dict[str, Any]] = {}
    with ProcessPoolExecutor(jobs) as pool:
        for row in pool.map(work, [(r, str(folder)) for r in unique.values()], chunksize=4):
            rows[row["run_id"]] = row
            if len(rows) % 100 == 0:
                print(f"  {len(rows)} of {len(unique)} runs", flush=True)
    return rows


# ---------------------------------------------------------------------------------------------- choosing
def choose(datasets: Sequence[str], names: Sequence[str], folder: Path, jobs: int) -> None:
    """The best of each family's settings on each data set, by holdout alone."""
    trials = {
        (d, name, i): planned(d, method, s, CHOOSING)
        for d in datasets
        for name, (method, settings) in families().items()
        if name in names
        for i, s in enumerate(settings)
    }
    assert all(len(s) == TRIALS for _, s in families().values())
    rows = run_all([r for runs in trials.values() for r in runs], folder, jobs)
    table = []
    for (dataset, name, i), runs in trials.items():
        ok = [rows[r.spec.run_id] for r in runs if rows[r.spec.run_id]["status"] == "ok"]
        table.append(
            {
                "dataset": dataset,
                "family": name,
                "settings": json.dumps(families()[name][1][i]),
                "holdout_acc": _mean([score(r) for r in ok]),
                "holdout_loss": _mean([r["metrics"]["holdout"]["loss"] for r in ok]),
                "probe": _probe(ok, "holdout"),
                "finished": len(ok),
            }
        )
    table = _merged(RESULTS / "choose.csv", table)
    (RESULTS / "chosen.json").write_text(json.dumps(_best(table), indent=1) + "\n", encoding="utf-8")


def _best(table: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """data set -> family -> the setting with the highest holdout accuracy, ties to the lower loss. One that diverges
    with any seed is not chosen."""
    chosen: dict[str, dict[str, Any]] = {}
    for row in table:
        found = {
            "method": families()[row["family"]][0],
            "settings": json.loads(row["settings"]),
            "holdout_acc": float(row["holdout_acc"]),
            "holdout_loss": float(row["holdout_loss"]),
        }
        best = chosen.setdefault(row["dataset"], {}).get(row["family"])
        rank = (found["holdout_acc"], -found["holdout_loss"])
        if int(row["finished"]) == len(CHOOSING) and (
            best is None or rank > (best["holdout_acc"], -best["holdout_loss"])
        ):
            chosen[row["dataset"]][row["family"]] = found
    return chosen


def _merged(path: Path, fresh: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table at `path` with its rows of these data sets and families replaced, written back in a fixed order."""
    kept = []
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            kept = list(csv.DictReader(file))
    done = {(r["dataset"], r["family"]) for r in fresh}
    rows = [*(r for r in kept if (r["dataset"], r["family"]) not in done), *map(dict, fresh)]
    order = [*families(), *SHIPPED]
    place = {name: i for i, name in enumerate(order)}
    rows.sort(key=lambda r: (DATASETS.index(r["dataset"]), place.get(r["family"], len(order))))
    _write_csv(path, rows)
    return rows


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else float("nan")


def _probe(rows: Sequence[Mapping[str, Any]], split: str) -> float:
    """Mean over seeds of the mean probe accuracy of the branches."""
    return _mean([m["probe"]["acc"] for r in rows for m in r["metrics"][split]["modalities"].values()])


# ---------------------------------------------------------------------------------------------- confirming
def confirm(datasets: Sequence[str], names: Sequence[str], folder: Path, jobs: int) -> None:
    """Test scores of what was chosen, on seeds that the choice never saw, once."""
    chosen = json.loads((RESULTS / "chosen.json").read_text(encoding="utf-8"))
    runs = {
        (d, name): planned(d, c["method"], c["settings"], CONFIRMING)
        for d in datasets
        for name, c in chosen[d].items()
        if name in names
    } | {
        (d, name): planned(d, method, {}, CONFIRMING)
        for d in datasets
        for name, method in SHIPPED.items()
        if name in names
    }
    alone = {d: planned(d, "unimodal", {}, CONFIRMING) for d in datasets if UNIMODAL in names}
    rows = run_all([r for part in (*runs.values(), *alone.values()) for r in part], folder, jobs)
    table = _merged(
        RESULTS / "confirm.csv",
        [_flat(d, name, rows[r.spec.run_id]) for (d, name), part in runs.items() for r in part]
        + [_flat(d, f"{ALONE}{r.modality}", rows[r.spec.run_id]) for d, part in alone.items() for r in part],
    )
    found = [d for d in DATASETS if any(r["dataset"] == d for r in table)]
    text = "\n".join(_table(d, [r for r in table if r["dataset"] == d and r["status"] == "ok"]) for d in found)
    (RESULTS / "confirm.md").write_text(text, encoding="utf-8")
    print(text)


def _flat(dataset: str, family: str, row: Mapping[str, Any]) -> dict[str, Any]:
    m = row["metrics"]
    flat = {"dataset": dataset, "family": family, "seed": row["seed"], "status": row["status"], "run_id": row["run_id"]}
    if row["status"] == "ok":
        flat |= {k: m[k] for k in ("acc", "macro_f1", "map", "selected_epoch")} | {"last_acc": m["last"]["acc"]}
        flat |= {f"{b}.{w}": m["modalities"][b][w]["acc"] for b in m["modalities"] for w in ("own", "probe")}
        flat |= {
            "seconds": round(row["timing"]["seconds"], 3),
            "forward": row["cost"]["forward"],
            "backward": row["cost"]["backward"],
            "holdout_acc": m["holdout"]["acc"],
        }
    return flat


def _table(dataset: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy and mean branch probe of each family, and their paired differences to the control over seeds."""
    alone = [r for r in rows if r["family"].startswith(ALONE)]
    joint = [r for r in rows if r not in alone]
    known = [f for f in (*families(), *SHIPPED) if any(r["family"] == f for r in joint)]
    by = {f: [r for r in joint if r["family"] == f] for f in known}
    branches = [f.removeprefix(ALONE) for f in dict.fromkeys(r["family"] for r in alone)]
    weak = _weak(alone, branches)
    acc = {f: {str(r["seed"]): float(r["acc"]) for r in part} for f, part in by.items()}
    probe = {
        f: {str(r["seed"]): _mean([float(r[f"{b}.probe"]) for b in branches]) for r in part} for f, part in by.items()
    }
    branch = {f: {str(r["seed"]): float(r[f"{weak}.probe"]) for r in part} for f, part in by.items()}
    own = {f: {str(r["seed"]): float(r[f"{weak}.own"]) for r in part} for f, part in by.items()}
    base = {f: acc[base_of(f, "control")] for f in acc}
    p = _holm(
        {f: _sign_flip([acc[f][s] - base[f][s] for s in acc[f] if s in base[f]]) for f in acc if base[f] is not acc[f]}
    )
    lines = [
        f"## {dataset}",
        "",
        "Alone: "
        + ", ".join(f"{b} {_pm([float(r['acc']) for r in alone if r['family'] == ALONE + b])}" for b in branches)
        + f". Weak branch: {weak}.",
        "",
        "| family | ACC | to plain | to control | p (Holm) | mean probe | to control | weak own | weak probe | to control |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for f in acc:
        cells = [
            _pm(list(acc[f].values())),
            _delta(acc, f, "plain"),
            _delta(acc, f, "control"),
            p.get(f, "–"),  # noqa: RUF001
            _pm(list(probe[f].values())),
            _delta(probe, f, "control"),
            _pm(list(own[f].values())),
            _pm(list(branch[f].values())),
            _delta(branch, f, "control"),
        ]
        lines.append(f"| {f} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _weak(alone: Sequence[Mapping[str, Any]], branches: Sequence[str]) -> str:
    """The modality that reaches least alone, by holdout."""
    by = {b: _mean([float(r["holdout_acc"]) for r in alone if r["family"] == ALONE + b]) for b in branches}
    return min(by, key=lambda b: by[b])


def _pm(values: Sequence[float]) -> str:
    return f"{100 * statistics.fmean(values):.1f} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else "–"  # noqa: RUF001


def _delta(by: Mapping[str, Mapping[int, float]], family: str, to: str) -> str:
    to = base_of(family, to)
    if family == to:
        return "–"  # noqa: RUF001
    d = [by[family][s] - by[to][s] for s in by[family] if s in by[to]]
    return f"{100 * statistics.fmean(d):+.1f} ± {100 * statistics.stdev(d):.1f}"


def _sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p of the exact permutation of signs."""
    seen = abs(sum(differences)) - 1e-12
    flips = list(itertools.product((1, -1), repeat=len(differences)))
    return sum(abs(sum(s * d for s, d in zip(signs, differences))) >= seen for signs in flips) / len(flips)


def _holm(p: Mapping[str, float]) -> dict[str, str]:
    """Adjusted over the families of one data set."""
    adjusted, worst = {}, 0.0
    for rank, (family, value) in enumerate(sorted(p.items(), key=lambda kv: kv[1])):
        worst = max(worst, min(1.0, value * (len(p) - rank)))
        adjusted[family] = f"{worst:.3f}"
    return adjusted


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(k for r in rows for k in r))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=("choose", "confirm", "all"))
    parser.add_argument("--datasets", default=",".join(DATASETS))
    parser.add_argument("--families", help="names separated by semicolons (default: all); the others keep their rows")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--runs", type=Path, default=Path.home() / ".cache" / "mmzoo-study")
    arguments = parser.parse_args()
    datasets = arguments.datasets.split(",")
    if "avdigits" in datasets and not os.environ.get("MMZOO_AVDIGITS"):
        print("avdigits is left out: set MMZOO_AVDIGITS to its folder (benchmarks/avdigits.py).")
        datasets.remove("avdigits")
    known = [*families(), *SHIPPED, UNIMODAL]
    names = known if arguments.families is None else arguments.families.split(";")
    if unknown := set(names) - set(known):
        parser.error(f"no families {sorted(unknown)}; there are: {'; '.join(known)}")
    if arguments.phase in ("choose", "all"):
        choose(datasets, names, arguments.runs, arguments.jobs)
    if arguments.phase in ("confirm", "all"):
        confirm(datasets, names, arguments.runs, arguments.jobs)


if __name__ == "__main__":
    main()

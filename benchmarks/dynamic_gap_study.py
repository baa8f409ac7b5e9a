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
Candidate = tuple[str, tuple[tuple[str, Any], ...]]


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
    return [{"dynamic_gap.schedule": "constant", "dynamic_gap.matching": matching, "dynamic_gap.form": f, "dynamic_gap.alpha": a}
            for f, a in itertools.product(("paper", "additive"), (0.1, 0.3, 0.5))]  # fmt: skip


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
        "constant, KL to mean": ("dynamic_gap", logits("kl_to_mean")),
        "control + constant": (both, gap("constant", form="additive")),
        "control + heuristic": (both, gap("heuristic")),
        f"plain{SPARED}": ("concat", [{**r, SPARE: True} for r in rates]),
        f"control{SPARED}": ("joint_unimodal", [{**w, SPARE: True} for w in weights]),
        "learned, Gauss-Newton": ("dynamic_gap", gap("learned", form="paper")),
        "learned, Hessian": ("dynamic_gap", gap("learned", form="paper", solver="hessian", iterations=30)),
        "learned, identity": ("dynamic_gap", gap("learned", form="paper", solver="identity")),
        "learned, tangent": ("dynamic_gap", gap("learned", form="paper", solver="tangent")),
        "control + learned": (both, gap("learned", form="additive")),
        "trained upper, Gauss-Newton": ("dynamic_gap", gap("learned", form="paper", upper="train")),
    }


def base_of(family: str, of: str) -> str:
    """What a family is compared with: plain or control, trained on the same items."""
    return of + SPARED if "learned" in family or family.endswith(SPARED) else of


def score(row: Mapping[str, Any]) -> float:
    """What settings are chosen by: the holdout accuracy of the joint model."""
    return row["metrics"]["holdout"]["acc"]


# ---------------------------------------------------------------------------------------------- running
def catalogue() -> Any:
    from mmzoo.catalogue import read_entries
    from mmzoo.plugins import catalogue as every

    found = every()
    if not found.has("datasets", "avdigits"):
        for entry in read_entries(HERE / "avdigits.yaml", "study"):
            found.add(entry)
    return found


def planned(dataset: str, method: str, settings: Mapping[str, Any], seeds: Sequence[int]) -> list[Any]:
    """The runs of one setting. `train.lr_factor` multiplies the data set's own rate; SPARE leaves out the slice."""
    import dataclasses

    from mmzoo.bench.plan import make_plan
    from mmzoo.config import BenchSpec

    given = dict(settings)
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
    from mmzoo.bench.runner import run_one
    from mmzoo.bench.store import Store

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
def choose(datasets: Sequence[str], folder: Path, jobs: int) -> None:
    """The best of each family's settings on each data set, by holdout alone."""
    trials = {(d, name, i): planned(d, method, s, CHOOSING) for d in datasets for name, (method, settings) in families().items()
              for i, s in enumerate(settings)}  # fmt: skip
    assert all(len(s) == TRIALS for _, s in families().values())
    rows = run_all([r for runs in trials.values() for r in runs], folder, jobs)
    table, chosen = [], {}
    for (dataset, name, i), runs in trials.items():
        method, settings = families()[name]
        ok = [rows[r.spec.run_id] for r in runs if rows[r.spec.run_id]["status"] == "ok"]
        whole = len(ok) == len(CHOOSING)  # a setting that diverges with any seed is not chosen
        mean = statistics.fmean(map(score, ok)) if whole else float("nan")
        loss = statistics.fmean(r["metrics"]["holdout"]["loss"] for r in ok) if whole else float("nan")
        table.append({"dataset": dataset, "family": name, "settings": json.dumps(settings[i]), "holdout_acc": mean,
                      "holdout_loss": loss, "probe": _probe(ok, "holdout"), "finished": len(ok)})  # fmt: skip
        best = chosen.setdefault(dataset, {}).get(name)
        if whole and (best is None or (mean, -loss) > (best["holdout_acc"], -best["holdout_loss"])):
            chosen[dataset][name] = {
                "method": method,
                "settings": settings[i],
                "holdout_acc": mean,
                "holdout_loss": loss,
            }
    RESULTS.mkdir(parents=True, exist_ok=True)
    _write_csv(RESULTS / "choose.csv", table)
    (RESULTS / "chosen.json").write_text(json.dumps(chosen, indent=1) + "\n", encoding="utf-8")


def _probe(rows: Sequence[Mapping[str, Any]], split: str | None) -> float:
    """Mean over seeds of the mean probe accuracy of the branches."""
    each = [(r["metrics"][split] if split else r["metrics"])["modalities"] for r in rows]
    return statistics.fmean(m["probe"]["acc"] for e in each for m in e.values()) if each else float("nan")


# ---------------------------------------------------------------------------------------------- confirming
def confirm(datasets: Sequence[str], folder: Path, jobs: int) -> None:
    """Test scores of what was chosen, on seeds that the choice never saw, once."""
    chosen = json.loads((RESULTS / "chosen.json").read_text(encoding="utf-8"))
    runs = {
        (d, name): planned(d, c["method"], c["settings"], CONFIRMING) for d in datasets for name, c in chosen[d].items()
    }
    alone = {d: planned(d, "unimodal", {}, CONFIRMING) for d in datasets}
    rows = run_all([r for part in (*runs.values(), *alone.values()) for r in part], folder, jobs)
    _write_csv(RESULTS / "confirm.csv", [_flat(d, name, rows[r.spec.run_id]) for (d, name), part in runs.items() for r in part]
               + [_flat(d, f"alone: {r.modality}", rows[r.spec.run_id]) for d, part in alone.items() for r in part])  # fmt: skip
    text = "\n".join(_table(d, {n: [rows[r.spec.run_id] for r in part] for (dd, n), part in runs.items() if dd == d},
                            [rows[r.spec.run_id] for r in alone[d]]) for d in datasets)  # fmt: skip
    (RESULTS / "confirm.md").write_text(text, encoding="utf-8")
    print(text)


def _flat(dataset: str, family: str, row: Mapping[str, Any]) -> dict[str, Any]:
    m = row["metrics"]
    flat = {"dataset": dataset, "family": family, "seed": row["seed"], "status": row["status"], "run_id": row["run_id"]}
    if row["status"] == "ok":
        flat |= {k: m[k] for k in ("acc", "macro_f1", "map", "selected_epoch")} | {"last_acc": m["last"]["acc"]}
        flat |= {f"{b}.{w}": m["modalities"][b][w]["acc"] for b in m["modalities"] for w in ("own", "probe")}
        flat |= {"seconds": round(row["timing"]["seconds"], 3), "forward": row["cost"]["forward"],
                 "backward": row["cost"]["backward"]}  # fmt: skip
    return flat


def _table(dataset: str, by_family: Mapping[str, Sequence[Any]], alone: Sequence[Any]) -> str:
    """Accuracy and mean branch probe of each family, and their paired differences to the control over seeds."""
    acc = {f: {r["seed"]: r["metrics"]["acc"] for r in rows if r["status"] == "ok"} for f, rows in by_family.items()}
    probe = {f: {r["seed"]: _probe([r], None) for r in rows if r["status"] == "ok"} for f, rows in by_family.items()}
    weak = _weak(alone)
    branch = {f: {r["seed"]: r["metrics"]["modalities"][weak]["probe"]["acc"] for r in rows if r["status"] == "ok"}
              for f, rows in by_family.items()}  # fmt: skip
    own = {f: {r["seed"]: r["metrics"]["modalities"][weak]["own"]["acc"] for r in rows if r["status"] == "ok"}
           for f, rows in by_family.items()}  # fmt: skip
    base = {f: acc[base_of(f, "control")] for f in acc}
    p = _holm({f: _sign_flip([acc[f][s] - base[f][s] for s in acc[f]]) for f in acc if base[f] is not acc[f]})
    lines = [f"## {dataset}", "", "Alone: " + ", ".join(
        f"{m} {_pm([r['metrics']['acc'] for r in alone if r['modality'] == m])}"
        for m in dict.fromkeys(r["modality"] for r in alone)) + f". Weak branch: {weak}.", "",
        "| family | ACC | to plain | to control | p (Holm) | mean probe | to control | weak own | weak probe | to control |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    for f in acc:
        cells = [_pm(list(acc[f].values())), _delta(acc, f, "plain"), _delta(acc, f, "control"), p.get(f, "–"),  # noqa: RUF001
                 _pm(list(probe[f].values())), _delta(probe, f, "control"), _pm(list(own[f].values())),
                 _pm(list(branch[f].values())), _delta(branch, f, "control")]  # fmt: skip
        lines.append(f"| {f} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _weak(alone: Sequence[Any]) -> str:
    """The modality that reaches least alone, by holdout."""
    by = {m: statistics.fmean(r["metrics"]["holdout"]["acc"] for r in alone if r["modality"] == m)
          for m in {r["modality"] for r in alone}}  # fmt: skip
    return min(by, key=lambda m: by[m])


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
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--runs", type=Path, default=Path.home() / ".cache" / "mmzoo-study")
    arguments = parser.parse_args()
    datasets = arguments.datasets.split(",")
    if "avdigits" in datasets and not os.environ.get("MMZOO_AVDIGITS"):
        print("avdigits is left out: MMZOO_AVDIGITS does not name its folder.")
        datasets.remove("avdigits")
    if arguments.phase in ("choose", "all"):
        choose(datasets, arguments.runs, arguments.jobs)
    if arguments.phase in ("confirm", "all"):
        confirm(datasets, arguments.runs, arguments.jobs)


if __name__ == "__main__":
    main()

"""Which method to try first: candidates for `dynamic_gap`, one setting for all data sets, each with and without refit.

    python benchmarks/which_first.py choose    # seeds 0-4, validation scores only: results/which_first/choose.csv
    python benchmarks/which_first.py others    # seeds 0-4, validation: one setting for each method of others: others.csv
    python benchmarks/which_first.py confirm   # seeds 5-14, what was chosen and what it has to beat, test scores once
    python benchmarks/which_first.py tables    # the tables, from the committed rows

Every run trains `METHOD+refit`. It holds the scores of three methods: METHOD (the classifier as trained), METHOD+refit, and
METHOD+refit with `refit.keep_better` (validation decides between the two). Methods with a learned alpha train without the
meta set, and refit on it too. Runs are kept in --runs and not repeated. avdigits is left out unless MMZOO_AVDIGITS names
its folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from dynamic_gap_study import planned, run_all  # noqa: E402
from which_first_real import choice, real  # noqa: E402

RESULTS = HERE / "results" / "which_first"
CHOOSING, CONFIRMING = tuple(range(5)), tuple(range(5, 15))
DATASETS = (
    "mfeat",
    "mfeat:fou_mor",
    "mfeat:low_label",
    "map:content=0.6,hard=0",
    "map:content=0.6,hard=1",
    "map:content=0.3,context=0.3,hard=1",
    "avdigits",
    "openmoji",
    "sarcasm:mini",
    "twitter2015:mini",
    "cremad:mini",
    "nvgesture:mini",
    "kinetics_sounds:mini",
)
OURS = {"form": "additive", "unimodal": 1.0}
#: name -> method and what it changes of it. All candidates for `dynamic_gap` below plain and control.
CANDIDATES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "plain": ("concat", {}),
    "control": ("joint_unimodal", {}),
    "class": ("dynamic_gap_class", {}),
    "class, falling": ("dynamic_gap_class", {"schedule": "linear"}),
    "class, heavy control": ("dynamic_gap_class", {"unimodal": 2.0}),
    "items, control": ("dynamic_gap_const", OURS),
    "items, falling": ("dynamic_gap_linear", {}),
    "dynamic_gap_lb": ("dynamic_gap_lb", {}),
}
#: what the chosen one is confirmed beside
BESIDE = ("plain", "control")
#: methods of others, at their defaults
OTHERS = ("ogm", "pmr", "mla", "ogm_ge", "agm")
#: the settings that they choose from. OGM has chosen in dynamic_gap_study.py, on the same seeds and data sets, among six
GRID: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "pmr": [{"alpha": a} for a in (0.3, 1.0, 2.0, 3.0)],
    "mla": [{"projection": p} for p in ("owm", "released", "none")],
}
#: where they choose, as dynamic_gap's temperature and weights were chosen in dynamic_gap_study.py; openmoji is seen once
OTHERS_ON = ("mfeat", "mfeat:fou_mor", "mfeat:low_label", "avdigits")
FORMS = ("as trained", "refit", "keep better")


def named(method: str, setting: Mapping[str, Any]) -> str:
    return f"{method}, " + ", ".join(f"{k}={v}" for k, v in setting.items())


def settings() -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Every name that a table has: name -> method and what is changed of it."""
    others = {m: (m, {}) for m in OTHERS} | {named(m, s): (m, s) for m, grid in GRID.items() for s in grid}
    return {**CANDIDATES, **others}


def runs_of(dataset: str, name: str, seeds: Sequence[int]) -> list[Any]:
    method, params = settings()[name]
    return planned(dataset, f"{method}+refit", {f"{method}.{k}": v for k, v in params.items()}, seeds)


def forms(row: Mapping[str, Any], folder: Path) -> Iterator[dict[str, Any]]:
    """The scores of the three methods that one run holds: validation accuracy, test accuracy and the epoch."""
    m = row["metrics"]
    finish = m["finish"]
    lines = (folder / "runs" / row["run_id"] / "history.jsonl").read_text(encoding="utf-8").splitlines()
    trained = max(json.loads(line)["holdout"]["acc"] for line in lines)
    before = {"validation": trained, "test": finish["as_trained"]["acc"], "epoch": finish["as_trained"]["epoch"]}
    after = {"validation": m["holdout"]["acc"], "test": m["acc"], "epoch": m["selected_epoch"]}
    both = before if trained >= after["validation"] else after
    for form, scores in zip(FORMS, (before, after, both)):
        yield {"form": form, **scores}


def measured(datasets: Sequence[str], names: Sequence[str], seeds: Sequence[int], folder: Path, jobs: int) -> Any:
    """Lines of the table, data set after data set."""
    for dataset in datasets:
        runs = {name: runs_of(dataset, name, seeds) for name in names}
        rows = run_all([r for part in runs.values() for r in part], folder, jobs)
        for name, part in runs.items():
            for run in part:
                row = rows[run.spec.run_id]
                told = {"dataset": dataset, "method": name, "seed": row["seed"], "run_id": row["run_id"]}
                if row["status"] != "ok":
                    print(f"{dataset} {name} seed {row['seed']}: {row['status']}", flush=True)
                    continue
                yield from ({**told, **scores} for scores in forms(row, folder))
        print(f"done: {dataset}", flush=True)


def write(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """The table with the lines of these methods on these data sets replaced."""
    seen, kept = {(r["dataset"], r["method"]) for r in lines}, []
    if path.is_file():
        with path.open(encoding="utf-8", newline="") as file:
            kept = [r for r in csv.DictReader(file) if (r["dataset"], r["method"]) not in seen]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *lines])


def overview(lines: Sequence[Mapping[str, Any]], score: str) -> str:
    """One line a method and form that every data set has, sorted by mean rank over the data sets."""
    datasets = list(dict.fromkeys(r["dataset"] for r in lines))
    every = dict.fromkeys((r["method"], r["form"]) for r in lines)
    methods = [m for m in every if {r["dataset"] for r in lines if (r["method"], r["form"]) == m} == set(datasets)]
    mean: dict[Any, dict[str, float]] = {m: {} for m in methods}
    for m in methods:
        for d in datasets:
            values = [float(r[score]) for r in lines if (r["method"], r["form"], r["dataset"]) == (*m, d)]
            mean[m][d] = 100 * statistics.fmean(values) if values else float("nan")
    ranks = {
        m: statistics.fmean(
            1
            + sum(mean[o][d] > mean[m][d] for o in methods)
            + 0.5 * sum(mean[o][d] == mean[m][d] for o in methods)
            - 0.5
            for d in datasets
        )
        for m in methods
    }
    head = ["method", "form", *datasets, "mean rank"]
    text = ["| " + " | ".join(head) + " |", "|" + "---|" * 2 + "---:|" * (len(head) - 2)]
    for m in sorted(methods, key=ranks.__getitem__):
        text.append("| " + " | ".join([*m, *(f"{mean[m][d]:.1f}" for d in datasets), f"{ranks[m]:.2f}"]) + " |")
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("phase", choices=("choose", "others", "confirm", "tables"))
    parser.add_argument("--datasets", help="separated by semicolons")
    parser.add_argument("--methods", help="separated by semicolons")
    parser.add_argument("--runs", type=Path, default=Path.home() / ".cache" / "mmzoo-which-first")
    parser.add_argument("--jobs", type=int, default=1)
    given = parser.parse_args()
    if given.phase != "tables":
        asked = given.methods.split(";") if given.methods else []
        every = {"choose": list(CANDIDATES), "others": [named(m, s) for m, grid in GRID.items() for s in grid]}
        names = asked or every.get(given.phase, [*BESIDE, "class", *OTHERS])
        seeds = CONFIRMING if given.phase == "confirm" else CHOOSING
        asked_sets = given.datasets or ";".join(OTHERS_ON if given.phase == "others" else DATASETS)
        for dataset in asked_sets.split(";"):
            if dataset == "avdigits" and not os.environ.get("MMZOO_AVDIGITS"):
                print(
                    "avdigits is left out: set MMZOO_AVDIGITS to its folder (benchmarks/avdigits.py).",
                    flush=True,
                )
                continue
            lines = list(measured([dataset], names, seeds, given.runs, given.jobs))
            if given.phase != "confirm":  # test scores are nobody's business here
                lines = [{k: v for k, v in line.items() if k != "test"} for line in lines]
            write(RESULTS / f"{given.phase}.csv", lines)
    tables()


def tables() -> None:
    """Every table that the lines in results/which_first give."""
    for phase in ("choose", "confirm"):
        if lines := read_lines(phase):
            text = overview(lines, "validation" if phase == "choose" else "test")
            (RESULTS / f"{phase}.md").write_text(text, encoding="utf-8")
    if tried := read_lines("others"):
        (RESULTS / "others.md").write_text(choice(tried), encoding="utf-8")
    if scored := read_lines("confirm"):
        (RESULTS / "real.md").write_text(real(scored), encoding="utf-8")


def read_lines(phase: str) -> list[dict[str, str]]:
    path = RESULTS / f"{phase}.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()

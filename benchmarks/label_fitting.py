"""Who fits labels? Plain training, uniform labels and the 0.7/0.3 mix of the paper's Figure 1, modality by modality.

    python benchmarks/label_fitting.py        # writes results/label_fitting.md

Yang et al. (NeurIPS 2024) show each modality's accuracy when a joint model is trained on one-hot labels, on uniform ones,
and on a mix of both. Here: seeds 0 to 9, test accuracy of the joint model and of each modality, by its own logits and by
a linear probe of its encoder. Nothing is chosen. avdigits is left out unless MMZOO_AVDIGITS names its folder.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from dynamic_gap_study import _pm, planned, run_all  # noqa: E402

RESULTS = HERE / "results" / "label_fitting.md"
LABELS = {"one-hot": 1.0, "0.7 one-hot, 0.3 uniform": 0.7, "uniform": 0.0}
SEEDS = range(10)


def table(dataset: str, by_label: dict[str, list[Any]]) -> str:
    """One row a kind of label."""
    branches = list(next(iter(by_label.values()))[0]["metrics"]["modalities"])
    head = ["labels", "joint", *(f"{b} {w}" for b in branches for w in ("own", "probe"))]
    lines = [f"## {dataset}", "", f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for label, rows in by_label.items():
        cells = [_pm([r["metrics"]["acc"] for r in rows])]
        cells += [
            _pm([r["metrics"]["modalities"][b][w]["acc"] for r in rows]) for b in branches for w in ("own", "probe")
        ]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", default="mfeat,mfeat:fou_mor,avdigits")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--runs", type=Path, default=Path.home() / ".cache" / "mmzoo-study")
    given = parser.parse_args()
    texts = ["Test accuracy in %, mean ± deviation over seeds 0 to 9; made by benchmarks/label_fitting.py.\n"]
    for dataset in given.datasets.split(","):
        if dataset == "avdigits" and not os.environ.get("MMZOO_AVDIGITS"):
            print("avdigits is left out: set MMZOO_AVDIGITS to its folder (benchmarks/avdigits.py).")
            continue
        runs = {k: planned(dataset, "label_fitting", {"label_fitting.one_hot": x}, SEEDS) for k, x in LABELS.items()}
        rows = run_all([r for part in runs.values() for r in part], given.runs, given.jobs)
        texts.append(table(dataset, {k: [rows[r.spec.run_id] for r in part] for k, part in runs.items()}))
    RESULTS.write_text("\n".join(texts), encoding="utf-8")
    print("\n".join(texts))


if __name__ == "__main__":
    main()

"""`mmzoo runs`: list the finished runs of a results folder, one per line.

Read-only. No torch at import.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from mmzoo.cli.compare import rows_of

FILTERS = ("dataset", "method", "status")


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("runs", help="list the finished runs of a folder, one per line")
    parser.add_argument("folder", metavar="DIR", help="the folder given to bench as --out")
    for name in FILTERS:
        parser.add_argument(f"--{name}", metavar="TEXT", help=f"only runs whose {name} contains TEXT")
    parser.add_argument("--seed", type=int, metavar="N", help="only runs with this seed")
    parser.add_argument("--sort", choices=("dataset", "score", "seconds"), default="dataset", help="(default: dataset)")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    from mmzoo.benchmark.reporting.tables import DASH, Cell, Table
    from mmzoo.benchmark.reporting.terminal import show

    found = rows_of(arguments.folder, facts, "scores")
    found = [f for f in found if _wanted(f, arguments)]
    keys = {
        "dataset": lambda f: (f["dataset"], f["method"], f["seed"]),
        "score": _by("score"),
        "seconds": _by("seconds"),
    }
    found.sort(key=keys[arguments.sort])
    if arguments.json:
        for fact in found:
            print(json.dumps(fact))
        return 0
    header = ["run", "data set", "method", "seed", "status", "score", "epoch", "seconds"]
    table = Table(f"{len(found)} runs", header, priority=[0, 0, 0, 0, 2, 0, 3, 4], words=3)
    for f in found:
        score = DASH if f["score"] is None else f"{100 * f['score']:.1f}"
        epoch = DASH if f["epoch"] is None else str(f["epoch"])
        seconds = DASH if f["seconds"] is None else f"{f['seconds']:.1f}"
        texts = (f["run"], f["dataset"], f["method"], str(f["seed"]), f["status"], score, epoch, seconds)
        table.body.append([Cell(text) for text in texts])
    show([table], sys.stdout)
    return 0


def facts(row: dict[str, Any]) -> dict[str, Any]:
    """The fields of one line of the listing."""
    metrics = row.get("metrics", {})
    return {
        "run": row["run_id"],
        "dataset": row["dataset"],
        "method": row["label"],
        "seed": row["seed"],
        "status": row["status"],
        "score": metrics.get(metrics.get("main_metric", ""), None),
        "metric": metrics.get("main_metric"),
        "epoch": metrics.get("selected_epoch"),
        "seconds": row.get("timing", {}).get("seconds"),
        "reason": row["reason"],
    }


def _wanted(fact: dict[str, Any], arguments: argparse.Namespace) -> bool:
    texts = all(getattr(arguments, name) is None or getattr(arguments, name) in fact[name] for name in FILTERS)
    return texts and (arguments.seed is None or fact["seed"] == arguments.seed)


def _by(name: str) -> Any:
    """Sort key: highest value first, runs without a value last."""
    return lambda fact: -fact[name] if fact[name] is not None else float("inf")

"""Weights & Biases runs, kept on disk unless the user asks for more."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from mmzoo.trackers.base import Tracker, scalars


class WandB(Tracker):
    """One run of Weights & Biases for each run, offline, in `wandb` below TARGET or else below the folder of the results.

    Nothing is sent: `wandb sync DIR/wandb/offline-run-*` uploads it. Where WANDB_MODE is set it is respected, as are
    WANDB_PROJECT (default: mmzoo) and WANDB_ENTITY. Code, console and machine are not recorded.
    """

    def __init__(self, target: str | None, folder: Path, run: Mapping[str, Any]) -> None:
        root = Path(target) if target else folder
        root.mkdir(parents=True, exist_ok=True)
        settings = wandb.Settings(
            console="off", silent=True, save_code=False, disable_git=True, x_disable_stats=True, x_disable_meta=True
        )
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        self._run = wandb.init(
            dir=str(root),
            mode=mode,
            project=os.environ.get("WANDB_PROJECT", "mmzoo"),
            name=f"{run['dataset']} {run['label']} seed{run['seed']}",
            group=f"{run['dataset']} {run['label']}",
            config={"run_id": run["run_id"], "seed": run["seed"], **run["spec"]},
            reinit="create_new",  # several runs may live in one process
            settings=settings,
        )

    def epoch(self, record: Mapping[str, Any]) -> None:
        values = {name: value for part in ("train", "holdout") for name, value in scalars(record[part], part)}
        self._run.log(values, step=record["epoch"])

    def end(self, row: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(scalars(row["metrics"], "test")))
        self._run.summary.update({"status": row["status"], "reason": row["reason"]})
        self._run.finish(exit_code=0 if row["status"] == "ok" else 1)

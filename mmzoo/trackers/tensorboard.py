"""TensorBoard event files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from mmzoo.trackers.base import Tracker, scalars


class TensorBoard(Tracker):
    """Writes one TensorBoard log folder per run, below TARGET or else `tensorboard` in the results folder.

    Scalars `train/...` and `holdout/...` by epoch, `test/...` at the selected epoch, and the spec as text.

    Args:
        target: the parent folder; None: `tensorboard` in the results folder.
        folder: the results folder.
        run: the row as known before training.
    """

    def __init__(self, target: str | None, folder: Path, run: Mapping[str, Any]) -> None:
        root = Path(target) if target else folder / "tensorboard"
        # Labels come from outside: as folder names they may not lead elsewhere.
        named = [re.sub(r"[^\w+@=,-]+", "_", str(run[key])) for key in ("dataset", "label")]
        self._writer = SummaryWriter(str(root.joinpath(*named, f"seed{run['seed']}-{run['run_id']}")))
        self._writer.add_text("spec", f"```\n{json.dumps(run['spec'], indent=1, sort_keys=True)}\n```")

    def epoch(self, record: Mapping[str, Any]) -> None:
        for part in ("train", "holdout"):
            for name, value in scalars(record[part], part):
                self._writer.add_scalar(name, value, record["epoch"])
        self._writer.flush()

    def end(self, row: Mapping[str, Any]) -> None:
        for name, value in scalars(row["metrics"], "test"):
            self._writer.add_scalar(name, value, row["metrics"]["selected_epoch"])
        self._writer.add_text("status", f"{row['status']} {row['reason']}".strip())
        self._writer.close()

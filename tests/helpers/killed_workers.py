"""Workers that are killed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import result_files
from helpers.result_files import lasting


def rows_of(folder: Path) -> dict[str, dict[str, Any]]:
    return {run: lasting(row) for run, row in result_files.rows_of(folder).items()}


def stop_after(epochs: int) -> Callable[[int, int], None]:
    def stop(done: int, of: int) -> None:
        if done == epochs:
            raise KeyboardInterrupt

    return stop
